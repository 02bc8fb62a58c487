"""The baselines' algorithms on toy inputs with known answers, and against slow twins."""

import itertools

import numpy as np
import pytest
import torch

from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.attention.kernels import AttentionArguments, AttentionCall
from mmdit_probe.attention.layout import TokenLayout
from mmdit_probe.baselines import attention_rows
from mmdit_probe.baselines.anchor_merging import anchors_of, average_near, merge_regions
from mmdit_probe.baselines.attention_rows import Rows, image_rows, mean_rows, normalized
from mmdit_probe.baselines.map_clusters import cluster_means, cluster_seeds, map_clusters, mixed_tokens
from mmdit_probe.baselines.normalized_cut import (
    affinity,
    best_cut,
    cut_values,
    cut_vector,
    recursive_cut,
    region_scores,
)
from mmdit_probe.baselines.refinement import iterate, majority_vote, sharpened, smooth
from mmdit_probe.segmentation.kl_merge import pairwise_kl
from mmdit_probe.utils.scaling import min_max


def stochastic(pixels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalized(torch.rand(pixels, pixels, generator=generator) ** 3)


def two_blocks(side=6, leak=0.0):
    """Attention of a side x side grid whose left and right halves look at themselves alone."""
    left = (torch.arange(side * side) % side) < side // 2
    same = (left[:, None] == left[None]).float()
    return normalized(same + leak), left


@pytest.mark.parametrize("steps", [1, 3])
def test_smoothing_is_a_matrix_power_and_keeps_the_mass_of_each_pixel(steps):
    matrix, maps = stochastic(20), torch.rand(20, 4)
    maps = maps / maps.sum(1, keepdim=True)
    found = smooth(Rows.of(matrix), maps, steps)
    torch.testing.assert_close(found, torch.linalg.matrix_power(matrix, steps) @ maps)
    torch.testing.assert_close(found.sum(1), torch.ones(20))
    assert not torch.allclose(found, maps)


def test_identity_attention_changes_nothing():
    maps = torch.rand(12, 3)
    identity = Rows.of(torch.eye(12))
    torch.testing.assert_close(smooth(identity, maps, 5), maps)
    refined = min_max(iterate(sharpened(identity, 0.2), maps, 8), 0)
    torch.testing.assert_close(refined, min_max(maps, 0))


def test_iteration_spreads_a_map_over_its_own_block():
    matrix, left = two_blocks(leak=0.01)
    maps = torch.zeros(36, 2)
    maps[0, 0] = maps[5, 1] = 1.0  # one pixel of each half is known
    labels = iterate(sharpened(Rows.of(matrix), 0.05), maps, 3).argmax(1)
    assert torch.equal(labels == 0, left)


def test_sharpening_by_the_loop_and_its_laws():
    matrix, strength = stochastic(9), 0.3
    expected = np.zeros((9, 9))
    top = matrix.max(0).values
    for i, j in itertools.product(range(9), range(9)):
        value = float(matrix[i, j] / top[j])
        expected[i, j] = max(0.0, value + strength * np.log10(np.e * value))
    expected /= expected.sum(1, keepdims=True)
    found = sharpened(Rows.of(matrix), strength)[0:9]
    np.testing.assert_allclose(found, expected, atol=1e-6)

    def entropy(rows):
        return -(rows * rows.clamp(min=1e-30).log()).sum(1).mean()

    assert entropy(found) < entropy(sharpened(Rows.of(matrix), 0.0)[0:9])
    with pytest.raises(ValueError, match="strength must be 0 or more"):
        sharpened(Rows.of(matrix), -1.0)


def test_a_row_that_sharpening_would_empty_stays_as_it_was():
    weak = torch.cat([torch.eye(3), torch.full((1, 3), 1 / 3)])
    found = sharpened(Rows.of(weak), 10.0)[0:4]
    assert 1 / 3 + 10 * np.log10(np.e / 3) < 0  # every entry of the last row
    torch.testing.assert_close(found, weak)


def test_each_token_weighs_by_its_share_of_its_own_grid():
    coarse, fine = torch.rand(3, 2, 2) + 0.1, torch.rand(3, 4, 4) + 0.1
    found = mixed_tokens([coarse, fine], [0.7, 0.3], (4, 4))
    shares = [maps / maps.sum((1, 2), keepdim=True) for maps in (coarse, fine)]
    finer = torch.nn.functional.interpolate(shares[0][None], size=(4, 4), mode="bilinear")[0]
    torch.testing.assert_close(found, (0.7 * finer + 0.3 * shares[1]).flatten(1).T)
    torch.testing.assert_close(
        found.sum(0), torch.full((3,), 0.7 * 4 + 0.3)
    )  # a quarter of the points, four times the weight
    torch.testing.assert_close(mixed_tokens([5 * coarse, fine], [0.7, 0.3], (4, 4)), found)
    with pytest.raises(ValueError, match="at least one map"):
        mixed_tokens([], [], (4, 4))


def test_clusters_against_the_loop():
    maps, seeds = torch.rand(15, 4, generator=torch.Generator().manual_seed(3)) ** 3, [0, 7, 11]
    centers = [maps[seed] for seed in seeds]
    for _ in range(5):
        joined = [
            int(np.argmin([float(((row - center) * (row.log() - center.log())).sum()) for center in centers]))
            for row in maps
        ]
        kept = sorted(set(joined))
        centers = [maps[[i for i, j in enumerate(joined) if j == k]].mean(0) for k in kept]
        joined = [kept.index(k) for k in joined]
    found = map_clusters(maps, torch.tensor(seeds), 5)
    assert found.tolist() == joined
    means = cluster_means(maps, found)
    torch.testing.assert_close(means, torch.stack([centers[k] for k in joined]))
    torch.testing.assert_close(means.sum(0), maps.sum(0))


def test_clusters_without_pixels_are_dropped_and_seeds_are_spread():
    maps = torch.eye(2)[torch.arange(12) % 2] + 0.01
    found = map_clusters(maps, torch.arange(6), 3)  # six centers for two kinds of pixels
    assert found.tolist() == [0, 1] * 6
    assert cluster_seeds((4, 9), 4).tolist() == [0, 4, 8, 18, 22, 26]
    assert cluster_seeds((2, 2), 32).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="at least 1 iteration, got 0"):
        map_clusters(maps, torch.arange(2), 0)
    with pytest.raises(ValueError, match="at least 1 cluster, got 0"):
        cluster_seeds((2, 2), 0)


def test_every_mask_takes_its_most_frequent_label():
    labels = np.array([[0, 1, 1], [2, 2, 1], [0, 0, 0]])
    masks = np.array([[0, 0, 0], [1, 1, -1], [1, 1, 1]])
    np.testing.assert_array_equal(majority_vote(labels, masks), [[1, 1, 1], [0, 0, 1], [0, 0, 0]])
    nothing = np.full((3, 3), -1)
    np.testing.assert_array_equal(majority_vote(labels, nothing), labels)
    np.testing.assert_array_equal(majority_vote(labels, np.arange(9).reshape(3, 3)), labels)
    with pytest.raises(ValueError, match="labels and masks must have the same shape"):
        majority_vote(labels, masks[:2])


# DiffSeg


def test_two_blocks_are_two_regions():
    matrix, left = two_blocks(leak=0.001)
    regions = merge_regions(Rows.of(matrix), (6, 6), threshold=1.0, side=3)
    assert len(regions) == 2
    labels = regions.flatten(1).argmax(0)
    assert torch.equal(labels == labels[0], left)
    np.testing.assert_allclose(regions.sum((1, 2)), 1, atol=1e-5)
    assert len(merge_regions(Rows.of(matrix), (6, 6), threshold=50.0, side=3)) == 1


def merged_by_loops(matrix, grid, threshold, iterations, side):
    """DiffSeg with one pair of maps at a time."""

    def apart(p, q):
        return float(((p - q) * (p.log() - q.log())).sum() / 2)

    rows, cols = (
        [(length - 1) % (side - 1) // 2 + n * ((length - 1) // (side - 1)) for n in range(side)] for length in grid
    )
    places = [row * grid[1] + col for row in rows for col in cols]
    maps = []
    for place in places:
        near = [row for row in matrix if apart(matrix[place], row) < threshold]
        maps.append(torch.stack(near).mean(0))
    for _ in range(iterations - 1):
        merged, matched = [], set()
        for i, one in enumerate(maps):
            if i in matched:
                continue
            near = [j for j, other in enumerate(maps) if apart(one, other) < threshold]
            matched.update(near)
            merged.append(torch.stack([maps[j] for j in near]).mean(0))
        maps = merged
    return torch.stack(maps).unflatten(1, grid)


@pytest.mark.parametrize("threshold", [0.9, 1.0, 1.2])
def test_merging_against_the_loop(threshold):
    matrix = normalized(stochastic(24, 3).double() + 1e-3)
    found = merge_regions(Rows.of(matrix), (4, 6), threshold, 3, 4)
    expected = merged_by_loops(matrix, (4, 6), threshold, 3, 4)
    torch.testing.assert_close(found, expected)
    assert 1 <= len(found) < 16


def test_divergences_and_anchors():
    one, other = stochastic(7, 1).double()[:3], stochastic(7, 2).double()
    expected = [[float(((p - q) * (p.log() - q.log())).sum() / 2) for q in other] for p in one]
    np.testing.assert_allclose(pairwise_kl(one, other), expected)
    np.testing.assert_allclose(np.diag(pairwise_kl(one, one)), 0, atol=1e-12)
    assert anchors_of((4, 4), 2).tolist() == [0, 3, 12, 15]
    assert anchors_of((1, 64), 16).tolist() == list(range(1, 62, 4))
    assert anchors_of((1, 9), 4).tolist() == [1, 3, 5, 7]
    assert anchors_of((5, 1), 1).tolist() == [2]
    assert anchors_of((2, 3), 16).tolist() == list(range(6))
    matrix = stochastic(8)
    torch.testing.assert_close(average_near(matrix[:2], Rows.of(matrix), 1e9), matrix.mean(0).expand(2, 8))
    for bad, message in ((0.0, "threshold must be above 0"), (1.0, "at least 1 iteration")):
        with pytest.raises(ValueError, match=message):
            merge_regions(Rows.of(matrix), (2, 4), bad, iterations=0)


# DiffCut


def cut_by_hand(weights, side):
    inside = [i for i, s in enumerate(side) if s]
    outside = [i for i, s in enumerate(side) if not s]
    cut = sum(float(weights[i, j]) for i in inside for j in outside)
    return cut / float(weights[inside].sum()) + cut / float(weights[outside].sum())


def test_the_best_cut_of_a_small_graph_is_the_brute_force_one():
    generator = torch.Generator().manual_seed(4)
    near, far = torch.rand(7, 7, generator=generator), 0.05 * torch.rand(7, 7, generator=generator)
    block = torch.arange(7) < 3
    weights = torch.where(block[:, None] == block[None], 0.5 + near, far).double()
    weights = (weights + weights.T) / 2
    sides = torch.tensor([s for s in itertools.product([False, True], repeat=7) if 0 < sum(s) < 7])
    values = cut_values(weights, sides)
    np.testing.assert_allclose(values, [cut_by_hand(weights, side) for side in sides.tolist()])
    side, value = best_cut(weights)
    assert value == pytest.approx(float(values.min()))
    assert torch.equal(side, block) or torch.equal(side, ~block)
    assert cut_values(weights, torch.ones(1, 7, dtype=torch.bool)).item() == 2


def test_the_eigenvector_is_the_second_one_of_the_normalized_laplacian():
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(9, 9, generator=generator).double()
    weights = weights + weights.T
    scale = weights.sum(1) ** -0.5
    values, vectors = np.linalg.eigh(np.eye(9) - np.asarray(scale[:, None] * weights * scale[None]))
    assert values[0] == pytest.approx(0, abs=1e-12)
    second = torch.from_numpy(vectors[:, 1]) * scale
    second = second if second.max() > -second.min() else -second
    torch.testing.assert_close(cut_vector(weights), second)
    steps = np.linspace(0.99 * float(second.min()), 0.99 * float(second.max()), 100)
    expected = min(float(cut_values(weights, (second > step)[None])) for step in steps)
    assert best_cut(weights)[1] == pytest.approx(expected, abs=1e-6)


def test_a_node_without_any_link_to_another_is_split_off_once_at_most():
    generator = torch.Generator().manual_seed(0)
    owner = torch.arange(24) % 3
    features = torch.eye(3)[owner] + 0.01 * torch.randn(24, 3, generator=generator)
    features[0] = -features[2]  # the pair of least cosine: affinity 0
    regions = recursive_cut(features)
    first_side, _ = best_cut(affinity(features))
    assert len(regions.unique()) >= 3
    unlinked = (affinity(features) == 0).any(1)
    assert unlinked[0]
    for node in unlinked.nonzero().flatten():  # on the lower side of all later splits: the first number of its part
        assert regions[node] == regions[first_side == first_side[node]].min()


def test_parts_are_numbered_by_the_splits():
    owner = torch.arange(12) // 4
    features = torch.eye(3)[owner] + 0.05 * torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    regions = recursive_cut(features)
    upper, _ = best_cut(affinity(features))
    assert regions[~upper].max() < regions[upper].min() or len(regions[upper].unique()) == 1
    assert regions.unique().tolist() == list(range(int(regions.max()) + 1))


class WithoutDoubles(torch.Tensor):
    """Stands for a tensor on MPS, which has no fp64."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    def to(self, place):
        return self.as_subclass(torch.Tensor)


def test_cuts_are_made_where_there_is_fp64(monkeypatch):
    from mmdit_probe.baselines import normalized_cut

    monkeypatch.setattr(normalized_cut, "FUSED", ())
    features = torch.eye(2)[torch.arange(12) % 2]
    assert torch.equal(recursive_cut(features.as_subclass(WithoutDoubles)), recursive_cut(features))


@pytest.mark.parametrize("parts", [2, 3])
def test_clean_blocks_of_features_are_so_many_regions(parts):
    owner = torch.arange(24) % parts
    features = torch.eye(parts)[owner] + 0.01 * torch.randn(24, parts, generator=torch.Generator().manual_seed(0))
    regions = recursive_cut(features)
    assert len(regions.unique()) == parts
    linked = (affinity(features).float() > 0).all(1)  # the others do not take part in the second split
    for part in range(parts):
        assert len(regions[(owner == part) & linked].unique()) == 1
    unit = torch.nn.functional.normalize(features, dim=1)
    scores = region_scores(features, regions, unit.T.unflatten(1, (4, 6)))
    assert torch.equal(scores.flatten(1).argmax(0)[linked], regions[linked])
    for region in range(parts):
        prototype = unit[regions == region].mean(0)  # not normalized again
        torch.testing.assert_close(scores[region].flatten(), unit @ prototype)


def test_alike_features_are_one_region_and_exact_blocks_do_not_mix():
    assert recursive_cut(torch.ones(10, 3)).tolist() == [0] * 10
    assert recursive_cut(torch.rand(1, 3)).tolist() == [0]
    exact = torch.eye(2)[torch.arange(12) % 2]  # two parts with no link: the eigenvalue 0 twice
    assert len(recursive_cut(exact).unique()) == 2
    weights = affinity(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    assert weights.min() == 0
    assert weights.max() == 1
    with pytest.raises(ValueError, match="tau must be above 0"):
        recursive_cut(exact, tau=0.0)


# rows of I2I


def attention(batch=2, heads=3, mask=None):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(batch, heads, 17, 8, generator=generator) for _ in range(3))
    call = AttentionCall(query, key, value, AttentionArguments(attn_mask=mask))
    return JointAttention(call, TokenLayout((3, 4), 5))


@pytest.mark.parametrize("masked", [False, True])
def test_rows_of_one_image_against_the_full_softmax(masked, monkeypatch):
    mask = None
    if masked:
        mask = torch.ones(2, 1, 17, 17, dtype=torch.bool)
        mask[1, ..., 12:14] = False
    both = attention(mask=mask)
    for row in range(2):
        scores = both.query[row] @ both.key[row].transpose(1, 2) / 8**0.5
        if masked:
            scores = scores.masked_fill(~mask[row], -torch.inf)
        full = scores.softmax(-1)[:, :12, :12]
        own = both.batch_row(row)
        expected = normalized(full.mean(0))
        torch.testing.assert_close(torch.cat(list(image_rows(own).blocks(5))), expected)
        torch.testing.assert_close(image_rows(own, [2])[3:5], normalized(full[2])[3:5])
    with pytest.raises(ValueError, match="heads must be in 0 to 2"):
        image_rows(both.batch_row(0), [3])
    small = image_rows(both.batch_row(0)).kept_if_small()
    torch.testing.assert_close(mean_rows([small, small])[0:12], small[0:12])
    monkeypatch.setattr(attention_rows, "MAX_HELD", 10)
    assert small.kept_if_small() is small


def test_cross_attention_has_no_rows_among_pixels():
    call = AttentionCall(torch.rand(1, 1, 6, 4), torch.rand(1, 1, 5, 4), torch.rand(1, 1, 5, 4), AttentionArguments())
    with pytest.raises(ValueError, match="no attention from image to image"):
        image_rows(JointAttention(call, TokenLayout((2, 3), 5, scope="cross")))
