"""I2IMaps, T2TMaps, KeyMass and OutputMaps against the full softmax, their laws, and one pass for all of them."""

import numpy as np
import pytest
import torch
from naive import full_matrix, random_call

from mmdit_probe import Extra, I2IMaps, I2TMaps, KeyMass, OutputMaps, Probe, RegionMass, T2TMaps, TokenLayout
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.attention.layout import Region
from mmdit_probe.attention.text_tokens import Kind, TextTokens
from mmdit_probe.readouts.base import read
from mmdit_probe.readouts.key_mass import sampled_queries

REGISTERS = (Extra("register", 2, "first"), Extra("gist", 1, "last"))
LAYOUTS = {
    "image first": TokenLayout((3, 4), 5),
    "text first": TokenLayout((3, 4), 5, "text-image"),
    "registers": TokenLayout((3, 4), 5, "text-image", REGISTERS),
    "video": TokenLayout((2, 2, 3), 5),
}
MODELS = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
HEADS = pytest.mark.parametrize("heads", ["mean", "all"])


def made(layout, dtype=torch.float32, **options):
    """A call with grouped heads and a mask that hides one key, two batch rows."""
    mask = torch.ones(2, 1, 1, layout.keys, dtype=torch.bool)
    mask[1, ..., -1] = False
    call = random_call(2, 4, layout.tokens, 8, dtype, kv_heads=2, enable_gqa=True, attn_mask=mask)
    return JointAttention(call, layout, **options), full_matrix(call)


def averaged(matrix, heads):
    return matrix.mean(1) if heads == "mean" else matrix


@MODELS
@HEADS
def test_the_queries_maps_are_rows_of_the_full_softmax(layout, heads):
    attention, matrix = made(layout)
    places = [(0, 0), (2, 1), (0, 0)] if len(layout.grid) == 2 else [(0, 0, 0), (1, 1, 2), (0, 0, 0)]
    found = read([I2IMaps(places, heads)], attention)["i2i"]
    for number, place in enumerate(places):
        query = layout.image_slice.start + int(np.ravel_multi_index(place, layout.grid))
        slow = averaged(matrix, heads)[..., query, layout.image_slice].unflatten(-1, layout.grid)
        torch.testing.assert_close(found.values[..., number, *[slice(None)] * len(layout.grid)], slow.float())
    assert found.axes[0].labels[0] == ",".join("0" * len(layout.grid))


@HEADS
def test_a_mask_gives_the_mean_over_its_queries(heads):
    layout = LAYOUTS["text first"]
    attention, matrix = made(layout)
    mask = np.zeros((3, 4), bool)
    mask[1, 1:3] = mask[2, 0] = True
    found = read([I2IMaps(mask, heads)], attention)["i2i"].values
    queries = layout.image_slice.start + np.flatnonzero(mask)
    slow = averaged(matrix, heads)[..., queries, layout.image_slice].mean(-2, keepdim=True)
    torch.testing.assert_close(found.flatten(-2), slow.float())
    everywhere = read([I2IMaps(np.ones((3, 4), bool)), RegionMass()], attention)
    total = everywhere["i2i"].values.sum((-3, -2, -1))
    torch.testing.assert_close(total, everywhere["region_mass"].values[..., 0].mean(1))


def test_the_center_is_the_token_in_the_middle():
    attention, _ = made(LAYOUTS["image first"])
    center, place = (read([I2IMaps(queries)], attention)["i2i"].values for queries in ("center", [(1, 2)]))
    assert torch.equal(center, place)


@MODELS
@HEADS
def test_text_to_text_is_cut_from_the_full_softmax(layout, heads):
    attention, matrix = made(layout, text=two_encoders(layout))
    fields = read([T2TMaps(heads), RegionMass()], attention)
    slow = averaged(matrix, heads)[..., layout.text_slice, layout.text_slice]
    torch.testing.assert_close(fields["t2t"].values, slow.float())
    by_encoder = fields["t2t_encoder"].values
    for i, rows in enumerate((slice(0, 3), slice(3, 5))):
        for j, cols in enumerate((slice(0, 3), slice(3, 5))):
            torch.testing.assert_close(by_encoder[..., i, j], slow[..., rows, cols].sum(-1).mean(-1).float())
    mass = fields["region_mass"].values[..., 3]
    weighted = by_encoder.sum(-1) @ torch.tensor([3 / 5, 2 / 5])  # T2T is the mean over all text queries
    torch.testing.assert_close(weighted, averaged(mass, heads))


def two_encoders(layout):
    shape = (2, layout.text)
    words, everywhere = np.full(shape, Kind.WORD, object), np.ones(shape, bool)
    encoders = np.array(["clip"] * 3 + ["t5"] * 2)
    return TextTokens(np.full(shape, "x", object), words, encoders, np.ones(2, bool), everywhere, everywhere)


@MODELS
@HEADS
def test_the_keys_masses_are_column_means_of_the_full_softmax(layout, heads):
    attention, matrix = made(layout)
    fields = read([KeyMass(heads)], attention)
    columns = averaged(matrix, heads)[..., layout.image_slice, :].mean(-2).float()
    image = fields["image_key_mass"].values.flatten(-len(layout.grid))
    torch.testing.assert_close(image, columns[..., layout.image_slice])
    torch.testing.assert_close(fields["text_key_mass"].values, columns[..., layout.text_slice])
    parts = [image, fields["text_key_mass"].values]
    if layout.extras:
        parts.append(fields["extra_key_mass"].values)
        torch.testing.assert_close(parts[-1], torch.cat([columns[..., :2], columns[..., -1:]], -1))
        assert fields["extra_key_mass"].axes[0].labels == ("register 1", "register 2", "gist 1")
    torch.testing.assert_close(torch.cat(parts, -1).sum(-1), torch.ones(columns.shape[:-1]))


@HEADS
def test_sampled_queries_come_with_their_standard_error(heads):
    layout = TokenLayout((8, 8), 5)
    attention, matrix = made(layout)
    chosen = sampled_queries(layout, 4)
    fields = read([KeyMass(heads, every=4)], attention)
    rows = averaged(matrix, heads)[..., chosen, :]
    torch.testing.assert_close(fields["text_key_mass"].values, rows.mean(-2)[..., layout.text_slice].float())
    slow = rows.std(-2) / len(chosen) ** 0.5 * (1 - len(chosen) / 64) ** 0.5
    found = fields["text_key_mass_error"].values
    torch.testing.assert_close(found, slow[..., layout.text_slice].float(), rtol=1e-3, atol=1e-6)
    assert sorted(torch.bincount(chosen % 8).tolist()) == [2] * 8  # every column alike, though 4 divides the width


def test_the_error_says_how_far_off_the_sample_is():
    """Over many calls, the samples' means lie about one standard error from the whole grid's."""
    layout, off = TokenLayout((16, 16), 6), []
    for seed in range(30):
        attention = JointAttention(random_call(1, 1, layout.tokens, 4, seed=seed), layout)
        sampled, whole = (read([KeyMass(every=every)], attention) for every in (3, 1))
        distance = sampled["text_key_mass"].values - whole["text_key_mass"].values
        off.append(distance / sampled["text_key_mass_error"].values)
    assert 0.6 < float(torch.cat(off).square().mean()) < 1.6


@MODELS
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_output_maps_compare_the_outputs_token_by_token(layout, similarity):
    attention, matrix = made(layout)
    values = attention.value.double().repeat_interleave(2, 1)
    outputs = (matrix @ values).transpose(1, 2).flatten(2)
    found = read([OutputMaps(similarity)], attention)["output_map"].values.flatten(1, len(layout.grid))
    for batch in range(2):
        for i, image in enumerate(outputs[batch, layout.image_slice]):
            for j, text in enumerate(outputs[batch, layout.text_slice]):
                length = image.norm() * text.norm() if similarity == "cosine" else 1
                assert float(found[batch, i, j]) == pytest.approx(float(image @ text / length), abs=1e-5)


def test_readouts_share_one_pass_over_the_rows(monkeypatch):
    """However many want a query's row, it is computed once; alone they read the same."""
    layout = TokenLayout((5, 5), 4)
    attention = JointAttention(random_call(2, 3, layout.tokens, 8), layout)
    readouts = [I2IMaps([(1, 1), (4, 0)], "all"), KeyMass(every=3), I2IMaps("center"), T2TMaps(), I2TMaps()]
    seen, whole = [], JointAttention.key_rows
    monkeypatch.setattr(JointAttention, "key_rows", lambda self, rows: seen.append(rows.tolist()) or whole(self, rows))
    shared = [read([*readouts[:2], *readouts[3:]], attention), read([readouts[2]], attention)]
    assert len(seen) == 2
    assert len(seen[0]) == len(set(seen[0])) == len({*sampled_queries(layout, 3).tolist(), 6, 20})
    alone = [read([readout], attention) for readout in readouts]
    for name in ("i2i", "image_key_mass", "t2t", "i2t"):
        [first] = [fields[name] for fields in alone[:2] + alone[3:] if name in fields]
        torch.testing.assert_close(shared[0][name].values, first.values, rtol=1e-5, atol=1e-7)


def test_small_chunks_change_nothing():
    layout = TokenLayout((12, 12), 4)
    call = random_call(1, 2, layout.tokens, 8)
    readouts = [KeyMass(), KeyMass("all", 2), I2IMaps(np.eye(12, dtype=bool))]
    large, small = (
        [read([readout], JointAttention(call, layout, halvings=halvings)) for readout in readouts]
        for halvings in (0, 6)
    )
    for one, other in zip(large, small, strict=True):
        for name in one:
            torch.testing.assert_close(one[name].values, other[name].values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("readout", [I2IMaps([(0, 1), (2, 2)], "all"), T2TMaps(), KeyMass("all", 2), OutputMaps()])
def test_the_memory_is_known_before(readout):
    layout = TokenLayout((3, 4), 5, extras=REGISTERS)
    attention = JointAttention(random_call(1, 2, layout.tokens, 8), layout)
    stored = sum(field.values.numel() for field in read([readout], attention).values())
    assert readout.stored_numbers(layout, 2) == stored


def test_plain_cross_attention_has_text_keys_alone():
    layout = TokenLayout((3, 4), 5, scope="cross")
    call = random_call(1, 2, 12, 8)
    call = type(call)(call.query, call.key[:, :, :5], call.value[:, :, :5], call.arguments)
    attention = JointAttention(call, layout)
    assert Region.I2I not in layout.regions
    fields = read([KeyMass()], attention)
    assert fields["image_key_mass"].values.isnan().all()
    torch.testing.assert_close(fields["text_key_mass"].values.sum(-1), torch.ones(1))
    for readout, message in (
        (I2IMaps(), "image does not attend"),
        (T2TMaps(), "text does"),
        (OutputMaps(), "text does"),
    ):
        with pytest.raises(ValueError, match=message):
            read([readout], attention)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: I2IMaps("corner"), "must be 'center', positions or a mask, got 'corner'"),
        (lambda: I2IMaps([]), "at least one"),
        (lambda: I2IMaps(heads="some"), "heads must be"),
        (lambda: KeyMass(every=0), "every must be at least 1, got 0"),
        (lambda: OutputMaps("angle"), "must be 'cosine' or 'dot', got 'angle'"),
        (lambda: read([I2IMaps([(3, 0)])], made(LAYOUTS["image first"])[0]), r"query \(3, 0\) is not a \(row, col\)"),
        (lambda: read([I2IMaps([(0, 0)])], made(LAYOUTS["video"])[0]), r"not a \(frame, row, col\)"),
        (lambda: read([I2IMaps(np.zeros((3, 4), bool))], made(LAYOUTS["image first"])[0]), "mask is empty"),
        (lambda: read([I2IMaps(np.ones((4, 3), bool))], made(LAYOUTS["image first"])[0]), r"mask is \(4, 3\)"),
    ],
)
def test_wrong_choices_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mask_of_the_picture_counts_in_every_frame():
    layout = LAYOUTS["video"]
    mask = np.zeros((2, 3), bool)
    mask[0, 1] = True
    attention, _ = made(layout)
    both = read([I2IMaps(mask)], attention)["i2i"].values[:, 0]
    single = read([I2IMaps([(0, 0, 1), (1, 0, 1)])], attention)["i2i"].values
    torch.testing.assert_close(both, single.mean(1))


def test_the_records_shares_sum_to_one(random_pipe):
    with Probe(random_pipe, [KeyMass()]) as probe:
        random_pipe("sand", num_inference_steps=1, guidance_scale=3.0, max_sequence_length=3)
    record = probe.dataset()
    total = record["image_key_mass"].sum(("row", "col")) + record["text_key_mass"].sum("token")
    np.testing.assert_allclose(total, 1, rtol=1e-5)
