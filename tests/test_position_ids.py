"""Image tokens whose positions are no grid in order are refused, in every family that is told positions."""

import pytest
import torch
from models import position_ids

from mmdit_probe.families.cross_attention import _grid_of_coordinates
from mmdit_probe.families.flux import grid_from_ids
from mmdit_probe.families.grids import grid_of_positions, without_one_frame


def shuffled(ids):
    return ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]


def test_grids_are_counted_also_where_positions_are_scaled():
    ids = position_ids(3, 4)
    assert grid_of_positions(ids[:, 1:3]) == (3, 4)
    assert grid_of_positions(ids[:, 1:3] * torch.tensor([0.5, 2.5]) - 7) == (3, 4)
    frames = torch.cartesian_prod(torch.tensor([0.0, 1.0, 5.0]), torch.arange(2.0), torch.arange(4.0))
    assert grid_of_positions(frames) == (3, 2, 4)
    assert without_one_frame((1, 3, 4)) == (3, 4)
    assert without_one_frame((2, 3, 4)) == (2, 3, 4)


@pytest.mark.parametrize("make", [shuffled, lambda ids: ids[:, [0, 2, 1]], lambda ids: ids.flip(0)])
def test_positions_in_disorder_are_refused(make):
    with pytest.raises(ValueError, match="not in order, row after row"):
        grid_of_positions(make(position_ids(3, 4))[:, 1:3])


def test_positions_that_are_not_all_of_a_grid_are_refused():
    with pytest.raises(ValueError, match="span 3 x 4 but there are 11 image tokens"):
        grid_of_positions(position_ids(3, 4)[:-1, 1:3])


def test_flux_tells_references_from_the_target():
    target, reference = position_ids(3, 4), position_ids(2, 5, first=1)
    assert grid_from_ids(target) == grid_from_ids(torch.cat([target, reference])) == (3, 4)


@pytest.mark.parametrize(
    "ids",
    [
        shuffled(torch.cat([position_ids(3, 4), position_ids(2, 5, first=1)])),
        torch.cat([position_ids(3, 4), position_ids(2, 5, first=1), position_ids(1, 2)]),
        position_ids(3, 4)[:, [1, 2, 0]],  # row, column, image: each row would be an image
        torch.arange(12.0)[:, None].expand(-1, 3),  # each token would be one
        shuffled(position_ids(3, 4)),
    ],
)
def test_flux_ids_in_disorder_are_refused(ids):
    with pytest.raises(ValueError, match=r"no image's|not in order|span"):
        grid_from_ids(ids)


def test_ltx_coordinates_in_disorder_are_refused():
    frames = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0), torch.arange(4.0))
    assert _grid_of_coordinates(frames.T) == (2, 3, 4)
    with pytest.raises(ValueError, match="video coordinates are those of 2 x 3 x 4 image tokens, but not in order"):
        _grid_of_coordinates(shuffled(frames).T)
