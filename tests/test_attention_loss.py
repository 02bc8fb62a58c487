"""Losses at test time: their values and gradients against slow twins, what they move, and what they leave as it is."""

import math

import diffusers
import numpy as np
import pytest
import torch
from naive import full_matrix
from scipy.spatial.distance import jensenshannon
from small_pipelines import small_pipeline
from test_editing_pipelines import kontext

from mmdit_probe import AttentionLoss, Bypass, I2TMaps, Knockout, Probe, RegionMass
from mmdit_probe.attention.intercept import Interceptor, active_probes
from mmdit_probe.probe import SubjectMaps
from mmdit_probe.probe.subject_losses import LOSSES, apart, divergence, excite

CALL = {"num_inference_steps": 3, "guidance_scale": 3.0, "max_sequence_length": 2, "output_type": "latent"}
PROMPT, SUBJECTS = "a red circle and a blue half moon on grass", ["red circle", "blue half moon"]


def generate(pipe, prompt=PROMPT, seed=0, **more):
    prompts = [prompt] if isinstance(prompt, str) else prompt
    generator = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
    return pipe(prompts, generator=generator, **{**CALL, **more}).images


def maps_of(*sizes, grid=(4, 6), seed=0):
    noise = torch.Generator().manual_seed(seed)
    subjects = [torch.rand(size, *grid, generator=noise, dtype=torch.float64) ** 4 / 20 for size in sizes]
    return SubjectMaps(subjects, sum(own.sum(0) for own in subjects) + 0.01)


def smooth(one):
    """Mean of the up to nine positions around each."""
    rows, cols = one.shape
    around = [[one[max(0, r - 1) : r + 2, max(0, c - 1) : c + 2].mean() for c in range(cols)] for r in range(rows)]
    return np.array(around)


def twin_apart(maps):
    groups = [[smooth(token.numpy()).ravel() ** 3 for token in own] for own in maps.subjects]
    groups = [[token / token.sum() for token in own] for own in groups]

    def js(tokens):
        if len(tokens) == 2:
            return jensenshannon(*tokens) ** 2 / math.log(2)
        mean = np.mean(tokens, 0)
        return np.mean([(p * np.log(p / mean)).sum() for p in tokens]) / math.log(len(tokens))

    within = np.mean([js(own) if len(own) > 1 else 0 for own in groups])
    return (within + 1 - js([np.mean(own, 0) for own in groups])) / 2


def twin_excite(maps):
    shares = [np.mean([token.numpy() / maps.prompt.numpy() for token in own], 0) for own in maps.subjects]
    return 1 - min(smooth(share).max() for share in shares)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (4, 1, 2)])
def test_losses_equal_their_formulas(sizes):
    maps = maps_of(*sizes)
    assert apart(maps).item() == pytest.approx(twin_apart(maps), abs=1e-9)
    assert excite(maps).item() == pytest.approx(twin_excite(maps), abs=1e-9)


def test_losses_go_frame_by_frame():
    still, moving = maps_of(2, 1, grid=(3, 4)), maps_of(2, 1, grid=(3, 4), seed=1)
    both = SubjectMaps(
        [torch.stack(pair, 1) for pair in zip(still.subjects, moving.subjects, strict=True)],
        torch.stack([still.prompt, moving.prompt]),
    )
    assert excite(both).item() <= min(excite(still).item(), excite(moving).item()) + 1e-12
    assert 0 <= apart(both) <= 1


def test_a_divergence_is_0_for_equal_and_1_for_disjoint_maps():
    eye = torch.eye(3, dtype=torch.float64)
    assert divergence(eye).item() == pytest.approx(1)
    assert divergence(eye[:1].expand(3, -1)).item() == pytest.approx(0)


def test_subjects_that_are_told_apart_have_no_loss_and_those_that_coincide_half():
    left, right = torch.zeros(2, 4, 8)
    left[:, :2] = right[:, 5:] = 0.3
    assert apart(SubjectMaps([left[None], right[None]], left + right)).item() == pytest.approx(0, abs=1e-6)
    assert apart(SubjectMaps([left[None], left[None]], left)).item() == pytest.approx(0.5)
    assert excite(SubjectMaps([left[None]], left)).item() == pytest.approx(0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_where_maps_are_zero(name):
    subjects = torch.zeros(2, 1, 4, 4)
    subjects[0, 0, 0, 0] = 1e-20
    subjects.requires_grad_(True)
    LOSSES[name](SubjectMaps(list(subjects), subjects.sum((0, 1)))).backward()
    assert subjects.grad.isfinite().all()


def seen_by(moved):
    """What the reader is asked at the first step: the call, its arguments and rows."""
    asked, plain = [], moved.reader.losses

    def losses(*given):
        asked.append(given)
        return plain(*given)

    moved.reader.losses = losses
    with moved:
        generate(moved.pipe)
    moved.reader.losses = plain
    return asked[0]


def loss_at(moved, asked, latents):
    call, given, rows = asked
    with Probe(moved.pipe, []) as probe:  # what AttentionLoss has open
        moved.reader.probe, before = probe, moved.reader.probe
        probe.layers = before.layers
        try:
            return moved.reader.losses(call, {**given, "hidden_states": latents}, rows)
        finally:
            moved.reader.probe = before


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_equal_finite_differences(random_pipe, loss):
    """In double precision, along random directions."""
    moved = AttentionLoss(random_pipe, SUBJECTS, layers=[1, 2], loss=loss, steps=[0])
    call, given, rows = seen_by(moved)
    random_pipe.transformer.double()
    double = {
        name: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for name, x in given.items()
    }
    latents = double["hidden_states"].detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_at(moved, (call, double, rows), latents).sum(), latents)
    noise = torch.Generator().manual_seed(0)
    for _ in range(4):
        way = torch.randn(latents.shape, generator=noise, dtype=torch.float64)
        way = way + 3 * way.norm() * gradient / gradient.norm()
        with torch.no_grad():
            ahead, behind = (loss_at(moved, (call, double, rows), latents + step * way).sum() for step in (1e-5, -1e-5))
        assert ((ahead - behind) / 2e-5).item() == pytest.approx((gradient * way).sum().item(), rel=1e-5, abs=1e-12)


def test_probabilities_are_those_of_the_full_softmax(random_pipe):
    found = []

    def keep(maps):
        found.append(maps)
        return sum(own.sum() for own in maps.subjects)

    with AttentionLoss(random_pipe, SUBJECTS, layers=[0, 2], loss=keep, steps=[0], strength=1e-9):
        generate(random_pipe)
    full = []
    with Probe(random_pipe, [], edits=[Look([0, 2], steps=[0], seen=full)]):
        generate(random_pipe)
    layout, text = full[0].layout, full[0].text
    rows, columns = layout.image_queries, np.arange(layout.keys)[layout.text_keys]
    mean = sum(full_matrix(own.call)[1].mean(0)[rows] for own in full) / 2  # row 1 is the prompt's
    for word, own in zip(SUBJECTS, found[0].subjects, strict=True):
        twin = mean[:, columns[text.spelling(word)[1]]].T.unflatten(1, layout.grid)
        torch.testing.assert_close(own.double(), twin, atol=1e-6, rtol=0)
    prompt = mean[:, columns[text.is_prompt[1]]].sum(-1).view(layout.grid)
    torch.testing.assert_close(found[0].prompt.double(), prompt, atol=1e-6, rtol=0)


class Look(Knockout):
    """Keeps the calls that it sees."""

    def __init__(self, layer, seen, **where):
        super().__init__(layer, **where)
        self._seen = seen

    def apply(self, attention, output):
        if self.acts_at(attention.step):
            self._seen.append(attention)
        return output


def steps_of(pipe, make, **more):
    """What the scheduler's steps are given, and the image."""
    seen, plain = [], type(pipe.scheduler).step

    def step(self, model_output, timestep, sample, **options):
        seen.append((model_output.clone(), sample.clone()))
        return plain(self, model_output, timestep, sample, **options)

    kind = type("Watched", (type(pipe.scheduler),), {"step": step})
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    with make() as moved:
        image = generate(pipe, **more)
    return seen, image, moved


@pytest.mark.parametrize("normalize", [True, False])
def test_moves_are_the_equations(random_pipe, normalize):
    plain, _, _ = steps_of(random_pipe, lambda: Probe(random_pipe, []))
    gradients = []

    def make(moves):
        made = AttentionLoss(
            random_pipe, SUBJECTS, layers=[1], strength=0.3, moves=moves, normalize=normalize, steps=[0]
        )
        along = made._move
        made._move = lambda *given: gradients.append(along(*given)) or gradients[-1]
        return made

    velocity, _, _ = steps_of(random_pipe, lambda: make("velocity"))
    latents, _, _ = steps_of(random_pipe, lambda: make("latents"))
    gradient = gradients[0].gradient
    assert torch.equal(gradient, gradients[1].gradient)
    (v, x), rms = plain[0], lambda values: values.square().mean().sqrt()
    if normalize:
        assert rms(gradient).item() == pytest.approx(1, rel=1e-4)
    scale = [0.3 * (rms(own) if normalize else 1) for own in (v, x)]
    torch.testing.assert_close(velocity[0][0], v + scale[0] * gradient, atol=1e-6, rtol=1e-6)
    assert torch.equal(velocity[0][1], x)
    torch.testing.assert_close(latents[0][1], x - scale[1] * gradient, atol=1e-6, rtol=1e-6)
    assert not normalize or not torch.equal(latents[0][0], v)  # predicted at the moved latents


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("moves", ["velocity", "latents"])
def test_the_loss_falls(random_pipe, loss, moves):
    def last(strength):
        with AttentionLoss(random_pipe, SUBJECTS, layers=[1], loss=loss, moves=moves, strength=strength) as moved:
            generate(random_pipe)
        return moved.values[2].item()

    assert last(0.2) < last(1e-9)


def test_strength_zero_and_other_steps_change_no_bit(random_pipe):
    plain = generate(random_pipe)
    with AttentionLoss(random_pipe, SUBJECTS, strength=0) as moved:
        assert torch.equal(generate(random_pipe), plain)
    assert moved.values == {}
    with AttentionLoss(random_pipe, SUBJECTS, steps=[7]) as moved:
        assert torch.equal(generate(random_pipe), plain)
    given, _, _ = steps_of(random_pipe, lambda: Probe(random_pipe, []))
    late, image, moved = steps_of(random_pipe, lambda: AttentionLoss(random_pipe, SUBJECTS, steps=[1]))
    assert list(moved.values) == [1]
    assert torch.equal(late[0][0], given[0][0])
    assert torch.equal(late[1][1], given[1][1])
    assert not torch.equal(image, plain)
    assert torch.equal(generate(random_pipe), plain)


def test_prompts_of_a_batch_are_moved_each_by_its_own_loss(random_pipe):
    prompts = [PROMPT, "a blue half moon on snow and a red circle"]

    def run(prompt, seed=0):
        with AttentionLoss(random_pipe, SUBJECTS, layers=[0]) as moved:
            return generate(random_pipe, prompt, seed, num_inference_steps=2), moved.values[1]

    (images, values), (first, one), (second, two) = run(prompts), run(prompts[:1]), run(prompts[1:], 1)
    torch.testing.assert_close(images, torch.cat([first, second]), atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(values, np.concatenate([one, two]), atol=1e-4)


def test_other_probes_see_the_pipelines_own_call_alone(random_pipe):
    records = []
    for inside in (False, True):
        edits, steps = [Knockout(0, words=["red"]), Bypass(1)], [0] if inside else [9]
        with (
            Probe(random_pipe, [RegionMass(), I2TMaps()], edits=edits) as probe,
            AttentionLoss(random_pipe, SUBJECTS, layers=[1, 2], steps=steps),
        ):
            generate(random_pipe)
        records.append(probe.dataset("conditional"))
    assert records[0].sizes == records[1].sizes
    first = [record.isel(call=0).drop_vars("sigma", errors="ignore") for record in records]
    assert first[0].region_mass.equals(first[1].region_mass)
    assert first[0].i2t.equals(first[1].i2t)
    assert not records[0].i2t.equals(records[1].i2t)


def test_nothing_is_left_behind(random_pipe, monkeypatch):
    plain = generate(random_pipe)
    modules = list(random_pipe.transformer.modules())
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]
    with pytest.raises(KeyboardInterrupt), AttentionLoss(random_pipe, SUBJECTS, loss=interrupted):
        generate(random_pipe)
    assert "step" not in vars(random_pipe.scheduler)
    assert active_probes() == 0
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]
    assert torch.equal(generate(random_pipe), plain)
    assert torch.is_grad_enabled()
    assert all(weight.grad is None for weight in random_pipe.transformer.parameters())
    opened = []
    monkeypatch.setattr(Interceptor, "open", lambda self: opened.append(self))
    with pytest.raises(ValueError, match="open already"), AttentionLoss(random_pipe, SUBJECTS) as moved, moved:
        pass


def interrupted(maps):
    raise KeyboardInterrupt


OTHERS = {
    "flux": {},
    "flux2": {},
    "auraflow": {"guidance_scale": 3.0},
    "qwen-image": {"true_cfg_scale": 3.0},
    "z-image": {"guidance_scale": 3.0},
    "lumina2": {"guidance_scale": 3.0},
}


def other(name, context, **more):
    pipe = small_pipeline(name)
    options = {"height": 32, "width": 32, "max_sequence_length": 32, "num_inference_steps": 2, "output_type": "latent"}
    if OTHERS[name]:
        options["negative_prompt"] = ["sand"] * 2
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    with context(pipe) as moved:
        image = pipe(
            prompt=["a red circle and a heart", "grass, a heart, a red circle"],
            generator=seeds,
            **options,
            **OTHERS[name],
            **more,
        ).images
    return image, moved


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_moved(name):
    """Packed latents, lists of samples, predictions with their sign turned, negative prompts in calls of their own."""

    def at(strength, steps=None, moves="velocity"):
        return lambda pipe: AttentionLoss(pipe, ["circle", "heart"], strength=strength, steps=steps, moves=moves)

    plain, _ = other(name, lambda pipe: Probe(pipe, []))
    assert torch.equal(other(name, at(0.1, steps=[9]))[0], plain)
    _, still = other(name, at(1e-9))
    for moves in ("velocity", "latents"):
        image, moved = other(name, at(0.1, moves=moves))
        assert not torch.equal(image, plain)
        assert moved.values[0].shape == (2,)
        np.testing.assert_allclose(moved.values[0], still.values[0], atol=1e-6)
        assert moved.values[1].mean() < still.values[1].mean()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pipe: AttentionLoss(pipe, "red circle"), "subjects must be a list of words or phrases"),
        (lambda pipe: AttentionLoss(pipe, []), "subjects must be a list"),
        (lambda pipe: AttentionLoss(pipe, ["circle"]), "apart needs at least two subjects, got 1"),
        (lambda pipe: AttentionLoss(pipe, SUBJECTS, loss="far"), "loss must be apart, excite or a function, got 'far'"),
        (lambda pipe: AttentionLoss(pipe, SUBJECTS, moves="noise"), "moves must be velocity or latents"),
        (lambda pipe: AttentionLoss(pipe, SUBJECTS, strength=-1), "strength must be 0 or more, got -1"),
        (lambda pipe: AttentionLoss(pipe, SUBJECTS, layers=[7]), r"layers \[7\] do not exist"),
        (lambda pipe: AttentionLoss(pipe, SUBJECTS, layers=[]), "give at least one layer"),
    ],
)
def test_bad_settings_are_explained(random_pipe, make, message):
    with pytest.raises(ValueError, match=message):
        make(random_pipe)


def test_what_can_not_be_moved_is_explained(random_pipe, monkeypatch):
    def refused(message, subjects=SUBJECTS, run=generate, pipe=random_pipe, **settings):
        with pytest.raises(ValueError, match=message), AttentionLoss(pipe, subjects, **settings):
            run(pipe)

    refused("'lava' is not among the prompt's tokens", ["red circle", "lava"])
    refused("the loss must be a scalar tensor, got shape", loss=lambda maps: maps.prompt)
    refused("the loss must be a scalar tensor, got 3", loss=lambda maps: 3)
    with torch.inference_mode():
        refused("inference mode keeps no gradients")
    monkeypatch.setattr(random_pipe.scheduler, "step", lambda model_output, timestep, latents: None)
    refused("step takes no sample")
    monkeypatch.undo()
    pipe, run = kontext()
    refused(
        "does not give the transformer the scheduler's latents as they are", ["red", "heart"], lambda _: run(), pipe
    )
    random_pipe.scheduler = diffusers.DDIMScheduler(prediction_type="sample")
    refused("do not point from image to noise; take moves='latents'")


def test_a_pipeline_that_does_not_step_by_its_scheduler_is_refused(random_pipe):
    def by_itself(pipe):
        latents = torch.zeros(1, 16, 8, 8)
        channels = pipe.transformer.config.in_channels
        prompt, _, pooled, _ = pipe.encode_prompt(
            PROMPT, None, None, max_sequence_length=2, do_classifier_free_guidance=False
        )
        arguments = {"encoder_hidden_states": prompt, "pooled_projections": pooled}
        for time in (900.0, 500.0):
            with torch.no_grad():
                pipe.transformer(hidden_states=latents[:, :channels], timestep=torch.tensor([time]), **arguments)

    with pytest.raises(ValueError, match="does not step by its scheduler"), AttentionLoss(random_pipe, SUBJECTS):
        by_itself(random_pipe)
