"""Other precisions, modes and backends: numbers stay right, outputs bit for bit."""

import numpy as np
import pytest
import torch
from conftest import make_inputs, make_sd3

from mmdit_probe import BlurText, I2TMaps, Knockout, Probe, RegionMass, Scale, ValueNorms, WordMaps
from mmdit_probe.edits import BlurGrid
from mmdit_probe.readouts import HeadStats, T2IMaps

EDITS = [BlurText(1), BlurGrid(1), Knockout(1), Scale(1, 2.0), Knockout(1, "T2I")]
READOUTS = [RegionMass(), I2TMaps(), T2IMaps(), ValueNorms(), HeadStats(), WordMaps([[1, 2]]), WordMaps([[1]], "t2i")]


def run(model, inputs, edits=(), readouts=()):
    with Probe(model, readouts, edits=edits) as probe:
        output = model(**inputs).sample
    return output, probe


def double():
    return make_sd3().double(), {name: value.double() for name, value in make_inputs().items()}


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_edits_in_float64(edit):
    """Closer to themselves in float64 than fp32 can be."""
    output, _ = run(*double(), [edit])
    single, _ = run(make_sd3(), make_inputs(), [edit])
    assert output.dtype == torch.float64
    torch.testing.assert_close(output.float(), single, atol=1e-5, rtol=1e-4)
    same, _ = run(*double(), [Scale(1, 1.0)])
    torch.testing.assert_close(same, run(*double())[0], atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("readout", READOUTS, ids=lambda readout: type(readout).__name__)
def test_readouts_in_float64(readout):
    found = run(*double(), readouts=[readout])[1].dataset()
    wanted = run(make_sd3(), make_inputs(), readouts=[readout])[1].dataset()
    for name in wanted.data_vars:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5, rtol=1e-4)


def test_readouts_of_words_in_float64(random_pipe):
    random_pipe.to(torch.float64)
    with Probe(random_pipe, [HeadStats()], edits=[Knockout(1, words=["red"])]) as probe:
        random_pipe("a red circle", num_inference_steps=1, max_sequence_length=0, output_type="latent")
    assert probe.dataset("conditional")["i2t_kind_mass"].sel(kind="word").notnull().all()


def deterministic():
    torch.use_deterministic_algorithms(True)
    return lambda: torch.use_deterministic_algorithms(False)


def bf16_by_default():
    torch.set_default_dtype(torch.bfloat16)
    return lambda: torch.set_default_dtype(torch.float32)


def inference():
    mode = torch.inference_mode()
    mode.__enter__()
    return lambda: mode.__exit__(None, None, None)


def on_device():
    mode = torch.device("cpu")
    mode.__enter__()
    return lambda: mode.__exit__(None, None, None)


@pytest.mark.parametrize("mode", [deterministic, bf16_by_default, inference, on_device])
def test_modes_change_neither_the_record_nor_the_edits(mode):
    model, inputs = make_sd3(), make_inputs()
    edits = [BlurText(1), Scale(2, 2.0)]
    plain, edited = run(model, inputs, readouts=READOUTS), run(model, inputs, edits)[0]
    leave = mode()
    try:
        output, probe = run(model, inputs, readouts=READOUTS)
        changed = run(model, inputs, edits)[0]
        fields = probe.fields()
    finally:
        leave()
    torch.testing.assert_close(output, plain[0])
    torch.testing.assert_close(changed, edited)
    for name, field in plain[1].fields().items():
        torch.testing.assert_close(fields[name].values, field.values, equal_nan=True)


@pytest.mark.parametrize("backend", ["_native_math", "native", "_native_flash"])
def test_a_kernel_that_was_chosen_stays_bit_for_bit(backend, monkeypatch):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry
    from small_pipelines import small_pipeline

    pipe = small_pipeline("flux")
    # diffusers makes the kernel of one model that of every later one too
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    pipe.transformer.set_attention_backend(backend)

    def generate():
        arguments = {"height": 32, "width": 32, "num_inference_steps": 2, "max_sequence_length": 16}
        with torch.no_grad():
            return pipe(
                "a red circle", output_type="latent", generator=torch.Generator().manual_seed(0), **arguments
            ).images

    plain = generate()
    with Probe(pipe, [RegionMass()]) as probe:
        assert torch.equal(generate(), plain)
    assert torch.equal(generate(), plain)
    np.testing.assert_allclose(probe.dataset()["region_mass"].sel(region=["I2I", "I2T"]).sum("region"), 1, atol=1e-5)
    assert ("flash" in probe.dataset().attrs["kernels"]) == (backend != "_native_math")


def gradients(edits, checkpointing, inside):
    model, inputs = make_sd3().requires_grad_(True).train(), make_inputs()
    if checkpointing:
        model.enable_gradient_checkpointing()
    inputs["hidden_states"].requires_grad_(True)
    with Probe(model, [RegionMass()], edits=edits) as probe:
        loss = model(**inputs).sample.square().mean()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    return [weight.grad for weight in model.parameters() if weight.grad is not None], probe.dataset()


@pytest.mark.parametrize("edits", [[], [BlurText(1)], [Knockout(0), Scale(2, 2.0)]], ids=["none", "one", "two"])
@pytest.mark.parametrize("inside", [True, False])
def test_checkpointing_runs_blocks_again_with_their_edits_and_unrecorded(edits, inside):
    plain, wanted = gradients(edits, False, True)
    found, record = gradients(edits, True, inside)
    assert len(found) == len(plain)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)
    np.testing.assert_array_equal(record["region_mass"], wanted["region_mass"])


def test_checkpointing_of_the_whole_model_is_edited_again_or_refused():
    from torch.utils.checkpoint import checkpoint

    model, inputs = make_sd3().requires_grad_(True), make_inputs()
    latents = inputs["hidden_states"].requires_grad_(True)

    def loss(number=0):
        again = checkpoint(lambda x: model(**{**inputs, "hidden_states": x}).sample, latents, use_reentrant=False)
        return again.square().mean()

    with Probe(model, [RegionMass()], edits=[BlurText(1)]):
        model(**inputs).sample.square().mean().backward()
    wanted, latents.grad = latents.grad, None
    with Probe(model, [RegionMass()], edits=[BlurText(1)]) as probe:
        loss().backward()
    torch.testing.assert_close(latents.grad, wanted)
    assert probe.dataset().sizes["call"] == 1
    with pytest.raises(ValueError, match="which of 2 calls it is can't be told"), Probe(model, [], edits=[BlurText(1)]):
        (loss() + loss()).backward()
