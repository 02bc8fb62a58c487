"""The baselines against their authors' own functions, on random inputs: golden/rivals/README.md says which made each array.

Numbers agree to 1e-4 and label maps in every pixel. The folder is that of the environment variable MMDIT_PROBE_GOLDENS, if
it is set. Each test reads every array of its file, or says why not.
"""

import dataclasses

import numpy as np
import torch
from rival_goldens import FOLDER, close, goldens, same

from mmdit_probe.baselines.anchor_merging import anchors_of, average_near, merge_regions
from mmdit_probe.baselines.attention_rows import Rows, mean_rows
from mmdit_probe.baselines.diffcut import cut_features
from mmdit_probe.baselines.diffseg import tiled
from mmdit_probe.baselines.diffsegmenter import weighted_sum
from mmdit_probe.baselines.iseg import class_maps
from mmdit_probe.baselines.map_clusters import cluster_seeds, map_clusters, mixed_tokens
from mmdit_probe.baselines.normalized_cut import affinity, best_cut, cut_vector, recursive_cut
from mmdit_probe.baselines.refinement import iterate, sharpened, smooth
from mmdit_probe.baselines.results import ranged
from mmdit_probe.configs.baselines import DiffCutConfig, DiffSegmenterConfig, ISegConfig
from mmdit_probe.metrics.background import background_metrics, merge_background
from mmdit_probe.metrics.matching import matched_metrics
from mmdit_probe.metrics.segmentation import measure_labels
from mmdit_probe.segmentation import merge_by_kl, scale_pixels
from mmdit_probe.segmentation.kl_merge import pairwise_kl
from mmdit_probe.segmentation.label_map import label_map

FILES = {
    "hungarian_seg4diff", "many_to_one_diffcut", "semseg_metrics", "diffseg", "diffcut", "iseg", "diffsegmenter",
    "proxyclip_attention", "proxyclip_postprocess", "corrclip_attention", "corrclip_vote", "clip_forward",
    "seg4diff_unsup", "magnet_losses",
}  # fmt: skip


def test_every_file_has_its_test():
    assert {path.stem for path in FOLDER.glob("*.npz")} == FILES


def attention(query, key):
    """(queries, keys) softmax in double precision, kept in single: the released code's input."""
    return (query.double() @ key.double().mT).softmax(-1).float()


# Metrics


def test_regions_are_matched_as_released():
    with goldens("hungarian_seg4diff") as arrays:
        for case in arrays.cases("label"):
            found = matched_metrics(arrays[f"label_{case}"], arrays[f"pred_{case}"], int(arrays[f"classes_{case}"]))
            for ours, theirs in zip(found, ("tp", "fp", "fn", "all", "miou", "acc"), strict=True):
                close(ours, arrays[f"{theirs}_{case}"], 1e-9)


def test_regions_without_a_class_become_background_as_in_diffcut():
    with goldens("many_to_one_diffcut") as arrays:
        for case in arrays.cases("label"):
            regions, classes = arrays[f"pred_{case}"], int(arrays[f"classes_{case}"])
            labels = np.where(arrays[f"label_{case}"] == -1, classes - 1, arrays[f"label_{case}"])
            same(merge_background(labels, regions, classes, classes - 1), arrays[f"merged_pred_{case}"])
            found = background_metrics(labels, regions, classes, classes - 1)
            for ours, theirs in zip(found, ("tp", "fp", "fn", "all"), strict=False):
                close(ours, arrays[f"{theirs}_{case}"], 1e-9)


def test_label_maps_are_measured_as_in_mmseg_and_detectron2():
    """mmseg counts a class that is predicted and nowhere true as 0, as we do; detectron2 leaves it out."""
    with goldens("semseg_metrics") as arrays:
        for case in arrays.cases("label"):
            labels, classes = arrays[f"label_{case}"], int(arrays[f"classes_{case}"])
            found = measure_labels(labels, arrays[f"pred_{case}"], classes)
            pixels = found.confusion.sum(1)
            accuracy = np.divide(np.diag(found.confusion), pixels, out=np.full(classes, np.nan), where=pixels > 0)
            for theirs in (f"mm_aacc_{case}", f"d2_pacc_{case}"):
                close(found.pixel_accuracy, arrays[theirs])
            for theirs in (f"mm_macc_{case}", f"d2_macc_{case}"):
                close(np.nanmean(accuracy), arrays[theirs])
            close(found.miou, arrays[f"mm_miou_{case}"])
            close(np.where(pixels > 0, found.iou, np.nan), arrays[f"d2_iou_{case}"])
            close(np.nanmean(found.iou[pixels > 0]), arrays[f"d2_miou_{case}"])


def test_token_maps_are_merged_and_scaled_as_released():
    with goldens("seg4diff_unsup") as arrays:
        for case in arrays.cases("maps"):
            merged = merge_by_kl(arrays.tensor(f"maps_{case}"), float(arrays[f"threshold_{case}"]))
            close(merged, arrays[f"merged_{case}"])
        scaled = scale_pixels(arrays.tensor("att").permute(2, 0, 1))  # tokens first, the grid as one row
        close(scaled.permute(1, 2, 0), arrays["att2mask"], 1e-6)


# DiffSeg


def test_diffseg_merges_attention_as_released():
    with goldens("diffseg") as arrays:
        sides = sorted(arrays.cases("q"), reverse=True)
        rows = [Rows.of(attention(arrays.tensor(f"q_{side}"), arrays.tensor(f"k_{side}")).mean(0)) for side in sides]
        grid = (sides[0], sides[0])
        whole = tiled(rows, [(side, side) for side in sides], grid)
        some = arrays.tensor("agg_rows_index")
        close(whole.at(some), arrays["agg_rows"], 1e-6)
        for anchors in arrays.cases("grid_anchor"):
            same(anchors_of(grid, anchors), positions(arrays[f"grid_anchor_{anchors}"], grid))
        places = anchors_of(grid, round(len(arrays["grid_anchor"]) ** 0.5))
        same(places, positions(arrays["grid_anchor"], grid))

        rows = Rows.of(torch.cat(list(whole.blocks())).double())
        near, threshold = rows.at(places), float(arrays["threshold"])
        close(pairwise_kl(near, rows.at(some)), arrays["kl_anchor_row"])
        first = average_near(near, rows, threshold)
        listed = arrays["iter0_f64_first4"]
        close(first[: len(listed)].unflatten(1, grid), listed, 1e-7)
        close(first @ torch.arange(len(rows)).double(), arrays["iter0_f64_sums"])
        merged = merge_regions(rows, grid, threshold, 3, round(len(places) ** 0.5))
        assert len(merged) == int(arrays["merged_count"])
        close(merged, arrays["merged"], 1e-7)
        same(label_map(merged, arrays["labels512"].shape), arrays["labels512"])


def positions(points, grid):
    """Positions on the grid of (row, col) points."""
    return points[:, 0].astype(np.int64) * grid[1] + points[:, 1]


# DiffCut


def test_diffcut_cuts_and_assigns_as_released():
    with goldens("diffcut") as arrays:
        for case in arrays.cases("features"):
            features, tau = arrays.tensor(f"features_{case}"), float(arrays[f"tau_{case}"])
            nodes = torch.nn.functional.normalize(features.flatten(0, 1), dim=1)
            weights = affinity(nodes)
            if f"affinity_{case}" in arrays:
                close(weights[: len(arrays[f"affinity_{case}"])], arrays[f"affinity_{case}"])
            close(cut_vector(weights), arrays[f"eigenvector_{case}"])  # theirs is in single precision
            side, value = best_cut(weights)
            same(side, arrays[f"bipartition_{case}"])
            close(value, arrays[f"ncut_{case}"], 1e-6)
            same(recursive_cut(nodes, tau).view(features.shape[:2]), arrays[f"clusters_{case}"])
            finer = int(arrays[f"mask_size_{case}"])
            maps = cut_features(features.permute(2, 0, 1), DiffCutConfig(tau=tau, grid=len(features), finer=finer))
            same(maps.argmax(0), arrays[f"masks_{case}"])


# iSeg and DiffSegmenter


def test_iseg_mixes_clusters_and_iterates_as_released():
    with goldens("iseg") as arrays:
        grid = (64, 64)
        heads = [Rows.of(attention(q, k)) for q, k in zip(arrays.tensor("q"), arrays.tensor("k"), strict=True)]
        rows = mean_rows(heads).kept_if_small()
        levels = [arrays.tensor(f"cross_{side}").mean(0).permute(2, 0, 1) for side in (32, 16)]
        weights = [weight for weight in ISegConfig().level_weights if weight]
        spans = [[token for token in span if token >= 0] for span in arrays["spans"].tolist()]
        tokens = mixed_tokens(levels, weights, grid)

        seeds = cluster_seeds(grid, ISegConfig().clusters)
        same(seeds, arrays["seeds"].ravel())
        joined = map_clusters(tokens, seeds, ISegConfig().cluster_iterations)
        same(joined, arrays["clusters"])
        plain = dataclasses.replace(ISegConfig(), clusters=0)
        close(class_maps(tokens, spans, grid, plain)[::3], arrays["cross_plain"], 1e-6)
        close(class_maps(tokens, spans, grid, ISegConfig()), arrays["cross_clustered"], 1e-6)

        for name in sorted(name.removeprefix("settings_") for name in arrays.names if name.startswith("settings_")):
            entropy, iterations, clustered = arrays[f"settings_{name}"]
            maps = class_maps(tokens, spans, grid, ISegConfig() if clustered else plain)
            maps = iterate(sharpened(rows, float(entropy)), maps, int(iterations))
            close(ranged(maps.T.unflatten(1, grid), grid).flatten(1).T[::3], arrays[f"maps_{name}"])


def test_diffsegmenter_adds_resolutions_and_refines_as_released():
    with goldens("diffsegmenter") as arrays:
        sides = sorted(arrays.cases("cross"), reverse=True)
        rows, grid = Rows.of(attention(arrays.tensor("q"), arrays.tensor("k"))), (sides[0], sides[0])
        for name, tokens in (("plain", [4]), ("ing", [4, 5])):
            maps = [arrays.tensor(f"cross_{side}")[..., tokens].mean(-1) for side in sides]
            total = weighted_sum(maps, DiffSegmenterConfig().level_weights, grid)
            close(total, arrays[f"sum_{name}"])
            close(smooth(rows, total.view(-1, 1)).view(grid), arrays[f"att_map_{name}"])
