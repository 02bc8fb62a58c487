"""Perturbed guidance through the ordinary pipeline call."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from small_pipelines import small_pipeline

from mmdit_probe import BlurText, Probe
from mmdit_probe.probe.guidance import PerturbedGuidance

ARGUMENTS = {"num_inference_steps": 3, "max_sequence_length": 2, "output_type": "latent"}


def generate(pipe, guidance_scale=3.0, **more):
    generator = torch.Generator().manual_seed(0)
    return pipe("a red circle", generator=generator, guidance_scale=guidance_scale, **ARGUMENTS, **more).images


def predictions(pipe, guidance_scale, **more):
    """What the transformer's callers are given at each step."""
    seen = []
    # registered last, so that it sees what the guidance returns
    handle = pipe.transformer.register_forward_hook(lambda m, a, out: seen.append(out[0]))
    generate(pipe, guidance_scale, **more)
    handle.remove()
    return seen


def test_scale_zero_is_the_plain_image_bit_for_bit(random_pipe):
    plain = generate(random_pipe)
    with PerturbedGuidance(random_pipe, [BlurText(1)], 0.0):
        assert torch.equal(generate(random_pipe), plain)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_first_step_is_the_equation(random_pipe, guidance_scale, batched):
    """eps + s (eps - eps_perturbed) on the prompt's rows, the same term on the negative rows."""
    plain = predictions(random_pipe, guidance_scale)[0]
    with Probe(random_pipe, [], edits=[BlurText(1)]):
        perturbed = predictions(random_pipe, guidance_scale)[0]
    with PerturbedGuidance(random_pipe, [BlurText(1)], 2.0, batched=batched):
        seen = predictions(random_pipe, guidance_scale)
    guided = seen[0] if batched else seen[1]  # apart, the perturbed call comes first
    term = 2.0 * (plain[-1] - perturbed[-1])
    assert term.abs().max() > 1e-4
    torch.testing.assert_close(guided, plain + term, atol=1e-5, rtol=1e-4)


GUIDED = {
    "flux": "true_cfg_scale",
    "chroma": "guidance_scale",
    "auraflow": "guidance_scale",
    "qwen-image": "true_cfg_scale",
    "z-image": "guidance_scale",
}


def calls(name, guide=nullcontext):
    """Each call's prediction, by sampling step and by the prompt or the negative prompt: two prompts, two steps."""
    pipe = small_pipeline(name)
    found = []
    with guide(pipe), Probe(pipe, []) as probe:

        def keep(module, args, kwargs, output):
            samples = torch.stack(output[0]) if isinstance(output[0], list) else output[0]
            found.append((probe.running.step, probe.running.text, samples))

        handle = pipe.transformer.register_forward_hook(keep, with_kwargs=True)
        seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        options = {"negative_prompt": ["sand", "lava"], "height": 32, "width": 32, "max_sequence_length": 32}
        pipe(
            ["a red circle", "grass"],
            num_inference_steps=2,
            generator=seeds,
            output_type="latent",
            **options,
            **{GUIDED[name]: 3.0},
        )
        handle.remove()
    return found


@pytest.mark.parametrize("name", GUIDED)
def test_other_families_are_guided_by_the_same_equation(name):
    """Also where the negative prompt has a call of its own, comes behind the prompt, or latents are positional."""
    plain = calls(name)
    blurred = calls(name, lambda pipe: Probe(pipe, [], edits=[BlurText(1)]))
    rows = [np.flatnonzero(text.conditional) for _, text, _ in plain]
    first = [number for number, (step, _, _) in enumerate(plain) if step == 0]
    assert sum(len(plain[number][2]) for number in first) == 4
    [prompt] = [number for number in first if len(rows[number])]
    term = 2.0 * (plain[prompt][2] - blurred[prompt][2])[rows[prompt]]
    assert term.abs().amax(tuple(range(1, term.dim()))).min() > 1e-5
    assert not torch.allclose(*term)
    for batched in (True, False):
        guided = calls(name, lambda pipe, batched=batched: PerturbedGuidance(pipe, [BlurText(1)], 2.0, batched=batched))
        seen = [samples for step, _, samples in guided if step == 0][0 if batched else 1 :]  # apart, it comes first
        for number, samples in zip(first, seen, strict=True):
            expected = plain[number][2] + term.repeat(len(samples) // 2, *[1] * (term.dim() - 1))
            torch.testing.assert_close(samples, expected, atol=1e-5, rtol=1e-4)


def test_rows_that_are_not_known_are_not_guessed():
    pipe = small_pipeline("z-image")
    features = [torch.randn(4, 16), torch.randn(3, 16)]
    with (
        pytest.raises(ValueError, match="which batch rows carry the prompt is unknown; give prompts, not embeddings"),
        PerturbedGuidance(pipe, [BlurText(1)], 2.0),
    ):
        pipe(
            prompt_embeds=features[:1],
            negative_prompt_embeds=features[1:],
            guidance_scale=3.0,
            num_inference_steps=1,
            height=32,
            width=32,
            output_type="latent",
        )


def test_batched_and_separate_calls_agree(random_pipe):
    images = []
    for batched in (True, False):
        with PerturbedGuidance(random_pipe, [BlurText([0, 1])], 1.5, batched=batched):
            images.append(generate(random_pipe, num_images_per_prompt=2))
    torch.testing.assert_close(*images, atol=1e-3, rtol=1e-3)


def test_prompts_are_tokenized_once(random_pipe, monkeypatch):
    from mmdit_probe.pipelines import asked

    seen = []
    original = asked.describe
    monkeypatch.setattr(asked, "describe", lambda *given: seen.append(given) or original(*given))
    generate(random_pipe)
    assert not seen
    with Probe(random_pipe, [], edits=[BlurText(1)]):
        generate(random_pipe)
    once = len(seen)
    with PerturbedGuidance(random_pipe, [BlurText(1)], 2.0):
        generate(random_pipe)
    assert len(seen) == 2 * once > 0


def test_it_leaves_nothing_behind(random_pipe):
    plain = generate(random_pipe)
    edit = BlurText(1)
    guidance = PerturbedGuidance(random_pipe, [edit], 2.0)
    with guidance:
        guided = generate(random_pipe)
    assert not torch.equal(guided, plain)
    assert torch.equal(generate(random_pipe), plain)
    assert edit.batch == "conditional"
    with guidance:
        assert torch.equal(generate(random_pipe), guided)
    with pytest.raises(RuntimeError, match="stop"), guidance:
        raise RuntimeError("stop")
    assert not random_pipe.transformer._forward_hooks
    assert not random_pipe.transformer._forward_pre_hooks


def test_a_probe_inside_sees_the_widened_batch_and_changes_nothing(random_pipe):
    from mmdit_probe import RegionMass

    with PerturbedGuidance(random_pipe, [BlurText(1)], 2.0):
        alone = generate(random_pipe)
        with Probe(random_pipe, [RegionMass()]) as probe:
            watched = generate(random_pipe)
    assert torch.equal(alone, watched)
    assert probe.dataset().sizes["batch"] == 3


@pytest.mark.parametrize(("edits", "scale", "message"), [([], 1.0, "at least one edit"), ([1], 1e9, "scale must be")])
def test_bad_settings_are_explained(random_pipe, edits, scale, message):
    with pytest.raises(ValueError, match=message):
        PerturbedGuidance(random_pipe, [BlurText(layer) for layer in edits], scale)


def test_a_missing_layer_is_named(random_pipe):
    with pytest.raises(ValueError, match=r"\[9\] do not exist"):
        PerturbedGuidance(random_pipe, [BlurText(9)], 1.0)


def test_study_images_of_scale_zero_are_the_plain_ones(random_pipe, tmp_path):
    from mmdit_probe.configs import GenerationConfig, GuideConfig
    from mmdit_probe.studies.guidance import run_guidance

    generation = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=0)
    config = GuideConfig(
        prompts=("sand", "a red circle"), layers=(1,), scales=(0.0, 3.0), seeds=(0,), batch=2, generation=generation
    )
    images = run_guidance(random_pipe, config, tmp_path, "random")
    assert set(images.images) == {"plain", "scale3"}
    assert images.images["plain"].shape == (2, 1, 64, 64, 3)
    assert not np.array_equal(images.images["plain"], images.images["scale3"])


def make_flux():
    """A small random Flux pipeline without text encoders: it takes embeddings."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    ).requires_grad_(False)
    vae = AutoencoderKL(latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4,
                        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    pipe = FluxPipeline(FlowMatchEulerDiscreteScheduler(), vae, None, None, None, None, transformer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("batched", [True, False])
def test_flux_is_guided_through_its_own_pipeline(batched):
    pipe = make_flux()
    generator = torch.Generator().manual_seed(0)
    embeds, pooled = torch.randn(2, 6, 32, generator=generator), torch.randn(2, 32, generator=generator)

    def run():
        seen = []
        handle = pipe.transformer.register_forward_hook(lambda m, a, out: seen.append(out[0]))
        pipe(
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            height=32,
            width=48,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(1),
            output_type="latent",
        )
        handle.remove()
        return seen

    plain = run()[0]
    with Probe(pipe, [], edits=[BlurText(1)]):
        perturbed = run()[0]
    with PerturbedGuidance(pipe, [BlurText(1)], 2.0, batched=batched):
        seen = run()
    guided = seen[0] if batched else seen[1]
    assert (plain - perturbed).abs().max() > 1e-5
    torch.testing.assert_close(guided, plain + 2 * (plain - perturbed), atol=1e-5, rtol=1e-4)
