"""LoRAs and offload hooks, on small models: they load, and they do not disturb the probe."""

import accelerate
import models_baselines
import numpy as np
import pytest
import torch
from conftest import make_inputs, make_sd3
from small_pipelines import small_pipeline

from mmdit_probe import I2TMaps, OpenVocabularySegmenter, Probe, RegionMass, load_pipeline
from mmdit_probe.attention import i2t_maps
from mmdit_probe.baselines.unet_reader import UNetReader
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.pipelines.forward import encode_images, encode_prompts, forward_once


@pytest.fixture
def lora(random_pipe, tmp_path):
    """A LoRA of the small pipeline's transformer, with weights that change the output."""
    import peft

    transformer = random_pipe.transformer
    transformer.add_adapter(peft.LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_k", "add_v_proj"]))
    generator = torch.Generator().manual_seed(5)
    for name, weight in transformer.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator)
    layers = peft.get_peft_model_state_dict(transformer)
    type(random_pipe).save_lora_weights(tmp_path, transformer_lora_layers=layers)
    return tmp_path / "pytorch_lora_weights.safetensors"


def generate(pipe):
    generator = torch.Generator().manual_seed(0)
    return pipe("a red circle", num_inference_steps=1, output_type="latent", generator=generator).images


def test_a_lora_is_loaded_and_probed(random_folder, lora):
    plain, pipe = load_pipeline(str(random_folder)), load_pipeline(str(random_folder), lora=str(lora))
    with Probe(pipe, [RegionMass(), I2TMaps()]) as probe:
        probed = generate(pipe)
    assert torch.equal(generate(pipe), probed)
    assert not torch.allclose(generate(plain), probed)
    with Probe(plain, [RegionMass()]) as without:
        generate(plain)
    assert (abs(probe.dataset()["region_mass"] - without.dataset()["region_mass"]) > 1e-4).any()


def test_a_lora_that_is_not_there_is_named(random_folder, tmp_path):
    with pytest.raises(ValueError, match=r"lora: no file .*nothing.safetensors"):
        load_pipeline(str(random_folder), lora=str(tmp_path / "nothing.safetensors"))


@pytest.mark.parametrize(
    ("offload", "message"), [("model", "'model' is for GPUs; add --device cuda"), ("some", "must be one of none, mod")]
)
def test_an_offload_that_cannot_be_had_is_explained(offload, message):
    with pytest.raises(ValueError, match=message):
        load_pipeline(offload=offload)


def offload(model, kind, place="cpu"):
    """The hooks that pipelines put on for offloading, with ``place`` as the GPU."""
    if kind == "model":
        return accelerate.cpu_offload_with_hook(model, execution_device=place)[0]
    return accelerate.cpu_offload(model, execution_device=torch.device(place), offload_buffers=True)


def offload_pipeline(pipe, kind, place="cpu"):
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            offload(part, kind, place)
    return pipe


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_offload_hooks_do_not_disturb_the_probe(kind):
    inputs = make_inputs()
    plain = make_sd3()(**inputs).sample
    model = offload(make_sd3(), kind)
    with Probe(model, [RegionMass(), I2TMaps()]) as probe:
        probed = model(**inputs).sample
    assert torch.equal(plain, probed)
    assert torch.equal(plain, model(**inputs).sample)
    assert probe.dataset().sizes["layer"] == 3


IMAGE, CLASSES = scene("val", 0).image, ["grass", "circle"]


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_masks_of_given_images_are_the_same_offloaded(random_pipe, kind):
    encoded = encode_images(random_pipe, [IMAGE])
    plain = OpenVocabularySegmenter(random_pipe, 1)(IMAGE, CLASSES)
    pipe = offload_pipeline(random_pipe, kind)
    assert torch.equal(encode_images(pipe, [IMAGE]), encoded)
    np.testing.assert_array_equal(OpenVocabularySegmenter(pipe, 1)(IMAGE, CLASSES).logits, plain.logits)


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_what_a_distilled_model_is_told_is_where_it_works(kind):
    flux = small_pipeline("flux")
    image, sigma = IMAGE[:24, :24], 0.5
    plain = forward_once(flux, encode_images(flux, [image]), sigma, encode_prompts(flux, ["sand"]))
    offload_pipeline(flux, kind)
    offloaded = forward_once(flux, encode_images(flux, [image]), sigma, encode_prompts(flux, ["sand"]))
    assert torch.equal(plain, offloaded)


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_u_nets_read_images_offloaded(kind):
    def read():
        reader = UNetReader(pipe, 64, 50)
        return i2t_maps(reader.kept(reader.latents(IMAGE), reader.encode("grass"), [1]).found[1])

    pipe = models_baselines.stable_diffusion()
    plain = read()
    offload_pipeline(pipe, kind)
    assert torch.equal(read(), plain)


def test_images_go_where_an_offloaded_model_works_and_not_where_it_rests():
    """PyTorch's meta device in the GPU's place: the weights are moved there, and so must be the pixels."""
    flux, unet = (
        offload_pipeline(pipe, "model", "meta")
        for pipe in (small_pipeline("flux"), models_baselines.stable_diffusion())
    )
    assert flux.vae.device.type == unet.vae.device.type == "cpu"
    assert encode_images(flux, [IMAGE]).is_meta
    assert UNetReader(unet, 64, 50, noisy=False).latents(IMAGE).is_meta
