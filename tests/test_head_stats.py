"""HeadStats against the full softmax, and its laws."""

import numpy as np
import pytest
import torch
from naive import full_matrix, random_call

from mmdit_probe import HeadStats, Probe, RegionMass, TokenLayout
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.attention.kernels import AttentionCall
from mmdit_probe.attention.text_tokens import Kind, TextTokens
from mmdit_probe.readouts.base import read
from mmdit_probe.readouts.head_stats import row_entropy

LAYOUTS = [TokenLayout((4, 5), 6), TokenLayout((4, 5), 6, "text-image")]


def tokens(layout, batch):
    kinds = np.array([Kind.START, Kind.WORD, Kind.WORD, Kind.END, Kind.PADDING, Kind.PADDING], object)
    shape = (batch, layout.text)
    rows, everywhere, encoders = np.ones(batch, bool), np.ones(shape, bool), np.full(layout.text, "clip")
    return TextTokens(
        np.full(shape, "x", object), np.broadcast_to(kinds, shape), encoders, rows, everywhere, everywhere
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=["image first", "text first"])
def test_the_statistics_are_those_of_the_full_softmax(layout):
    """The slow twin: each row cut out of the full matrix, renormalized, its entropy summed term by term."""
    call = random_call(2, 3, layout.tokens, 8)
    fields = read([HeadStats()], JointAttention(call, layout, text=tokens(layout, 2)))
    matrix = full_matrix(call)[:, :, layout.image_slice, layout.text_slice].numpy()
    for batch in range(2):
        for head in range(3):
            entropies = [-sum(p * np.log(p) for p in row / row.sum()) for row in matrix[batch, head]]
            assert fields["i2t_entropy"].values[batch, head] == pytest.approx(np.mean(entropies), rel=1e-5)
            effective = np.mean(np.exp(entropies))
            assert fields["i2t_effective_tokens"].values[batch, head] == pytest.approx(effective, rel=1e-5)
    by_token = matrix.mean(2)
    slow = [by_token[..., 0], by_token[..., 1:3].sum(-1), by_token[..., 3], by_token[..., 4:].sum(-1)]
    mass = fields["i2t_kind_mass"].values
    for kind, expected in zip((Kind.START, Kind.WORD, Kind.END, Kind.PADDING), slow, strict=True):
        np.testing.assert_allclose(mass[..., list(Kind).index(kind)], expected, rtol=1e-4)
    assert (mass[..., list(Kind).index(Kind.ABSENT)] == 0).all()


def test_a_text_of_one_token_has_no_entropy():
    layout = TokenLayout((3, 3), 1)
    fields = read([HeadStats()], JointAttention(random_call(1, 2, layout.tokens, 8), layout))
    assert fields["i2t_entropy"].values.abs().max() < 1e-5
    torch.testing.assert_close(fields["i2t_effective_tokens"].values, torch.ones(1, 2), atol=1e-5, rtol=0)


def test_equal_keys_are_all_looked_at():
    layout = TokenLayout((3, 3), 7)
    call = random_call(1, 2, layout.tokens, 8)
    alike = AttentionCall(call.query, torch.zeros_like(call.key), call.value, call.arguments)
    fields = read([HeadStats()], JointAttention(alike, layout))
    torch.testing.assert_close(fields["i2t_effective_tokens"].values, torch.full((1, 2), 7.0))


def test_entropy_does_not_depend_on_the_rows_mass():
    rows = torch.rand(4, 9)
    torch.testing.assert_close(row_entropy(rows), row_entropy(rows * 1e-3))
    assert row_entropy(torch.zeros(1, 3)).isnan().all()


def test_the_kinds_add_up_to_the_mass_on_text(random_pipe):
    with Probe(random_pipe, [HeadStats(), RegionMass()]) as probe:
        random_pipe("a red circle", num_inference_steps=1, guidance_scale=3.0, max_sequence_length=3)
    record = probe.dataset()
    np.testing.assert_allclose(
        record["i2t_kind_mass"].sum("kind"), record["region_mass"].sel(region="I2T"), rtol=1e-3, atol=1e-5
    )
    assert list(record["kind"].values) == [str(kind) for kind in Kind]
    assert (record["i2t_kind_mass"].sel(kind="absent") > 0).all()
    negative = record.isel(batch=0)["i2t_kind_mass"].sel(kind="word")
    assert (negative == 0).all()


def test_unknown_kinds_are_nan(sd3, inputs):
    with Probe(sd3, [HeadStats()]) as probe:
        sd3(**inputs)
    record = probe.dataset()
    assert record["i2t_kind_mass"].isnull().all()
    assert record["i2t_entropy"].notnull().all()
