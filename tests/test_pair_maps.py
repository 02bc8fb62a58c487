"""PairMaps against the full softmax: evenly spaced queries of the image and of references."""

from dataclasses import replace

import models_flux
import numpy as np
import pytest
import torch
from naive import full_matrix, random_call

from mmdit_probe import I2IMaps, KeyMass, PairMaps, Probe, TokenLayout
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.attention.layout import Extra
from mmdit_probe.probe.dataset import recorded_layout
from mmdit_probe.readouts.base import read
from mmdit_probe.readouts.pair_maps import cell_side, lattice

EDITING = next(case for case in models_flux.CASES if case.name == "flux2-reference")


def random_attention(**layout):
    made = TokenLayout((3, 4), 5, "text-image", **layout)
    return JointAttention(random_call(2, 3, made.tokens, 8), made)


def test_the_lattice_covers_the_grid_evenly():
    for grid in ((1, 1), (3, 5), (8, 8), (64, 64), (17, 40), (5, 30, 45)):
        for most in (1, 4, 256):
            places = lattice(grid, most)
            assert 1 <= len(places) == len(set(places)) <= most
            assert all(0 <= n < size for place in places for n, size in zip(place, grid, strict=True))
            assert {place[:-2] for place in places} == {tuple(size // 2 for size in grid[:-2])}
            side = cell_side(grid[-2:], most)
            apart = [
                min(max(abs(r - p[-2]), abs(c - p[-1])) for p in places)
                for r in range(grid[-2])
                for c in range(grid[-1])
            ]
            assert max(apart) <= side  # every position has a query at most a cell away
    assert lattice((3, 5), 99) == [(row, col) for row in range(3) for col in range(5)]


@pytest.mark.parametrize("queries", [256, 4])
def test_the_maps_are_those_of_the_full_softmax(queries):
    extras = (Extra("reference", 6, "last", grid=(2, 3)), Extra("register", 2, "first"), Extra("reference", 5, "last"))
    attention = random_attention(extras=extras)
    layout, matrix = attention.layout, full_matrix(attention.call).mean(1).float()
    found = read([PairMaps(queries), KeyMass()], attention)
    places = lattice(layout.grid, queries)
    rows = [layout.image_queries.start + row * 4 + col for row, col in places]
    assert found["i2i"].axes[0].labels == tuple(f"{row},{col}" for row, col in places)
    torch.testing.assert_close(
        found["i2i"].values.flatten(-2), matrix[:, rows][..., layout.image_keys], atol=1e-6, rtol=1e-4
    )
    for number, grid in ((1, (2, 3)), (2, (1, 5))):
        onto, own = layout.reference_keys[number - 1], lattice(grid, queries)
        maps = found[f"i2r_pair_{number}"].values
        assert maps.shape == (2, len(places), *grid)
        torch.testing.assert_close(maps.flatten(-2), matrix[:, rows][..., onto], atol=1e-6, rtol=1e-4)
        asking = [layout.reference_queries[number - 1].start + row * grid[1] + col for row, col in own]
        back = found[f"r2i_pair_{number}"].values.flatten(-2)
        torch.testing.assert_close(back, matrix[:, asking][..., layout.image_keys], atol=1e-6, rtol=1e-4)
    masses = [found[f"{name}_key_mass"].values.flatten(1).sum(1) for name in ("image", "text", "extra")]
    torch.testing.assert_close(sum(masses), torch.ones(2))  # references and registers among the others
    assert found["extra_key_mass"].axes[0].labels[:3] == ("register 1", "register 2", "reference 1 place 1")
    onto = matrix[:, layout.image_queries][..., layout.reference_keys[1]].mean(1)
    torch.testing.assert_close(found["extra_key_mass"].values[:, -5:], onto, atol=1e-6, rtol=1e-4)


def test_every_pixels_map_is_that_of_i2i_maps_and_what_it_gives_to_the_image():
    attention = random_attention()
    found = read([PairMaps(), I2IMaps([(1, 2)])], attention)["i2i"]  # the later one of a name is kept
    alone = read([PairMaps()], attention)["i2i"].values
    torch.testing.assert_close(alone[:, 6], found.values[:, 0])
    matrix = full_matrix(attention.call).mean(1).float()
    mass = matrix[:, attention.layout.image_queries][..., attention.layout.image_keys].sum(-1)
    torch.testing.assert_close(alone.sum((-1, -2)), mass, atol=1e-6, rtol=1e-4)


def test_regions_that_a_model_lacks_have_no_field():
    cross = TokenLayout((3, 4), 5, scope="cross")
    call = random_call(1, 2, 12, 8)
    shorter = replace(call, key=call.key[:, :, :5], value=call.value[:, :, :5])
    assert read([PairMaps()], JointAttention(shorter, cross)) == {}
    assert PairMaps().stored_numbers(cross, 2) == 0
    with pytest.raises(ValueError, match="at least 1"):
        PairMaps(0)


def test_an_editing_models_record_has_axes_of_its_references():
    with torch.no_grad(), Probe(EDITING.model(), [PairMaps()]) as probe:
        probe.transformer(**EDITING.inputs())
    record = probe.dataset()
    assert record["r2i_pair_1"].dims[-3:] == ("reference_1_query", "row", "col")
    for name in ("query", "reference_1_query", "i2i", "i2r_pair_1"):
        assert len(record[name].attrs["long_name"]) > 5
    assert np.isfinite(record["r2i_pair_1"].values).all()
    numbers = sum(int(np.prod(values.shape[3:])) for values in record.data_vars.values())
    layout = recorded_layout(record)
    assert PairMaps().stored_numbers(layout, 4) == numbers
