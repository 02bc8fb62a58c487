"""Perturbed guidance through the ordinary pipeline call."""

import numpy as np
import pytest
import torch

from mmdit_probe import BlurText, Probe
from mmdit_probe.guidance import PerturbedGuidance

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


def test_scale_zero_is_the_plain_picture_bit_for_bit(random_pipe):
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


def test_batched_and_separate_calls_agree(random_pipe):
    pictures = []
    for batched in (True, False):
        with PerturbedGuidance(random_pipe, [BlurText([0, 1])], 1.5, batched=batched):
            pictures.append(generate(random_pipe, num_images_per_prompt=2))
    torch.testing.assert_close(*pictures, atol=1e-3, rtol=1e-3)


def test_it_leaves_nothing_behind(random_pipe):
    plain = generate(random_pipe)
    edit = BlurText(1)
    guidance = PerturbedGuidance(random_pipe, [edit], 2.0)
    with guidance:
        guided = generate(random_pipe)
    assert not torch.equal(guided, plain)
    assert torch.equal(generate(random_pipe), plain)
    assert edit.rows == "conditional"
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


def test_study_pictures_of_scale_zero_are_the_plain_ones(random_pipe, tmp_path):
    from mmdit_probe.configs import GenerationConfig, GuideConfig
    from mmdit_probe.guidance_study import run_guidance

    generation = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=0)
    config = GuideConfig(("sand", "a red circle"), (1,), (0.0, 3.0), seeds=(0,), batch=2, generation=generation)
    pictures = run_guidance(random_pipe, config, tmp_path, "random")
    assert set(pictures.images) == {"plain", "scale3"}
    assert pictures.images["plain"].shape == (2, 1, 64, 64, 3)
    assert not np.array_equal(pictures.images["plain"], pictures.images["scale3"])
