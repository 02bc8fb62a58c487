import json

import pytest
import torch
from conftest import make_sd3
from diffusers import DiffusionPipeline, FluxTransformer2DModel
from models_baselines import stable_diffusion
from models_flux import SMALL
from small_pipelines import MAKERS, small_pipeline

from mmdit_probe import load_pipeline
from mmdit_probe.families import denoiser_of, layers_of
from mmdit_probe.pipelines.defaults import model_defaults, text_length
from mmdit_probe.pipelines.forward import add_noise, encode_images, encode_prompts, forward_once, noise_level
from mmdit_probe.pipelines.layer_count import layer_count
from mmdit_probe.pipelines.loading import pipeline_of


def test_a_folder_loads_without_t5(random_pipe):
    assert random_pipe.text_encoder_3 is None
    assert pipeline_of(random_pipe.transformer) is random_pipe
    assert next(random_pipe.transformer.parameters()).dtype == torch.float32


def test_the_dtype_is_the_one_asked_for(random_folder):
    assert next(load_pipeline(str(random_folder), dtype="bf16").transformer.parameters()).dtype == torch.bfloat16


def test_an_unknown_dtype_is_refused(random_folder):
    with pytest.raises(ValueError, match="dtype must be one of fp32, bf16, fp16, got 'int8'"):
        load_pipeline(str(random_folder), dtype="int8")


def test_a_pipeline_that_was_loaded_otherwise_can_be_probed_too(random_folder):
    pipe = DiffusionPipeline.from_pretrained(random_folder, text_encoder_3=None, tokenizer_3=None)
    assert pipeline_of(pipe) is pipe
    assert pipeline_of(pipe.transformer) is None


def test_access_and_memory_errors_are_explained(monkeypatch, random_folder):
    for error, words in [
        (OSError("403 Client Error: gated repo"), "needs access"),
        (torch.OutOfMemoryError("CUDA out of memory"), "does not fit into memory"),
        (RuntimeError("something else"), "could not be loaded: RuntimeError: something else"),
    ]:

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(DiffusionPipeline, "from_pretrained", fail)
        with pytest.raises(ValueError, match=words):
            load_pipeline(str(random_folder))


def test_defaults_come_from_the_folder_or_from_the_family(random_folder, random_pipe):
    assert model_defaults(random_pipe).expert_layer is None  # layer 9 is published for 24 layers
    assert model_defaults(random_pipe).guidance_scale == 7.5
    file = random_folder / "probe_defaults.json"
    file.write_text(json.dumps({"expert_layer": 1, "guidance_scale": 2.0, "max_sequence_length": 0, "why": "measured"}))
    try:
        assert model_defaults(random_pipe).expert_layer == 1
    finally:
        file.unlink()


@pytest.mark.parametrize(("layers", "expert"), [(3, None), (24, 9), (38, None)])
def test_the_published_layer_is_that_of_models_of_its_depth(random_pipe, layers, expert):
    """SD3 and SD3.5 medium have 24 blocks, SD3.5 large has 38."""
    random_pipe.transformer = make_sd3(layers)
    defaults = model_defaults(random_pipe)
    assert (defaults.expert_layer, defaults.max_sequence_length) == (expert, 77)
    assert defaults.why == ("published for Stable Diffusion 3, 3.5 with 24 layers" if expert else "")


@pytest.mark.parametrize(("double", "single", "expert"), [(19, 38, 12), (2, 1, None), (8, 38, None)])
def test_flux_has_a_published_layer_at_its_own_depth(double, single, expert):
    flux = small_pipeline("flux")
    flux.transformer = FluxTransformer2DModel(**{**SMALL, "num_layers": double, "num_single_layers": single})
    assert model_defaults(flux).expert_layer == expert


@pytest.mark.parametrize(("timestep", "sigma"), [(8, 0.515), (28, 1.0), (20, 0.877)])
def test_noise_levels_of_sd3(random_pipe, timestep, sigma):
    """Timestep 8 of 28 is timesteps[-8], sigma 0.515 with shift 3; index 8 would be 0.877."""
    assert noise_level(random_pipe, timestep, 28) == pytest.approx(sigma, abs=2e-3)


def test_the_noise_level_leaves_the_pipelines_scheduler_alone(random_pipe):
    random_pipe.scheduler.set_timesteps(5)
    noise_level(random_pipe, 8, 28)
    assert len(random_pipe.scheduler.timesteps) == 5


def test_a_timestep_out_of_range_is_refused(random_pipe):
    with pytest.raises(ValueError, match="must be in 1 to 28"):
        noise_level(random_pipe, 29, 28)


def test_noise_mixes_linearly_and_is_the_same_for_one_seed():
    clean = torch.ones(2, 4, 3, 3)
    assert torch.equal(add_noise(clean, 0.0, 1), clean)
    assert torch.equal(add_noise(clean, 0.5, 1), add_noise(clean, 0.5, 1))
    pure = add_noise(clean, 1.0, 1)
    torch.testing.assert_close(add_noise(clean, 0.25, 1), 0.75 * clean + 0.25 * pure)


def test_one_forward_is_the_pipelines_own_step(random_pipe):
    """The first sampling step without guidance predicts what forward_once does from the same noise."""
    seen = []
    handle = random_pipe.transformer.register_forward_hook(
        lambda m, a, k, out: seen.append((k, out[0])), with_kwargs=True
    )
    random_pipe("sand", num_inference_steps=2, guidance_scale=1.0, max_sequence_length=3, output_type="latent")
    handle.remove()
    kwargs, predicted = seen[0]
    ours = forward_once(random_pipe, kwargs["hidden_states"], 1.0, encode_prompts(random_pipe, ["sand"], 3))
    torch.testing.assert_close(ours, predicted)


def test_encoding_and_decoding_use_the_pipelines_scale(random_pipe):
    from mmdit_probe.datasets.scenes import scene

    image = scene("val", 0).image
    latents = encode_images(random_pipe, [image])
    config = random_pipe.vae.config
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        mean = random_pipe.vae.encode(pixels).latent_dist.mean
    torch.testing.assert_close(latents, (mean - config.shift_factor) * config.scaling_factor)


@pytest.mark.parametrize("name", [*MAKERS, "unet"])
def test_layers_are_counted_without_weights(tmp_path, name):
    pipe = stable_diffusion() if name == "unet" else small_pipeline(name)
    pipe.save_config(tmp_path)
    denoiser_of(pipe).save_config(tmp_path / ("unet" if name == "unet" else "transformer"))
    assert layer_count(str(tmp_path)) == len(layers_of(pipe)) > 0


def test_layers_that_cannot_be_counted_are_unknown(tmp_path):
    assert layer_count("nobody/no-such-model") is None
    assert layer_count(str(tmp_path)) is None
    (tmp_path / "model_index.json").write_text(json.dumps({"transformer": ["mine", "Transformer"]}))
    assert layer_count(str(tmp_path)) is None


def test_the_text_is_as_long_as_asked_for_or_as_the_model_says(random_pipe):
    assert (text_length(random_pipe), text_length(random_pipe, 0), text_length(random_pipe, 9)) == (77, 0, 9)


def test_a_step_of_two_calls_is_counted_once():
    """Qwen-Image calls its transformer for the negative prompt too, SD3 and others once a step for both."""
    from small_pipelines import small_pipeline

    from mmdit_probe.families import denoiser_of
    from mmdit_probe.pipelines.call_count import counted_calls

    pipe, told, calls = small_pipeline("qwen-image"), [], []
    handle = denoiser_of(pipe).register_forward_hook(lambda *_: calls.append(1))
    sizes = {"height": 32, "width": 32, "num_inference_steps": 3, "output_type": "latent"}
    with counted_calls(pipe, lambda done, total: told.append((done, total)), 3):
        pipe("a red circle", negative_prompt="sand", true_cfg_scale=2.0, **sizes)
    handle.remove()
    assert len(calls) == 6
    assert told == [(step, 3) for step in (1, 1, 2, 2, 3, 3)]
