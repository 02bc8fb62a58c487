"""Training MAGNET on a small random pipeline: what it reads, what it changes, and that it resumes exactly."""

import itertools
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import in_two_processes, make_inputs, make_sd3

from mmdit_probe import JointAttention, Probe, TokenLayout, load_pipeline
from mmdit_probe.attention.kernels import AttentionCall
from mmdit_probe.configs import MAGNET_PRESETS, MagnetConfig
from mmdit_probe.magnet import training_loss
from mmdit_probe.magnet.checkpoint import Checkpoint
from mmdit_probe.magnet.i2t_logits import AttentionTap, MaskHead, head_logits, mean_logits, picked_logits
from mmdit_probe.magnet.lora import add_lora, without_lora
from mmdit_probe.magnet.losses import dice_loss, focal_loss
from mmdit_probe.magnet.matching import match_masks
from mmdit_probe.magnet.objective import Target, mask_loss
from mmdit_probe.magnet.sampler import noise_at
from mmdit_probe.magnet.tensorboard import tensorboard_writer
from mmdit_probe.magnet.trained_weights import TrainedWeights
from mmdit_probe.magnet.trainer import MagnetTrainer
from mmdit_probe.magnet.training_sets import open_training_set
from mmdit_probe.pipelines.forward import encode_images

CONFIG = MagnetConfig(steps=4, batch=2, warmup=1, rate=1e-3, save_every=2, layer=1, rank=2)
SCENES = open_training_set("scenes")


def random_attention(batch=2, heads=3, order="image-text"):
    layout = TokenLayout((3, 4), 5, order)
    query, key, value = (torch.randn(batch, heads, layout.tokens, 8, requires_grad=True) for _ in range(3))
    return JointAttention(AttentionCall(query, key, value), layout)


@pytest.mark.parametrize("order", ["image-text", "text-image"])
def test_logits_are_the_full_matrix_cut_to_image_rows_and_text_columns(order):
    attention = random_attention(order=order)
    layout = attention.layout
    full = attention.query @ attention.key.transpose(-1, -2) / 8**0.5
    scores = full[:, :, layout.image_slice, layout.text_slice].transpose(-1, -2).unflatten(-1, (3, 4))
    torch.testing.assert_close(head_logits(attention), scores)
    torch.testing.assert_close(mean_logits(attention), scores.mean(1))
    probs = full.softmax(-1)[:, :, layout.image_slice, layout.text_slice].transpose(-1, -2).unflatten(-1, (3, 4))
    torch.testing.assert_close(head_logits(attention, "probs").sigmoid(), probs)
    torch.testing.assert_close(mean_logits(attention, "probs").sigmoid(), probs.mean(1))


@pytest.mark.parametrize("read", ["scores", "probs"])
@pytest.mark.parametrize("logits", [mean_logits, head_logits])
def test_gradients_reach_queries_and_keys(logits, read):
    attention = random_attention()
    query, key = attention.query, attention.key
    weight = torch.randn(3, 4)
    (logits(attention, read) * weight).sum().backward()
    image = query.grad[:, :, attention.layout.image_slice]
    words = key.grad[:, :, attention.layout.text_slice]
    assert (image.abs().amax(-1) > 0).all()
    assert (words.abs().amax(-1) > 0).all()
    assert not query.grad[:, :, attention.layout.text_slice].any()  # text queries have no part in it


@pytest.mark.parametrize("read", ["scores", "probs"])
def test_picked_maps_are_those_of_all_with_the_same_gradients(read):
    heads, positions, weight = [0, 2, 2], [4, 1, 0], torch.randn(3, 3, 4)
    gradients = []
    attention = random_attention()
    for maps in (
        lambda: picked_logits(attention, 1, heads, positions, read),
        lambda: head_logits(attention, read)[1, heads, positions],
    ):
        found = maps()
        gradients.append([found, *torch.autograd.grad((found * weight).sum(), [attention.query, attention.key])])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_token_matching_compares_the_mean_of_a_names_tokens_with_its_mask():
    attention = random_attention()
    masks = torch.rand(3, 3, 4)
    targets = [Target(masks[:2], spans=[(1, 2), (3,)]), Target(masks[2:], spans=[(0, 4)])]
    maps = mean_logits(attention)
    expected = torch.stack([maps[0, 1:3].mean(0), maps[0, 3], (maps[1, 0] + maps[1, 4]) / 2])
    found = mask_loss(attention, targets, CONFIG)
    assert found.pairs == 3
    torch.testing.assert_close(found.dice, dice_loss(expected, masks))
    torch.testing.assert_close(found.focal, focal_loss(expected, masks))
    released = mask_loss(attention, targets, replace(CONFIG, released_focal=True))
    torch.testing.assert_close(released.focal, focal_loss(expected, masks, released=True))


def test_head_matching_pairs_the_maps_of_all_heads_and_positions_with_the_masks():
    attention = random_attention()
    masks = (torch.rand(3, 3, 4) > 0.5).float()
    config = replace(CONFIG, matching="head")
    targets = [Target(masks, positions=[1, 2, 4]), Target(masks[:0], positions=[1])]
    maps = head_logits(attention)[0, :, [1, 2, 4]]  # head, position
    flat = torch.stack([maps[head, position] for position in range(3) for head in range(3)])
    chosen, matched = match_masks(flat, masks)
    found = mask_loss(attention, targets, config)
    assert found.pairs == 3
    torch.testing.assert_close(found.dice, dice_loss(flat[chosen], masks[matched]))
    without = [Target(masks, positions=[1, 2])]  # other positions do not take part
    assert not torch.isclose(mask_loss(attention, without, config).dice, found.dice)


@pytest.mark.parametrize("matching", ["token", "head"])
def test_images_without_masks_cost_nothing(matching):
    attention = random_attention()
    nothing = Target(torch.zeros(0, 3, 4), positions=[1])
    found = mask_loss(attention, [nothing, nothing], replace(CONFIG, matching=matching))
    assert (found.focal.item(), found.dice.item(), found.pairs) == (0.0, 0.0, 0)
    (found.focal + found.dice).backward()
    assert not attention.query.grad.any()


@pytest.mark.parametrize("matching", ["token", "head"])
def test_the_mask_head_is_applied_to_the_maps(matching):
    attention, head = random_attention(), MaskHead(4)
    targets = [Target((torch.rand(1, 3, 4) > 0.5).float(), spans=[(2,)], positions=[2])]
    config = replace(CONFIG, matching=matching)
    with_head = mask_loss(attention, targets[:1], config, head)
    assert not torch.isclose(with_head.dice, mask_loss(attention, targets[:1], config).dice)
    with_head.dice.backward()
    assert all(weight.grad.abs().sum() > 0 for weight in head.parameters())


def test_the_tap_changes_nothing_and_gives_one_call():
    model, inputs = make_sd3(), make_inputs()
    plain = model(**inputs).sample
    tap = AttentionTap(1)
    with Probe(model, [], edits=[tap]):
        torch.testing.assert_close(model(**inputs).sample, plain, rtol=0, atol=0)
    assert tap.take().layer == 1
    with pytest.raises(ValueError, match="layer 1 has not run"):
        tap.take()


def train(folder, out, config=CONFIG, progress=None, data=SCENES):
    pipe = load_pipeline(str(folder))
    trainer = MagnetTrainer(pipe, data, config, out, "random")
    return trainer, trainer.run(progress)


@pytest.fixture(scope="module")
def trained(random_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("magnet") / "run"
    trainer, table = train(random_folder, out)
    return trainer, table, out


def test_only_the_lora_is_trained(trained, random_folder):
    trainer, table, _ = trained
    assert len(table) == CONFIG.steps
    before = load_pipeline(str(random_folder))
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        old = dict(getattr(before, part).named_parameters())
        for name, weight in getattr(trainer.pipe, part).named_parameters():
            if "lora" in name:
                assert weight.requires_grad
                assert weight.dtype == torch.float32
            else:
                assert not weight.requires_grad
                torch.testing.assert_close(weight, old[name.replace(".base_layer", "")], rtol=0, atol=0)
    halves = [weight for name, weight in trainer.transformer.named_parameters() if "lora_B" in name]
    assert len(halves) == 3 * 4  # four projections of the image stream in each of three layers
    assert all(weight.any() for weight in halves)


def sample(pipe):
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 1, "output_type": "latent", "max_sequence_length": 4}
    return pipe("a red circle", generator=generator, **options).images


def test_the_file_gives_the_trained_model_to_pipelines(trained, random_folder):
    trainer, _, out = trained
    loaded = load_pipeline(str(random_folder), lora=str(out))
    plain = sample(load_pipeline(str(random_folder)))
    torch.testing.assert_close(sample(loaded), sample(trainer.pipe))
    assert (sample(loaded) - plain).abs().max() > 1e-5
    with without_lora(loaded):
        torch.testing.assert_close(sample(loaded), plain)
    torch.testing.assert_close(sample(loaded), sample(trainer.pipe))


class Killed(Exception):
    pass


@pytest.mark.parametrize("options", [{}, {"ema": 0.5, "mask_head": True, "accumulate": 2, "matching": "head"}])
def test_a_killed_run_goes_on_as_if_nothing_had_been(options, random_folder, tmp_path):
    config = replace(CONFIG, **options)
    _, whole = train(random_folder, tmp_path / "whole", config)

    def kill(done, total, row):
        if done == 3:  # one step after the checkpoint
            raise Killed

    with pytest.raises(Killed):
        train(random_folder, tmp_path / "killed", config, kill)
    assert not (tmp_path / "killed" / "pytorch_lora_weights.safetensors").exists()
    with (tmp_path / "killed" / "losses.csv").open("a") as lines:
        lines.write("3,0.5")  # a row that a kill cut short
    steps = []
    _, resumed = train(random_folder, tmp_path / "killed", config, lambda done, total, row: steps.append(done))
    assert steps == [3, 4]
    np.testing.assert_allclose(resumed.to_numpy(), whole.to_numpy(), atol=1e-5)
    names = "whole", "killed"
    one, other = (load_weights(tmp_path / name) for name in names)
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight)


@pytest.mark.parametrize(
    ("owner", "place", "call", "left"),
    [(MagnetTrainer, "_losses", 4, [4]), (TrainedWeights, "_share_head", 3, [3, 4])],
)
def test_an_interrupt_keeps_the_steps_that_are_finished(owner, place, call, left, random_folder, tmp_path, monkeypatch):
    """While the fourth step is computed there are three; while weights are changed only the checkpoint holds."""
    _, whole = train(random_folder, tmp_path / "whole")
    original, calls = getattr(owner, place), itertools.count(1)

    def interrupted(self, *arguments):
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(owner, place, interrupted)
        train(random_folder, tmp_path / "stopped")
    steps = []
    _, resumed = train(random_folder, tmp_path / "stopped", progress=lambda done, total, row: steps.append(done))
    assert steps == left
    np.testing.assert_allclose(resumed.to_numpy(), whole.to_numpy(), atol=1e-5)


def load_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "pytorch_lora_weights.safetensors")


def test_a_finished_run_is_not_trained_again(trained, random_folder):
    _, table, out = trained
    _, again = train(random_folder, out, progress=lambda *_: pytest.fail("trained again"))
    np.testing.assert_allclose(
        again.to_numpy(), table.to_numpy(), rtol=1e-12
    )  # old pandas reads to the last digit but one


def test_a_folder_of_other_settings_and_a_damaged_checkpoint_are_refused(trained, random_folder, tmp_path):
    _, _, out = trained
    with pytest.raises(ValueError, match=r"holds a run with other settings \(rate\)"):
        train(random_folder, out, replace(CONFIG, rate=2e-3))
    (tmp_path / "checkpoint.pt").write_bytes(b"no zip file")
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged; delete it"):
        Checkpoint(tmp_path).load()


def test_a_mask_weight_of_zero_is_a_plain_lora(random_folder, tmp_path):
    """The mask loss is logged but moves nothing: its weights are the same whatever its parts weigh."""
    tables = []
    for number, options in enumerate(({"dice_weight": 5.0}, {"focal_weight": 3.0})):
        config = replace(CONFIG, mask_weight=0.0, steps=2, **options)
        tables.append(train(random_folder, tmp_path / str(number), config)[1])
    np.testing.assert_array_equal(tables[0].to_numpy(), tables[1].to_numpy())
    assert (tables[0]["loss"] == tables[0]["flow"]).all()
    assert (tables[0]["dice"] > 0).all()


def test_the_mask_loss_falls_where_it_is_trained_and_not_without(random_folder, tmp_path):
    """One image, nearly clean, the same noise in both runs."""
    config = replace(CONFIG, steps=12, batch=1, rate=5e-2, save_every=12, noise_mean=-6.0)
    one = replace(SCENES, count=1)
    weighted, plain = (
        train(random_folder, tmp_path / f"{weight}", replace(config, mask_weight=weight), data=one)[1]["dice"]
        for weight in (20.0, 0.0)
    )
    assert weighted[0] == plain[0]
    assert (weighted.tail(3) < plain.tail(3) - 0.03).all()


def test_checkpointed_gradients_are_the_same(random_folder, tmp_path):
    plain = train(random_folder, tmp_path / "plain", replace(CONFIG, steps=2))[1]
    spared = train(random_folder, tmp_path / "spared", replace(CONFIG, steps=2, gradient_checkpointing=True))[1]
    np.testing.assert_allclose(spared.to_numpy(), plain.to_numpy(), atol=1e-5)


def test_bf16_arithmetic(random_folder, tmp_path):
    pipe = load_pipeline(str(random_folder), dtype="bf16")
    config = replace(CONFIG, steps=2, mixed_precision="bf16")
    table = MagnetTrainer(pipe, SCENES, config, tmp_path / "half", "random").run()
    whole = train(random_folder, tmp_path / "whole", replace(CONFIG, steps=2))[1]
    np.testing.assert_allclose(table["flow"], whole["flow"], rtol=0.05)
    np.testing.assert_allclose(table["dice"], whole["dice"], rtol=0.05)
    lora = {name: w for name, w in pipe.transformer.named_parameters() if "lora" in name}
    assert {weight.dtype for weight in lora.values()} == {torch.float32}


def test_noise_levels_timesteps_and_targets_stay_fp32(monkeypatch, random_folder, tmp_path):
    """What a bf16 transformer is given and compared with is not rounded on the way, but for the noisy latents."""
    pipe = load_pipeline(str(random_folder), dtype="bf16")
    config = replace(CONFIG, steps=1, mixed_precision="bf16", mask_weight=0.0)
    trainer = MagnetTrainer(pipe, SCENES, config, tmp_path / "half", "random")
    seen, encoded = [], []
    pipe.transformer.register_forward_hook(lambda m, a, k, out: seen.append((k, out[0].detach())), with_kwargs=True)
    monkeypatch.setattr(
        training_loss, "encode_images", lambda *given: encoded.append(encode_images(*given)) or encoded[0]
    )
    flow = trainer.run()["flow"].item()
    (given, velocity), shape = seen[0], seen[0][0]["hidden_states"].shape[1:]
    shift = float(pipe.scheduler.config.shift)
    drawn = [noise_at(p, shape, config.seed, config.noise_mean, config.noise_std, shift) for p in (0, 1)]
    noise, sigma = torch.stack([noise for noise, _ in drawn]), torch.tensor([sigma for _, sigma in drawn])
    assert torch.equal(given["timestep"], 1000 * sigma)
    assert not torch.equal(sigma, sigma.bfloat16().float())
    clean, mix = encoded[0].float(), sigma[:, None, None, None]
    assert encoded[0].dtype == given["hidden_states"].dtype == torch.bfloat16
    assert torch.equal(given["hidden_states"], ((1 - mix) * clean + mix * noise).bfloat16())
    assert flow == pytest.approx((velocity.float() - (noise - clean)).square().mean().item(), rel=1e-6)


def test_a_step_is_the_same_split_over_passes(random_folder, tmp_path):
    """The flow loss and its gradients; the mask loss is a mean over each pass's own pairs."""
    together = replace(CONFIG, steps=2, batch=4, mask_weight=0.0)
    apart = replace(together, batch=2, accumulate=2)
    one, two = (train(random_folder, tmp_path / name, c)[1] for name, c in (("a", together), ("b", apart)))
    columns = ["flow", "gradient", "rate"]
    np.testing.assert_allclose(one[columns], two[columns], rtol=1e-4)


_KEEPING = """
import torch
from mmdit_probe.magnet.trained_weights import TrainedWeights

finish = TrainedWeights.finish

def keeping(self):
    torch.save([weight.detach() for weight in self.trained], f"process{self.accelerator.process_index}.pt")
    finish(self)

TrainedWeights.finish = keeping
"""


def test_two_processes_train_as_one_with_accumulation(run, tmp_path, random_folder):
    """LoRA and mask head; gradients are clipped, so that each process's step depends on the norm of all of them."""
    command = ["magnet", "train", "--steps", "3", "--batch", "2", "--layer", "1", "--rank", "2", "--warmup", "1"]
    command += ["--mask-head", "--gradient-clip", "0.01", "--lr", "1e-3"]
    assert run(*command, "--accumulate", "2", "--out", "one")[0] == 0
    output = in_two_processes([*command, "--out", "two", "--model", str(random_folder), "--json"], tmp_path, _KEEPING)
    assert json.loads(output)["last"]["step"] == 2
    weights = [torch.load(tmp_path / f"process{number}.pt", weights_only=True) for number in (0, 1)]
    assert len(weights[0]) == 3 * 4 * 2 + 6  # two matrices for each of a layer's four projections, and the head's
    assert all(torch.equal(first, second) for first, second in zip(*weights, strict=True))
    one, two = (pd.read_csv(tmp_path / name / "losses.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, rtol=1e-4)


@pytest.mark.parametrize("theirs", [0.0, 3.0])
@pytest.mark.parametrize("ours", [None, 1.0])
def test_a_mask_head_that_only_some_processes_ran_is_shared_by_all(ours, theirs):
    """The mean over processes, one without masks counting as 0; nothing where none had any, as with one process."""
    head = MaskHead(2)
    for weight in head.parameters():
        weight.grad = None if ours is None else torch.full_like(weight, ours)
    other = torch.tensor([float(theirs > 0)] + [theirs] * sum(weight.numel() for weight in head.parameters()))
    accelerator = SimpleNamespace(num_processes=2, reduce=lambda mine, how: (mine + other) / 2)
    TrainedWeights._share_head(SimpleNamespace(head=head, accelerator=accelerator))
    expected = None if ours is None and not theirs else ((ours or 0.0) + theirs) / 2
    for weight in head.parameters():
        assert (weight.grad is None) if expected is None else bool((weight.grad == expected).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 7}, r"edited layers \[7\] do not exist; this model has layers 0 to 2"),
        ({"matching": "color"}, "matching must be one of token, head"),
        ({"rank": 0}, "rank must be 1 or more, got 0"),
        ({"rate": 0.0}, "rate must be above 0"),
        ({"dice_weight": -1.0}, "dice_weight must be 0 or more"),
        ({"ema": 1.0}, "ema must be above 0 and below 1"),
    ],
)
def test_bad_settings_are_explained_before_any_work(options, message, random_pipe, tmp_path):
    with pytest.raises(ValueError, match=message):
        MagnetTrainer(random_pipe, SCENES, replace(CONFIG, **options), tmp_path / "out", "random")
    assert not (tmp_path / "out").exists()


def test_training_sets_that_do_not_fit_the_matching_are_refused(random_pipe, tmp_path):
    nameless, wordless = replace(SCENES, named=False, name="sa1b"), replace(SCENES, captioned=False, name="coco")
    for data, matching, message in (
        (nameless, "token", "token matching needs the masks' class names and sa1b has none; use --matching head"),
        (wordless, "head", "head matching needs captions and coco has none"),
    ):
        with pytest.raises(ValueError, match=message):
            MagnetTrainer(random_pipe, data, replace(CONFIG, matching=matching), tmp_path, "random")


def test_a_model_with_a_lora_is_not_trained_on_top(random_pipe):
    add_lora(random_pipe, 2)
    with pytest.raises(ValueError, match="has a LoRA already"):
        add_lora(random_pipe, 2)


def test_a_fresh_lora_changes_nothing(random_pipe):
    plain = sample(random_pipe)
    add_lora(random_pipe, 4)
    torch.testing.assert_close(sample(random_pipe), plain)


def test_presets_carry_the_papers_settings():
    coco, sa1b = MAGNET_PRESETS["coco"], MAGNET_PRESETS["sa1b"]
    for preset in (coco, sa1b):
        assert (preset.rank, preset.rate, preset.weight_decay, preset.gradient_clip) == (16, 1e-5, 1e-4, 0.01)
        assert (preset.warmup, preset.batch * preset.accumulate, preset.most_masks) == (500, 16, 32)
        assert preset.least_area == 0  # the paper names no smallest mask
        assert (preset.focal_weight, preset.dice_weight, preset.match_focal, preset.match_dice) == (0.1, 0.2, 0.02, 1.0)
        assert preset.mask_weight == 1.0
        assert (preset.noise_mean, preset.noise_std, preset.crop, preset.read) == (0.0, 0.5, "center", "scores")
    assert (coco.steps, coco.matching, coco.sentences) == (3000, "token", None)
    assert (sa1b.steps, sa1b.matching, sa1b.sentences) == (1000, "head", 2)


def test_tensorboard_gets_every_loss(monkeypatch, tmp_path):
    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    with tensorboard_writer(tmp_path) as write:
        write({"step": 3, "flow": 0.5, "dice": 0.25})
    assert written == [str(tmp_path), ("flow", 0.5, 3), ("dice", 0.25, 3), "closed"]


def test_tensorboard_that_is_not_installed_is_explained(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(ValueError, match=r"run `pip install tensorboard`, or read losses.csv"),
        tensorboard_writer(tmp_path),
    ):
        pass
