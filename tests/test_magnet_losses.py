"""MAGNET's losses and matching: the released code's numbers, obvious twins, laws."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdit_probe.magnet.losses import dice_loss, focal_loss, pairwise_dice, pairwise_focal
from mmdit_probe.magnet.matching import match_masks


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parent / "golden" / "seg4diff_official.npz")


@pytest.fixture(scope="module")
def pair(golden):
    return torch.from_numpy(golden["loss_pred"]), torch.from_numpy(golden["loss_tgt"])


def test_the_released_costs_and_matching(golden, pair):
    np.testing.assert_allclose(pairwise_dice(*pair), golden["cost_dice"], atol=1e-5)
    np.testing.assert_allclose(pairwise_focal(*pair, released=True), golden["cost_focal_official"], atol=1e-5)
    predictions, masks = match_masks(*pair, released=True)
    np.testing.assert_array_equal(predictions, golden["match_pred"])
    np.testing.assert_array_equal(masks, golden["match_tgt"])


def test_the_released_losses(golden, pair):
    logits, masks = pair[0][golden["match_pred"]], pair[1][golden["match_tgt"]]
    assert dice_loss(logits, masks).item() == pytest.approx(float(golden["dice_loss"]), abs=1e-5)
    released = focal_loss(logits, masks, released=True).item()
    assert released == pytest.approx(float(golden["focal_loss_official"]), abs=1e-5)


@given(st.integers(0, 99))
def test_pairwise_costs_are_the_losses_of_the_pairs(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 4, 5, generator=generator)
    masks = (torch.rand(2, 4, 5, generator=generator) > 0.5).float()
    for i in range(3):
        for j in range(2):
            one = logits[i : i + 1], masks[j : j + 1]
            torch.testing.assert_close(pairwise_dice(logits, masks)[i, j], dice_loss(*one))
            for released in (False, True):
                cost = pairwise_focal(logits, masks, released=released)[i, j]
                torch.testing.assert_close(cost, focal_loss(*one, released=released))


def test_the_focal_loss_is_the_papers_formula():
    """- alpha (1 - p)^2 log p inside, - (1 - alpha) p^2 log(1 - p) outside."""
    logits, masks = torch.randn(2, 3, 3), torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0]]).expand(2, 3, 3)
    p = logits.sigmoid()
    twin = torch.where(masks > 0, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    torch.testing.assert_close(focal_loss(logits, masks), twin.mean())


def test_a_perfect_mask_costs_nothing_and_a_wrong_one_most():
    masks = torch.zeros(1, 8, 8)
    masks[:, :4] = 1
    right, wrong = 40 * (masks - 0.5), 40 * (0.5 - masks)
    assert dice_loss(right, masks) < 1e-6
    assert focal_loss(right, masks) < 1e-6
    assert dice_loss(wrong, masks) > 0.98
    assert focal_loss(wrong, masks) > 5


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_the_matching_is_the_cheapest_of_all(predictions, masks, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(predictions, 3, 3, generator=generator)
    targets = (torch.rand(masks, 3, 3, generator=generator) > 0.5).float()
    rows, cols = match_masks(logits, targets)
    cost = (0.02 * pairwise_focal(logits, targets) + pairwise_dice(logits, targets)).numpy()
    if predictions >= masks:
        best = min(sum(cost[r, c] for c, r in enumerate(order)) for order in permutations(range(predictions), masks))
    else:
        best = min(sum(cost[r, c] for r, c in enumerate(order)) for order in permutations(range(masks), predictions))
    assert cost[rows, cols].sum() == pytest.approx(best, abs=1e-5)


def test_gradients_reach_the_logits():
    logits, masks = torch.randn(2, 4, 4, requires_grad=True), torch.ones(2, 4, 4)
    (dice_loss(logits, masks) + focal_loss(logits, masks)).backward()
    assert (logits.grad < 0).all()  # more of the mask is always better here


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="a cost is not finite"):
        match_masks(torch.full((1, 2, 2), torch.nan), torch.ones(1, 2, 2))
