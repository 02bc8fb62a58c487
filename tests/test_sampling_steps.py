"""Sampling steps are counted as the sampling loop's, however many calls of the transformer each takes."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from small_pipelines import small_pipeline

from mmdit_probe import BlurText, I2TMaps, Probe, RegionMass, ValueNorms
from mmdit_probe.configs import ExpertConfig, GenerationConfig
from mmdit_probe.probe.sampling_steps import StepCounter
from mmdit_probe.studies.expert_layer import find_expert
from mmdit_probe.studies.recording import by_timestep, record_generated

SIZE = {"height": 32, "width": 32, "output_type": "latent", "max_sequence_length": 32}
GENERATION = GenerationConfig(steps=8, height=32, width=32, max_sequence_length=32)
TWICE = {"chroma": {"guidance_scale": 3.0}, "qwen-image": {"true_cfg_scale": 3.0}, "flux": {"true_cfg_scale": 3.0}}
"""Pipelines that call the transformer twice a step."""


def watched(pipe, steps=2, readouts=None, **more):
    """A probe of a generation whose prompt and negative prompt are of one length."""
    with Probe(pipe, readouts or [RegionMass(), I2TMaps()], **more.pop("probe", {})) as probe:
        prompts = {"prompt": "a red circle", "negative_prompt": "a blue sand"}
        pipe(**prompts, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), **SIZE, **more)
    return probe


@pytest.mark.parametrize("name", TWICE)
def test_two_calls_are_one_step(name):
    both = watched(small_pipeline(name), steps=3, **TWICE[name]).dataset()
    assert both["step"].values.tolist() == [0, 0, 1, 1, 2, 2]
    assert both["conditional"].dims == ("call", "batch")
    assert both["conditional"].values.ravel().tolist() == [True, False] * 3
    assert len(set(both["sigma"].values.tolist())) == 3


@pytest.mark.parametrize("name", TWICE)
def test_the_halves_are_the_calls_with_their_own_tokens(name):
    probe = watched(small_pipeline(name), **TWICE[name])
    both = probe.dataset()
    for half, calls, word in (("conditional", [0, 2], "circle"), ("unconditional", [1, 3], "sand")):
        kept = probe.dataset(half)
        assert kept["step"].values.tolist() == [0, 1]
        np.testing.assert_array_equal(kept["i2t"], both["i2t"].isel(call=calls))
        words = kept["token_text"].values[kept["token_kind"].values == "word"]
        assert word in words
        assert {"circle": "sand", "sand": "circle"}[word] not in words
        assert kept["token_text"].dims == ("batch", "token")
    assert both["token_text"].dims == ("call", "batch", "token")


def test_an_explorer_page_of_both_halves_shows_the_prompts_calls():
    from mmdit_probe.explorer.contents import contents_of

    probe = watched(small_pipeline("chroma"), guidance_scale=3.0)
    contents, kept = contents_of(probe.dataset()), contents_of(probe.dataset("conditional"))
    assert [token.text for token in contents.tokens] == [token.text for token in kept.tokens]
    np.testing.assert_array_equal(contents.maps, kept.maps)


def test_chosen_steps_are_recorded_with_all_their_calls():
    probe = watched(small_pipeline("chroma"), steps=4, guidance_scale=3.0, probe={"steps": [2]})
    assert probe.dataset()["step"].values.tolist() == [2, 2]


@pytest.mark.parametrize("name", ["chroma", "auraflow", "z-image"])
def test_timesteps_are_the_schedules_at_a_pipelines_default_guidance(name):
    pipe, seen = small_pipeline(name), []
    record = record_generated(pipe, "a red circle", [RegionMass(), I2TMaps()], (1, 2, 4), GENERATION).record
    levels = pipe.scheduler.sigmas.numpy()
    np.testing.assert_allclose(record["sigma"], [levels[7], levels[6], levels[4]], atol=1e-6)
    assert record["step"].values.tolist() == [7, 6, 4]
    assert bool(record["conditional"].all())
    assert "circle" in record["token_text"].values
    with Probe(pipe, [RegionMass()]) as probe:
        pipe(
            "a red circle",
            num_inference_steps=8,
            generator=torch.Generator().manual_seed(0),
            callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append(len(probe._calls)) or tensors,
            **SIZE,
        )
    calls = probe.dataset("conditional")["region_mass"].isel(batch=-1)
    np.testing.assert_array_equal(record["region_mass"].sel(timestep=1), calls.isel(call=7))
    assert len(seen) == 8


def test_edits_of_a_step_change_the_prompts_call_of_that_step_alone():
    """Norms before the first edited layer are the same; behind it only the prompt's half of the step differs."""
    pipe = small_pipeline("chroma")
    plain = watched(pipe, readouts=[ValueNorms()], guidance_scale=3.0).dataset()["value_norm"]
    edits = [BlurText(0, steps=[1])]
    blurred = watched(pipe, readouts=[ValueNorms()], guidance_scale=3.0, probe={"edits": edits}).dataset()["value_norm"]
    same = [bool((plain.isel(call=call) == blurred.isel(call=call)).all()) for call in range(4)]
    assert same == [True, True, False, True]


def test_a_second_order_scheduler_comes_back_to_its_noise_levels(random_pipe):
    euler = random_pipe.scheduler
    random_pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    try:
        arguments = {"guidance_scale": 1.0, "num_inference_steps": 4, "max_sequence_length": 0}
        with Probe(random_pipe, [RegionMass()]) as probe:
            random_pipe("sand", output_type="latent", **arguments)
        record = record_generated(
            random_pipe, "sand", [RegionMass()], (2,), GenerationConfig(steps=4, max_sequence_length=0)
        ).record
    finally:
        random_pipe.scheduler = euler
    calls = probe.dataset()
    assert calls["step"].values.tolist() == [0, 1, 1, 2, 2, 3, 3]
    assert record["sigma"].values == pytest.approx(calls["sigma"].values[[4]])


def test_a_new_generation_begins_a_new_step(random_pipe):
    arguments = {"guidance_scale": 1.0, "num_inference_steps": 1, "max_sequence_length": 0, "output_type": "latent"}
    with Probe(random_pipe, [I2TMaps()]) as probe:
        random_pipe("sand", **arguments)
        random_pipe("grass", **arguments)
    made = probe.dataset()
    assert made["step"].values.tolist() == [0, 1]
    assert made["token_text"].values[:, 0, 1].tolist() == ["sand", "grass"]


def test_without_a_pipeline_each_call_is_a_step(sd3, inputs):
    with Probe(sd3, [RegionMass()]) as probe:
        sd3(**inputs)
        sd3(**inputs)
    assert probe.dataset()["step"].values.tolist() == [0, 1]


class _Scheduler:
    def __init__(self, timesteps):
        self.timesteps, self.step_index = torch.tensor(timesteps), None


class _Pipe:
    def __init__(self, scheduler):
        self.scheduler = scheduler


def test_timesteps_that_look_the_same_in_bf16_are_told_apart_by_the_scheduler():
    pipe = _Pipe(_Scheduler([1000.0, 998.0, 996.0]))
    counter, steps = StepCounter(pipe), []
    for index, _ in [(None, "prompt"), (None, "negative"), (1, "prompt"), (1, "negative"), (2, "prompt")]:
        pipe.scheduler.step_index = index
        level = torch.tensor([1000.0, 998.0, 996.0])[index or 0].bfloat16()
        steps.append(counter.next(level.float().numpy()[None] / 1000).step)
    assert steps == [0, 0, 1, 1, 2]


def test_a_step_in_which_the_transformer_took_no_part_is_told(random_pipe):
    """As with a pipeline that has a second transformer for its last steps."""
    with Probe(random_pipe, [RegionMass()], steps=[7]) as probe:
        random_pipe("sand", num_inference_steps=8, max_sequence_length=0, output_type="latent")
    with pytest.raises(ValueError, match=r"took no part in the sampling steps \[9\]; it did in \[7\]"):
        by_timestep(probe, [9], [1], [9])


def test_more_steps_than_asked_for_are_an_error(random_pipe, monkeypatch):
    """Timesteps are then not what they are called."""
    kind = type(random_pipe)
    original = kind.__call__

    def longer(self, *args, num_inference_steps, **kwargs):
        return original(self, *args, num_inference_steps=num_inference_steps + 1, **kwargs)

    longer.__signature__ = inspect.signature(original)
    monkeypatch.setattr(kind, "__call__", longer)
    with pytest.raises(ValueError, match="took 5 sampling steps where 4 were asked for"):
        record_generated(random_pipe, "sand", [RegionMass()], (1,), GenerationConfig(steps=4, max_sequence_length=0))


@pytest.mark.parametrize("name", ["chroma", "auraflow", "z-image", "flux", "qwen-image"])
def test_the_expert_is_found_in_any_family(name):
    """Positional latents, lists of samples, and a negative prompt in a call of its own."""
    pipe = small_pipeline(name)
    expert = find_expert(
        pipe,
        ExpertConfig(
            prompts=("a red circle",),
            timestep=1,
            generation=GenerationConfig(steps=4, guidance_scale=None, max_sequence_length=32, height=32, width=32),
        ),
    )
    assert len(expert.table) == len(Probe(pipe, []).modules)
    assert (expert.table["blur_sensitivity"] > 0).any()
    assert np.isfinite(expert.table["coherence"]).all()
    assert not pipe.transformer._forward_pre_hooks


@pytest.mark.parametrize("name", ["chroma", "auraflow", "z-image", "flux", "qwen-image"])
def test_timesteps_count_from_the_clean_end(name):
    pipe = small_pipeline(name)
    record = watched(pipe, steps=4, **TWICE.get(name, {})).dataset()
    np.testing.assert_array_equal(record["timestep"], 4 - record["step"])
    numbers = pipe.scheduler.timesteps.numpy()[record["step"].values]
    np.testing.assert_array_equal(record["scheduler_timestep"], numbers)
    np.testing.assert_allclose(record["sigma"], numbers / 1000, rtol=0.01)


def test_every_generation_of_a_probe_has_its_own_timesteps(random_pipe):
    arguments = {"guidance_scale": 1.0, "max_sequence_length": 0, "output_type": "latent"}
    with Probe(random_pipe, [RegionMass()]) as probe:
        random_pipe("sand", num_inference_steps=2, **arguments)
        random_pipe("grass", num_inference_steps=3, **arguments)
    assert probe.dataset()["step"].values.tolist() == [0, 1, 2, 3, 4]
    assert probe.dataset()["timestep"].values.tolist() == [2, 1, 3, 2, 1]


def test_second_order_schedulers_share_a_timestep(random_pipe):
    euler = random_pipe.scheduler
    random_pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    try:
        with Probe(random_pipe, [RegionMass()]) as probe:
            random_pipe("sand", output_type="latent", guidance_scale=1.0, num_inference_steps=4, max_sequence_length=0)
    finally:
        random_pipe.scheduler = euler
    assert probe.dataset()["timestep"].values.tolist() == [4, 3, 3, 2, 2, 1, 1]


def test_schedulers_that_do_not_count_have_timesteps_too():
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(4)
    counter, times = StepCounter(_Pipe(scheduler)), []
    for generation in (1, 2):
        for number in scheduler.timesteps:
            for _ in ("prompt", "negative prompt"):
                times.append(counter.next(np.array([float(number) / 1000]), generation))
    assert [time.step for time in times[::2]] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [time.timestep for time in times[::2]] == [4, 3, 2, 1] * 2
    assert [time.scheduler_timestep for time in times[:8:2]] == scheduler.timesteps.tolist()


def test_outside_of_a_sampling_loop_there_is_no_timestep(random_pipe):
    """Also after a generation, whose timesteps the scheduler still has."""
    from mmdit_probe.pipelines.forward import encode_prompts, forward_once

    latents = torch.randn(1, random_pipe.transformer.config.in_channels, 8, 8)

    def once(sigma):
        with Probe(random_pipe, [RegionMass()]) as probe:
            forward_once(random_pipe, latents, sigma, encode_prompts(random_pipe, ["sand"], 0))
        return probe.dataset()

    random_pipe("sand", num_inference_steps=2, max_sequence_length=0, output_type="latent")
    for sigma in (0.5, *random_pipe.scheduler.sigmas[:2].tolist()):
        record = once(sigma)
        assert "timestep" not in record.coords
        assert record["scheduler_timestep"].values == pytest.approx([1000 * sigma])
