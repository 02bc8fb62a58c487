"""Contributions and ConceptMaps: against sums written out, and the laws of tokens that nobody attends to."""

import numpy as np
import pytest
import torch
from naive import full_matrix, random_call
from small_pipelines import small_pipeline

from mmdit_probe import ConceptMaps, Contributions, OutputMaps, Probe, RegionMass, TokenLayout
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.attention.surroundings import Surroundings
from mmdit_probe.families import output_projection
from mmdit_probe.readouts.base import read

PROMPT = "a red circle on grass"
OPTIONS = {"num_inference_steps": 1, "guidance_scale": 3.0, "max_sequence_length": 3, "output_type": "latent"}


def generated(pipe, readouts, prompt=PROMPT, **more):
    with Probe(pipe, readouts, **more) as probe:
        output = pipe(prompt, generator=torch.Generator().manual_seed(0), **OPTIONS).images
    return probe, output


@pytest.mark.parametrize("order", ["image-text", "text-image"])
def test_a_contribution_is_the_norm_of_the_words_part_of_the_sum(order):
    """The slow twin: the words' keys alone, head by head, through the output projection, query by query."""
    layout = TokenLayout((2, 3), 6, order)
    call = random_call(2, 4, layout.tokens, 8, kv_heads=2, enable_gqa=True)
    weight, residual = torch.randn(10, 32), torch.randn(2, 6, 10)
    attention = JointAttention(call, layout, around=Surroundings(weight, residual))
    words = [[1, 4], [5]]
    fields = read([Contributions(words)], attention)
    matrix, values = full_matrix(call), call.value.double().repeat_interleave(2, 1)
    for batch in range(2):
        for image in range(6):
            row = matrix[batch, :, layout.image_slice.start + image]
            for number, word in enumerate(words):
                keys = [layout.text_slice.start + position for position in word]
                joined = torch.cat([sum(row[h, k] * values[batch, h, k] for k in keys) for h in range(4)])
                found = fields["contribution"].values[batch, number].flatten()[image]
                assert float(found) == pytest.approx(float((weight.double() @ joined).norm()), rel=1e-4)
            whole = weight.double() @ (row[:, None] @ values[batch]).flatten()
            assert float(fields["contribution_total"].values[batch].flatten()[image]) == pytest.approx(
                float(whole.norm()), rel=1e-4
            )
    torch.testing.assert_close(fields["residual_norm"].values.flatten(1), residual.norm(dim=-1))
    assert Contributions(words).stored_numbers(layout, 4) * 2 == sum(field.values.numel() for field in fields.values())


def test_parts_add_up_to_no_less_than_the_whole(random_pipe):
    """Text that takes all the attention contributes everything; else lengths obey the triangle inequality."""
    layout = TokenLayout((2, 3), 4)
    call = random_call(1, 2, layout.tokens, 8)
    around = Surroundings(torch.randn(5, 16))
    mask = torch.zeros(1, 1, 1, layout.tokens, dtype=torch.bool)
    mask[..., layout.text_slice] = True
    alone = type(call)(call.query, call.key, call.value, type(call.arguments)(mask))
    fields = read([Contributions([[0, 1, 2, 3], [0, 1], [2, 3]])], JointAttention(alone, layout, around=around))
    whole, one, other = fields["contribution"].values[0]
    torch.testing.assert_close(whole, fields["contribution_total"].values[0], rtol=1e-4, atol=1e-5)
    assert (one + other >= whole - 1e-5).all()
    assert fields["residual_norm"].values.isnan().all()


def test_the_total_is_what_the_modules_projection_returns(random_pipe):
    caught, block = {}, random_pipe.transformer.transformer_blocks[1]
    keep = block.attn.register_forward_hook(lambda module, args, out: caught.update(out=out[0].clone()))
    enter = block.register_forward_pre_hook(lambda module, args, kwargs: caught.update(kwargs), with_kwargs=True)
    probe, _ = generated(random_pipe, [Contributions(["red circle", "grass"])])
    keep.remove()
    enter.remove()
    record = probe.dataset("conditional").isel(call=0, batch=0).sel(layer=1)
    bias = output_projection(block.attn).bias
    np.testing.assert_allclose(
        record["contribution_total"].values.ravel(), (caught["out"][1] - bias).norm(dim=-1).detach(), rtol=1e-3
    )
    np.testing.assert_allclose(
        record["residual_norm"].values.ravel(), caught["hidden_states"][1].norm(dim=-1).detach(), rtol=1e-5
    )
    both = probe.dataset()
    assert np.isnan(both["contribution"].values[:, 0]).all()  # the negative prompt has no such words
    assert np.isfinite(both["contribution"].values[:, 1]).all()


def test_flux_has_its_projections_in_both_kinds_of_blocks():
    pipe = small_pipeline("flux")
    with Probe(pipe, [Contributions(["red circle"])]) as probe:
        pipe(PROMPT, num_inference_steps=1, output_type="latent", max_sequence_length=12, height=32, width=48)
    record = probe.dataset("conditional")
    assert record.sizes["layer"] == 2
    for name in ("contribution", "contribution_total", "residual_norm"):
        assert (record[name].values > 0).all()
    assert record["contribution"].shape[-2] < record["contribution"].shape[-1]


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_concepts_that_are_the_whole_prompt_are_read_as_its_words(random_pipe, name):
    """If the text stream holds the concepts' tokens and nothing else, riding along is the same as being there."""
    pipe = random_pipe if name == "sd3" else small_pipeline("flux")
    readouts = [
        ConceptMaps(["red circle", "grass"]),
        ConceptMaps(["grass", "red circle"], "dot"),
        OutputMaps(),
        OutputMaps("dot"),
    ]
    probe = Probe(pipe, readouts[:1])
    probe._blocks.encode()
    tokens = probe._blocks._embeddings
    spans = [list(span) for span in probe._blocks._spans]
    arguments = inputs_of(pipe, tokens)
    with Probe(pipe, [readouts[0], readouts[2]]) as cosine:
        pipe.transformer(**arguments)
    with Probe(pipe, [readouts[1], readouts[3]]) as dot:
        pipe.transformer(**arguments)
    assert [len(span) for span in spans] == [2, 1]
    record, numbers = cosine.dataset(), dot.dataset()
    for number, span in enumerate(spans):
        text = numbers["output_map"].isel(token=span).mean("token").values
        np.testing.assert_allclose(numbers["concept_map"].isel(concept=1 - number).values, text, rtol=1e-3, atol=1e-5)
    single = [number for number, span in enumerate(spans) if len(span) == 1]
    for number in single:
        text = record["output_map"].isel(token=spans[number][0]).values
        np.testing.assert_allclose(record["concept_map"].isel(concept=number).values, text, rtol=1e-3, atol=1e-5)


def inputs_of(pipe, tokens):
    config = pipe.transformer.config
    common = {"encoder_hidden_states": tokens, "timestep": torch.tensor([0.5])}
    if "Flux" in type(pipe).__name__:
        ids = torch.zeros(6, 3)
        ids[:, 1], ids[:, 2] = torch.arange(6) // 3, torch.arange(6) % 3
        image = {"hidden_states": torch.randn(1, 6, config.in_channels), "img_ids": ids}
        pooled = torch.randn(1, config.pooled_projection_dim)
        text = {"txt_ids": torch.zeros(tokens.shape[1], 3), "guidance": torch.ones(1)}
        return {**common, **image, **text, "pooled_projections": pooled}
    image = torch.randn(1, config.in_channels, 8, 12)
    return {**common, "hidden_states": image, "pooled_projections": torch.randn(1, config.pooled_projection_dim)}


def test_nobody_sees_the_concepts(random_pipe):
    """The image and every other readout are the same bit for bit, also those of a probe around."""
    plain, image = generated(random_pipe, [RegionMass()])
    with Probe(random_pipe, [RegionMass()]) as outer:
        ridden, other = generated(random_pipe, [RegionMass(), ConceptMaps(["lava", "snow"])])
    assert torch.equal(image, other)
    for probe in (ridden, outer):
        assert np.array_equal(plain.dataset()["region_mass"].values, probe.dataset()["region_mass"].values)
    record = ridden.dataset("conditional")
    assert np.isfinite(record["concept_map"].values).all()
    assert record["concept"].values.tolist() == ["lava", "snow"]


def test_concepts_need_no_later_layer(random_pipe):
    whole, _ = generated(random_pipe, [ConceptMaps(["lava"])])
    with Probe(random_pipe, [ConceptMaps(["lava"])], layers=[1], stop_early=True) as probe:
        random_pipe(PROMPT, generator=torch.Generator().manual_seed(0), **OPTIONS)
    first = probe.dataset("conditional")["concept_map"].sel(layer=1).values
    assert np.array_equal(first, whole.dataset("conditional")["concept_map"].sel(layer=1).values)


def test_what_cannot_be_read_is_refused(random_pipe, sd3, inputs):
    with pytest.raises(ValueError, match="give the pipeline to the probe"):
        Probe(sd3, [ConceptMaps(["lava"])])
    with pytest.raises(ValueError, match="at least one concept"):
        ConceptMaps("lava")
    with pytest.raises(ValueError, match="lava"):
        ConceptMaps(["lava", "lava"])
    with pytest.raises(ValueError, match="ride along in the text stream of sd3, flux"):
        Probe(small_pipeline("qwen-image"), [ConceptMaps(["lava"])])
    with pytest.raises(ValueError, match="at least one word"):
        Contributions([])
    with pytest.raises(ValueError, match="'snow' is not among the prompt's tokens"):
        generated(random_pipe, [Contributions(["snow"])])
    with pytest.raises(ValueError, match="which tokens are 'sand' is unknown"), Probe(sd3, [Contributions(["sand"])]):
        sd3(**inputs)
    layout = TokenLayout((2, 3), 4)
    with pytest.raises(ValueError, match="output projection of layer 0 can't be read"):
        read([Contributions([[1]])], JointAttention(random_call(1, 2, layout.tokens, 8), layout))
    with pytest.raises(ValueError, match="position 9 does not exist; there are 4"):
        read([Contributions([[9]])], JointAttention(random_call(1, 2, layout.tokens, 8), layout))
