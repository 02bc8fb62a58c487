"""Maps onto and from reference images, against the full matrix."""

import numpy as np
import pytest
import torch
from models_flux import CASES as FLUX_CASES
from naive import full_matrix, random_call
from test_record_attributes import assert_described

from mmdit_probe import (
    Extra,
    I2RMaps,
    I2TMaps,
    JointAttention,
    Probe,
    R2IMaps,
    R2TMaps,
    RegionMass,
    T2RMaps,
    TokenLayout,
    load_record,
    save_record,
)
from mmdit_probe.attention import blocks
from mmdit_probe.readouts.base import read

LAYOUT = TokenLayout(
    (3, 4),
    5,
    "text-image",
    (Extra("reference", 6, "last", (2, 3)), Extra("reference", 4, "last"), Extra("register", 2, "first")),
)
DIMS = {"1": ("reference_1_row", "reference_1_col"), "2": ("reference_2_token",)}
SIZES = {"1": (2, 3), "2": (4,)}


@pytest.fixture(params=[1 << 20, 40], ids=["one block", "many blocks"])
def attention(request, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", request.param)
    mask = torch.ones(1, 1, 1, LAYOUT.tokens, dtype=torch.bool)
    mask[..., -1] = False
    return JointAttention(random_call(2, 3, LAYOUT.tokens, 8, attn_mask=mask), LAYOUT)


@pytest.mark.parametrize("heads", ["mean", "all"])
def test_maps_are_those_of_the_full_matrix(attention, heads):
    matrix = full_matrix(attention.call)
    matrix = matrix.mean(1) if heads == "mean" else matrix
    leading = ("batch",) if heads == "mean" else ("batch", "head")
    found = read([I2RMaps(heads), R2IMaps(heads), R2TMaps(heads), T2RMaps(heads)], attention)
    image, text = LAYOUT.image_slice, LAYOUT.text_slice
    for number, own in zip("12", LAYOUT.reference_slices, strict=True):
        onto, grid = DIMS[number], ("row", "col")
        twins = {
            f"i2r_{number}": (onto, matrix[..., image, own].mean(-2).unflatten(-1, SIZES[number])),
            f"i2r_share_{number}": (grid, matrix[..., image, own].sum(-1).unflatten(-1, (3, 4))),
            f"r2i_{number}": (grid, matrix[..., own, image].mean(-2).unflatten(-1, (3, 4))),
            f"r2i_share_{number}": (onto, matrix[..., own, image].sum(-1).unflatten(-1, SIZES[number])),
            f"r2t_{number}": ((*onto, "token"), matrix[..., own, text].unflatten(-2, SIZES[number])),
            f"t2r_{number}": (
                (*onto, "token"),
                matrix[..., text, own].transpose(-1, -2).unflatten(-2, SIZES[number]),
            ),
        }
        for name, (dims, twin) in twins.items():
            field = found.pop(name)
            assert field.dims == (*leading, *dims)
            torch.testing.assert_close(field.values.double(), twin, atol=1e-5, rtol=0)
    assert not found


def test_maps_add_up_to_the_masses(attention):
    found = read([I2RMaps("all"), R2IMaps("all"), RegionMass()], attention)
    told = found["reference_mass"].values[:, :, 0]
    torch.testing.assert_close(found["i2r_1"].values.sum((-1, -2)), told[..., 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found["i2r_share_2"].values.mean((-1, -2)), told[..., 1], atol=1e-6, rtol=0)
    shares = [found[f"r2i_share_{number}"].values.flatten(2) for number in (1, 2)]
    mass = found["region_mass"].values[..., 6]  # R2I
    torch.testing.assert_close(torch.cat(shares, -1).mean(-1), mass, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [I2RMaps, R2IMaps, R2TMaps, T2RMaps])
@pytest.mark.parametrize("heads", ["mean", "all"])
def test_readouts_say_how_much_they_store(attention, kind, heads):
    stored = sum(field.values[0].numel() for field in read([kind(heads)], attention).values())
    assert stored == kind(heads).stored_numbers(LAYOUT, 3)
    assert kind(heads).stored_numbers(TokenLayout((3, 4), 5), 3) == 0


@pytest.mark.parametrize("kind", [I2RMaps, R2IMaps, R2TMaps, T2RMaps])
def test_a_model_without_references_is_refused(kind):
    layout = TokenLayout((3, 4), 5)
    with pytest.raises(
        ValueError, match=rf"{kind.__name__}: there is no {kind.region} attention here, as no reference im"
    ):
        read([kind()], JointAttention(random_call(1, 2, layout.tokens, 8), layout))


def test_references_that_do_not_attend_are_refused():
    layout = TokenLayout((3, 4), 5, extras=(Extra("reference", 6, "last", (2, 3)),), scope="image-queries")
    call = random_call(1, 2, layout.tokens, 8)
    call = type(call)(call.query[:, :, :12], call.key, call.value)
    assert read([I2RMaps()], JointAttention(call, layout))["i2r_1"].values.shape == (1, 2, 3)
    with pytest.raises(
        ValueError, match="no R2T attention here, as reference images do not take part; there is I2I, I2T, I2R"
    ):
        read([R2TMaps()], JointAttention(call, layout))


def test_a_record_keeps_each_references_grid(tmp_path):
    (case,) = [case for case in FLUX_CASES if case.name == "flux2-reference"]
    with torch.no_grad(), Probe(case.model(), [I2RMaps(), R2TMaps("all"), I2TMaps()]) as probe:
        probe.transformer(**case.inputs())
    record = load_record(save_record(probe.dataset(), tmp_path / "record.nc"))
    assert_described(record)
    assert record["i2r_2"].dims == ("call", "batch", "layer", "reference_2_row", "reference_2_col")
    assert record["i2r_2"].shape[-2:] == (3, 1)
    assert record["r2t_1"].shape == (1, 2, 2, 2, 2, 3, record.sizes["token"])
    assert np.isfinite(record["i2r_1"]).all()
