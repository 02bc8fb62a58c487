"""The probe leaves the model as it was, and its numbers are the model's."""

import threading

import numpy as np
import pytest
import torch
from conftest import make_inputs, make_sd3
from naive import full_matrix

from mmdit_probe import Field, I2TMaps, Probe, Readout, RegionMass, T2IMaps, TokenLayout, ValueNorms
from mmdit_probe.attention.intercept import active_probes

ALL = [RegionMass(), I2TMaps(), T2IMaps(), ValueNorms()]


class Keep(Readout):
    """Keeps the calls themselves, for comparison with the naive twin."""

    def __init__(self):
        self.seen = []

    def measure(self, attention):
        self.seen.append(attention)
        return {}


def hooks(model):
    return [h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", [{}, {"dual": (0, 1)}, {"qk_norm": "rms_norm"}])
def test_output_is_bit_for_bit_the_unprobed_one(dtype, variant):
    model, inputs = make_sd3(**variant).to(dtype), make_inputs(dtype=dtype)
    plain = model(**inputs).sample
    with Probe(model, ALL):
        probed = model(**inputs).sample
    assert torch.equal(plain, probed)
    assert torch.equal(plain, model(**inputs).sample)


def test_numbers_are_those_of_the_full_softmax(sd3, inputs):
    keep = Keep()
    with Probe(sd3, [*ALL, keep]) as probe:
        sd3(**inputs)
    record = probe.dataset()
    assert [attention.layer for attention in keep.seen] == [0, 1, 2]
    for attention in keep.seen:
        matrix, layout = full_matrix(attention.call).float(), attention.layout
        at = record.isel(call=0).sel(layer=attention.layer)
        for name, rows, cols in (
            ("I2I", layout.image_slice, layout.image_slice),
            ("I2T", layout.image_slice, layout.text_slice),
            ("T2I", layout.text_slice, layout.image_slice),
            ("T2T", layout.text_slice, layout.text_slice),
        ):
            twin = matrix[:, :, rows, cols].sum(-1).mean(-1)
            np.testing.assert_allclose(at["region_mass"].sel(region=name).values, twin, atol=1e-5)
        i2t = matrix[:, :, layout.image_slice, layout.text_slice].mean(1).reshape(2, 4, 6, 7)
        np.testing.assert_allclose(at["i2t"].values, i2t, atol=1e-5)
        t2i = matrix[:, :, layout.text_slice, layout.image_slice].mean(1).transpose(1, 2).reshape(2, 4, 6, 7)
        np.testing.assert_allclose(at["t2i"].values, t2i, atol=1e-5)
        norms = attention.value.norm(dim=-1)
        np.testing.assert_allclose(at["value_norm"].sel(stream="image").values, norms[..., :24].mean(-1), rtol=1e-5)
        np.testing.assert_allclose(at["value_norm"].sel(stream="text").values, norms[..., 24:].mean(-1), rtol=1e-5)


def test_the_contract_of_the_dataset(sd3, inputs):
    with Probe(sd3, [RegionMass(), I2TMaps(heads="all"), ValueNorms()]) as probe:
        for _ in range(2):
            sd3(**inputs)
    record = probe.dataset()
    assert record["region_mass"].dims == ("call", "batch", "layer", "head", "region")
    assert record["i2t"].dims == ("call", "batch", "layer", "head", "row", "col", "token")
    assert record["value_norm"].dims == ("call", "batch", "layer", "head", "stream")
    assert list(record["region"].values) == ["I2I", "I2T", "T2I", "T2T"]
    assert list(record["layer"].values) == [0, 1, 2]
    assert list(record["step"].values) == [0, 1]
    assert list(record["sigma"].values) == [0.5, 0.5]
    assert list(record["scheduler_timestep"].values) == [500, 500]
    assert record["value_norm"].sel(stream="prompt").isnull().all()  # no prompt was seen
    mass = record["region_mass"]
    assert float(mass.min()) >= 0
    assert float(mass.max()) <= 1
    summed = record["i2t"].sum("token").mean(("row", "col"))
    np.testing.assert_allclose(summed, mass.sel(region="I2T"), atol=1e-5)


def test_text_tokens_are_where_the_layout_says(sd3, inputs):
    """Changing one text token's input changes what the first layer gives that token; a swapped order would not show it."""
    other = {name: value.clone() for name, value in inputs.items()}
    other["encoder_hidden_states"][:, 3] += 1
    maps = []
    for given in (inputs, other):
        with Probe(sd3, [keep := Keep()], layers=[0]):
            sd3(**given)
        layout = keep.seen[0].layout
        maps.append(keep.seen[0].scores(layout.image_slice, layout.text_slice))
    changed = (maps[0] - maps[1]).abs().amax((0, 1, 2))
    assert changed.argmax() == 3
    assert (changed[[0, 1, 2, 4, 5, 6]] == 0).all()


def test_rows_and_columns_of_the_grid_are_not_swapped(sd3, inputs):
    """One pixel in the last row, first column of 4 x 6 tokens changes that token's query alone."""
    other = {name: value.clone() for name, value in inputs.items()}
    other["hidden_states"][:, :, -1, 0] += 1
    scores = []
    for given in (inputs, other):
        with Probe(sd3, [keep := Keep()], layers=[0]):
            sd3(**given)
        layout = keep.seen[0].layout
        scores.append(keep.seen[0].scores(layout.image_slice, layout.text_slice).unflatten(2, layout.grid))
    changed = (scores[0] - scores[1]).abs().amax((0, 1, 4)) > 0
    assert layout.grid == (4, 6)
    assert changed.nonzero().tolist() == [[3, 0]]


def test_dual_attention_is_not_joint(inputs):
    """SD3.5's second attention sees the image alone; it is neither read nor counted."""
    model = make_sd3(dual=(0, 1))
    with Probe(model, [keep := Keep()]):
        model(**inputs)
    assert [attention.layer for attention in keep.seen] == [0, 1, 2]
    assert {attention.query.shape[2] for attention in keep.seen} == {31}


def test_only_the_layers_and_steps_asked_for(sd3, inputs):
    with Probe(sd3, [keep := Keep(), RegionMass()], layers=[2, 0], steps=[1]) as probe:
        for _ in range(3):
            sd3(**inputs)
    assert [(a.step, a.layer) for a in keep.seen] == [(1, 0), (1, 2)]
    assert probe.dataset().sizes["call"] == 1
    assert list(probe.dataset()["layer"].values) == [0, 2]


def test_stop_early_runs_no_layer_after_the_last_one_asked_for(sd3, inputs):
    ran = []
    for i, block in enumerate(sd3.transformer_blocks):
        block.ff.register_forward_hook(lambda *_, i=i: ran.append(i))
    after = False
    with Probe(sd3, [RegionMass()], layers=[1], stop_early=True) as probe:
        sd3(**inputs)
        after = True
    assert not after
    assert ran == [0]
    with Probe(sd3, [RegionMass()], layers=[1]) as whole:
        sd3(**inputs)
    np.testing.assert_array_equal(probe.dataset()["region_mass"], whole.dataset()["region_mass"])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["model", "readout"])
def test_nothing_is_left_behind_after_an_exception(sd3, inputs, error, where):
    class Broken(Readout):
        def measure(self, attention):
            if where == "readout":
                raise error("in the readout")
            return {}

    def fail(module, args):
        if where == "model":
            raise error("in the model")

    # to_out runs inside the attention module, after the attention itself
    handle = sd3.transformer_blocks[1].attn.to_out[0].register_forward_pre_hook(fail)
    before = len(hooks(sd3))
    plain_mode = torch.overrides._get_current_function_mode()
    with pytest.raises(error, match=f"in the {where}"), Probe(sd3, [Broken()]):
        sd3(**inputs)
    assert len(hooks(sd3)) == before
    assert active_probes() == 0
    assert torch.overrides._get_current_function_mode() is plain_mode
    handle.remove()
    with Probe(sd3, [RegionMass()]) as probe:
        sd3(**inputs)
    assert probe.dataset().sizes["layer"] == 3


def test_an_interrupt_caught_inside_the_block_does_not_read_twice(sd3, inputs):
    def interrupt(module, args):
        raise KeyboardInterrupt

    with Probe(sd3, [keep := Keep()]) as probe:
        handle = sd3.transformer_blocks[1].attn.to_out[0].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            sd3(**inputs)
        handle.remove()
        keep.seen.clear()
        sd3(**inputs)
    assert [a.layer for a in keep.seen] == [0, 1, 2]
    assert len(probe._calls) == 2


def test_a_probe_opens_again_with_a_new_record(sd3, inputs):
    probe = Probe(sd3, [RegionMass()])
    for calls in (1, 2):
        with probe:
            for _ in range(calls):
                sd3(**inputs)
        assert probe.dataset().sizes["call"] == calls
    assert not hooks(sd3)


def test_an_open_probe_does_not_open_twice(sd3, inputs):
    probe = Probe(sd3, [RegionMass()])
    with probe:
        with pytest.raises(ValueError, match="open already"), probe:
            pass
        sd3(**inputs)
    assert probe.dataset().sizes["call"] == 1


def test_nested_probes_see_the_same_and_leave_the_output_alone(sd3, inputs):
    plain = sd3(**inputs).sample
    with Probe(sd3, [RegionMass(), I2TMaps()]) as outer:
        with Probe(sd3, [RegionMass()], layers=[1]) as inner:
            nested = sd3(**inputs).sample
        alone = sd3(**inputs).sample
    assert torch.equal(plain, nested)
    assert torch.equal(plain, alone)
    assert outer.dataset().sizes["call"] == 2
    np.testing.assert_array_equal(
        inner.dataset()["region_mass"].isel(call=0, layer=0), outer.dataset()["region_mass"].isel(call=0).sel(layer=1)
    )


def test_probes_in_threads_do_not_mix():
    records, errors = {}, []
    models = [make_sd3() for _ in range(8)]

    def work(number):
        try:
            model, inputs = models[number], make_inputs()
            inputs["hidden_states"] = inputs["hidden_states"] + number
            with Probe(model, [RegionMass()]) as probe:
                for _ in range(3):
                    with torch.no_grad():
                        model(**inputs)
            records[number] = probe.dataset()["region_mass"].values
        except Exception as error:  # shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    alone = {}
    for number in range(8):
        model, inputs = models[number], make_inputs()
        inputs["hidden_states"] = inputs["hidden_states"] + number
        with Probe(model, [RegionMass()]) as probe:
            model(**inputs)
        alone[number] = probe.dataset()["region_mass"].values
    for number in range(8):
        assert records[number].shape == (3, 2, 3, 2, 4)
        np.testing.assert_allclose(records[number], np.repeat(alone[number], 3, 0), atol=1e-6)


def test_a_readout_of_ones_own(sd3, inputs):
    class MeanLSE(Readout):
        def measure(self, attention):
            return {"mean_lse": Field(("batch", "head"), attention.lse.mean(-1))}

    with Probe(sd3, [MeanLSE()]) as probe:
        sd3(**inputs)
    assert probe.dataset()["mean_lse"].dims == ("call", "batch", "layer", "head")


def test_a_compiled_model_runs_eagerly_while_it_is_probed(sd3, inputs):
    plain = sd3(**inputs).sample
    compiled = torch.compile(sd3, backend="eager")
    compiled(**inputs)
    with Probe(compiled, [RegionMass()]) as probe:
        probed = compiled(**inputs).sample
    assert torch.equal(plain, probed)
    assert probe.dataset().sizes["layer"] == 3


def test_another_attention_backend_is_put_back(sd3, inputs):
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    processor = sd3.transformer_blocks[0].attn.processor
    processor._attention_backend = AttentionBackendName.FLEX
    with Probe(sd3, [RegionMass()]):
        assert processor._attention_backend == AttentionBackendName.NATIVE
        assert _AttentionBackendRegistry.get_active_backend()[0] == AttentionBackendName.NATIVE
        sd3(**inputs)
    assert processor._attention_backend == AttentionBackendName.FLEX


def test_a_processor_that_bypasses_torch_is_named(sd3, inputs):
    class Foreign:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
            return hidden_states, encoder_hidden_states

    sd3.transformer_blocks[1].attn.processor = Foreign()
    with pytest.raises(ValueError, match="layer 1 ran its attention through Foreign"), Probe(sd3, [RegionMass()]):
        sd3(**inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [3]}, r"layers \[3\] do not exist; this model has layers 0 to 2"),
        ({"layout": TokenLayout((3, 3), 4)}, "the layout has 13 tokens .* the call 31 queries"),
    ],
)
def test_bad_arguments_are_explained(sd3, inputs, arguments, message):
    with pytest.raises(ValueError, match=message), Probe(sd3, [RegionMass()], **arguments):
        sd3(**inputs)


def test_an_unknown_transformer_is_named():
    with pytest.raises(ValueError, match="Linear is not a supported transformer; supported: SD3Transformer2DModel"):
        Probe(torch.nn.Linear(2, 2), [])


def test_no_record_is_an_error(sd3):
    with Probe(sd3, [RegionMass()]) as probe:
        pass
    with pytest.raises(ValueError, match="nothing was recorded"):
        probe.dataset()


def test_scores_that_are_not_finite_name_the_layer_and_the_step(sd3, inputs):
    with Probe(sd3, [RegionMass()]) as probe:
        sd3(**inputs)
        sd3.transformer_blocks[1].attn.to_k.weight.fill_(torch.nan)
        with pytest.raises(ValueError, match="layer 1 has attention scores that are not finite at step 1"):
            sd3(**inputs)
    assert not hooks(sd3)
    assert probe.dataset().sizes["call"] == 2


def test_calls_of_different_size_are_an_error(sd3):
    with Probe(sd3, [RegionMass()]) as probe:
        sd3(**make_inputs())
        sd3(**make_inputs(height=12))
    with pytest.raises(ValueError, match="differ in size"):
        probe.dataset()


def test_a_thousand_openings_leave_nothing(sd3):
    for _ in range(1000):
        with Probe(sd3, [RegionMass()]):
            pass
    assert not hooks(sd3)


def test_gradients_flow_through_a_probed_model(inputs):
    model = make_sd3().requires_grad_(True)
    grads = []
    for probing in (False, True):
        model.zero_grad()
        if probing:
            with Probe(model, ALL):
                model(**inputs).sample.square().sum().backward()
        else:
            model(**inputs).sample.square().sum().backward()
        grads.append(model.transformer_blocks[0].attn.to_q.weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1])
    assert grads[0].abs().max() > 0


@pytest.mark.parametrize("norm", [None, "rms_norm"])
def test_under_autocast_the_output_is_unchanged_and_the_numbers_are_fp32s(norm):
    """Norms leave queries and keys in fp32, which the plain call brings to bf16; what is read must not round again."""
    model, inputs = make_sd3(qk_norm=norm), make_inputs()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(**inputs).sample
        with Probe(model, [RegionMass(), I2TMaps()], edits=[]) as probe:
            probed = model(**inputs).sample
    assert torch.equal(plain, probed)
    record = probe.dataset()
    assert record.attrs["kernels"] == "flash-cpu"
    mass = record["region_mass"].sel(region="I2T")
    maps = record["i2t"].sum("token").mean(("row", "col"))
    np.testing.assert_allclose(mass.mean("head"), maps, atol=1e-6)


def test_fields_are_the_datasets_tensors(random_pipe):
    with Probe(random_pipe, [RegionMass(), I2TMaps()], layers=[0, 2]) as probe:
        random_pipe("sand", num_inference_steps=2, guidance_scale=3.0, max_sequence_length=2, output_type="latent")
    for branch in ("both", "conditional", "unconditional"):
        fields, record = probe.fields(branch), probe.dataset(branch)
        assert set(fields) == set(record.data_vars)
        for name, field in fields.items():
            assert field.dims == record[name].dims
            assert field.values.dtype == torch.float32
            np.testing.assert_array_equal(field.values, record[name])
    with pytest.raises(ValueError, match="cfg_branch must be"):
        probe.fields("left")


def test_a_layer_that_a_call_skipped_is_nan_in_the_fields(sd3, inputs):
    with Probe(sd3, [RegionMass()]) as probe:
        sd3(**inputs, skip_layers=[1])
    values = probe.fields()["region_mass"].values
    assert values[0, :, 1].isnan().all()
    assert values[0, :, [0, 2]].isfinite().all()


def test_a_record_says_whether_the_words_are_known_and_if_not_why(sd3, inputs, random_pipe, random_folder):
    from diffusers import DiffusionPipeline

    from mmdit_probe.pipelines.loading import quiet_loading

    arguments = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent", "max_sequence_length": 2}
    with quiet_loading():
        plain = DiffusionPipeline.from_pretrained(
            random_folder, local_files_only=True, text_encoder_3=None, tokenizer_3=None
        )
    plain.set_progress_bar_config(disable=True)

    def words(probed, pipe):
        with Probe(probed, [RegionMass()]) as probe:
            pipe("sand", **arguments)
        return probe, probe.dataset().attrs["words"]

    assert words(random_pipe.transformer, random_pipe)[1] == "known"
    assert words(plain, plain)[1] == "known"
    probe, known = words(plain.transformer, plain)  # known from the pipeline's call, though nobody has named it
    assert known == "known"
    assert list(probe.dataset("conditional")["conditional"].values) == [True]
    features, _, pooled, _ = plain.encode_prompt("sand", None, None, do_classifier_free_guidance=False)
    with Probe(plain, [RegionMass()]) as probe:
        plain(prompt_embeds=features, pooled_prompt_embeds=pooled, **arguments)
    assert probe.dataset().attrs["words"].startswith("unknown: no prompt was seen")
