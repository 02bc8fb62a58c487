"""LoRAs and offload hooks, on small models: they load, and they do not disturb the probe."""

import pytest
import torch
from conftest import make_inputs, make_sd3

from mmdit_probe import I2TMaps, Probe, RegionMass, load_pipeline


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


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_offload_hooks_do_not_disturb_the_probe(kind):
    """The hooks that pipelines put on for offloading, with the CPU in the GPU's place."""
    import accelerate

    inputs = make_inputs()
    plain = make_sd3()(**inputs).sample
    model = make_sd3()
    if kind == "model":
        model, _ = accelerate.cpu_offload_with_hook(model, execution_device="cpu")
    else:
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with Probe(model, [RegionMass(), I2TMaps()]) as probe:
        probed = model(**inputs).sample
    assert torch.equal(plain, probed)
    assert torch.equal(plain, model(**inputs).sample)
    assert probe.dataset().sizes["layer"] == 3
