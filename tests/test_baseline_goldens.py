"""The baselines against their authors' own functions, on random inputs: golden/rivals/README.md says which made each array.

Numbers agree to 1e-4 and label maps in every pixel. The folder is that of the environment variable MMDIT_PROBE_GOLDENS, if
it is set. Each test reads every array of its file, or says why not.
"""

import dataclasses
import types

import numpy as np
import torch
from rival_goldens import FOLDER, close, goldens, same, same_parts
from torch.nn.functional import interpolate, linear, normalize
from transformers import CLIPConfig, CLIPModel

from mmdit_probe.baselines.anchor_merging import anchors_of, average_near, merge_regions
from mmdit_probe.baselines.attention_rows import Rows, mean_rows
from mmdit_probe.baselines.corrclip import CorrCLIP, merged_regions, region_attention, without_lowest
from mmdit_probe.baselines.dense_clip import DenseCLIP, on_grid, probabilities
from mmdit_probe.baselines.diffcut import cut_features
from mmdit_probe.baselines.diffseg import tiled
from mmdit_probe.baselines.diffsegmenter import weighted_sum
from mmdit_probe.baselines.iseg import class_maps
from mmdit_probe.baselines.map_clusters import cluster_seeds, map_clusters, mixed_tokens
from mmdit_probe.baselines.normalized_cut import affinity, best_cut, cut_vector, recursive_cut
from mmdit_probe.baselines.proxyclip import proxy_attention
from mmdit_probe.baselines.refinement import iterate, majority_vote, sharpened, smooth
from mmdit_probe.baselines.results import ranged
from mmdit_probe.configs.baselines import (
    CorrCLIPConfig,
    DiffCutConfig,
    DiffSegmenterConfig,
    ISegConfig,
    ProxyCLIPConfig,
)
from mmdit_probe.magnet.losses import dice_loss, focal_loss, pairwise_dice, pairwise_focal
from mmdit_probe.magnet.matching import match_masks
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
    """mmseg counts a class that is predicted and nowhere true as 0; detectron2 leaves it out, as our default does."""
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
            close(found.miou_absent_zero, arrays[f"mm_miou_{case}"])
            close(found.miou, arrays[f"d2_miou_{case}"])
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
        plain = class_maps(tokens, spans, grid, dataclasses.replace(ISegConfig(), clusters=0))
        clustered = class_maps(tokens, spans, grid, ISegConfig())
        close(plain[::3], arrays["cross_plain"], 1e-6)
        close(clustered, arrays["cross_clustered"], 1e-6)

        for name in sorted(name.removeprefix("settings_") for name in arrays.names if name.startswith("settings_")):
            entropy, iterations, in_clusters = arrays[f"settings_{name}"]
            maps = iterate(sharpened(rows, float(entropy)), clustered if in_clusters else plain, int(iterations))
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


# ProxyCLIP and CorrCLIP


def test_proxyclip_attends_as_released():
    """The released mean runs over all windows of a call, which its pipeline makes with one; ours is each window's own."""
    with goldens("proxyclip_attention") as arrays:
        for case in arrays.cases("x"):
            states, features = arrays.tensor(f"x_{case}"), arrays.tensor(f"ex_{case}")
            heads, size = int(arrays[f"heads_{case}"]), arrays[f"token_size_{case}"].tolist()
            assert states.shape[-1] % heads == 0  # the same attention for every head: their number changes nothing
            weight, bias = arrays.tensor(f"in_w_{case}").chunk(3)[2], arrays.tensor(f"in_b_{case}").chunk(3)[2]
            values = on_grid(linear(states.transpose(0, 1), weight, bias)[:, 1:], features.shape[2:], size)
            points = features.flatten(2).transpose(1, 2)
            config = ProxyCLIPConfig()
            means = [float((normalize(own, dim=-1) @ normalize(own, dim=-1).T).mean()) for own in points]
            shifts = [config.shift * np.mean(means) / mean for mean in means]
            mixed = [
                proxy_attention(own[None], shift, config.sharpness)[0] @ value
                for own, shift, value in zip(points, shifts, values, strict=True)
            ]
            found = linear(torch.stack(mixed, 1), arrays.tensor(f"o_w_{case}"), arrays.tensor(f"o_b_{case}"))
            close(found, arrays[f"out_{case}"])


def test_proxyclip_labels_pixels_as_released():
    with goldens("proxyclip_postprocess") as arrays:
        for case in arrays.cases("cosines"):
            owners = arrays[f"owners_{case}"].tolist()
            names = ["background", *(f"class {number}" for number in range(1, max(owners) + 1))]
            least = float(arrays[f"threshold_{case}"])
            shares = probabilities(arrays.tensor(f"cosines_{case}"), owners, names, ProxyCLIPConfig().scale, least)
            same(shares.argmax(0), arrays[f"pred_{case}"])


def test_corrclip_merges_masks_and_attends_as_released():
    with goldens("corrclip_attention") as arrays:
        config = CorrCLIPConfig()
        for case in arrays.cases("raw"):
            features, grid = arrays.tensor(f"raw_{case}"), arrays[f"grid_{case}"].tolist()
            masks = arrays.tensor(f"masks_{case}").double()[None, None]
            numbers = interpolate(masks, size=grid, mode="nearest").flatten().long()
            regions = merged_regions(features, numbers, config.eps, config.min_samples)
            theirs = arrays[f"regions_{case}"]
            same_parts(regions.view(*grid), theirs)
            same(regions.view(*grid) < 0, theirs == theirs.min())
            found = region_attention(features, regions, config.sharpness)
            close(found[:: int(arrays[f"row_step_{case}"])], arrays[f"weights_{case}"])


def test_corrclip_votes_as_released():
    with goldens("corrclip_vote") as arrays:
        for case in arrays.cases("pred"):
            masks = without_lowest(arrays[f"masks_{case}"].astype(np.int64))
            same(majority_vote(arrays[f"pred_{case}"].astype(np.int64), masks), arrays[f"out_{case}"])


def released_clip(weights):
    """A CLIPModel whose image encoder has weights of OpenCLIP's names."""
    width, patch = weights["class_embedding"].shape[0], weights["conv1.weight"].shape[-1]
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("transformer."))
    side = patch * round((len(weights["positional_embedding"]) - 1) ** 0.5)
    vision = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "patch_size": patch,
              "image_size": side, "hidden_act": "gelu",
              "intermediate_size": len(weights["transformer.resblocks.0.mlp.c_fc.weight"])}  # fmt: skip
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=weights["proj"].shape[1])
    ).eval()
    names = {"class_embedding": "embeddings.class_embedding", "conv1": "embeddings.patch_embedding", "ln_pre": "pre_layrnorm",
             "positional_embedding": "embeddings.position_embedding.weight", "ln_post": "post_layernorm"}  # fmt: skip
    inside = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
              "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    state = {}
    for name, value in weights.items():
        stem, _, kind = name.rpartition(".")
        if name.startswith("transformer.resblocks."):
            layer, part = name.split(".")[2], ".".join(stem.split(".")[3:])
            block = f"encoder.layers.{layer}."
            if part == "attn":  # attn.in_proj_weight: query, key and value above each other
                for letter, own in zip("qkv", value.chunk(3), strict=True):
                    state[f"{block}self_attn.{letter}_proj.{kind.removeprefix('in_proj_')}"] = own
            else:
                state[f"{block}{inside[part]}.{kind}"] = value
        elif name != "proj":
            state[names[name] if name in names else f"{names[stem]}.{kind}"] = value
    missing, unexpected = model.vision_model.load_state_dict(state, strict=False)
    assert not unexpected
    assert not [name for name in missing if "position_ids" not in name]
    model.visual_projection.weight.data = weights["proj"].T.contiguous()
    return model.requires_grad_(False)


def test_whole_image_encoders_embed_as_released():
    with goldens("clip_forward") as arrays:
        model = released_clip(arrays.below("w::"))
        image, features = arrays.tensor("image"), arrays.tensor("ex")
        grid, points = features.shape[2:], features.flatten(2).transpose(1, 2)
        processor = types.SimpleNamespace(tokenizer=None)
        clip, config = DenseCLIP(model, processor), ProxyCLIPConfig()
        values = on_grid(clip.values(clip.layers(image)[-2])[:, 1:], grid)
        mixed = proxy_attention(points, config.shift, config.sharpness) @ values
        close(clip.embedded(mixed), arrays["proxyclip"])

        system = CorrCLIP(model, processor, None, lambda image: image)
        masks = (
            interpolate(arrays.tensor("masks").double()[None, None], size=list(grid), mode="nearest").flatten().long()
        )
        regions = merged_regions(points[0], masks, system.config.eps, system.config.min_samples)
        close(system.window(image, points[0], regions, grid), arrays["corrclip"])


# MAGNET


def test_magnets_losses_are_the_released_ones():
    with goldens("magnet_losses") as arrays:
        for case in arrays.cases("logits"):
            logits, masks = arrays.tensor(f"logits_{case}"), arrays.tensor(f"masks_{case}").float()
            close(pairwise_dice(logits, masks), arrays[f"cost_dice_{case}"])
            close(pairwise_focal(logits, masks, released=True), arrays[f"cost_focal_{case}"])
            predictions, indices = match_masks(logits, masks, released=True)
            order = np.argsort(predictions)
            same(np.asarray(predictions)[order], np.sort(arrays[f"pred_{case}"]))
            same(np.asarray(indices)[order], arrays[f"mask_index_{case}"][np.argsort(arrays[f"pred_{case}"])])
            pairs = logits[arrays[f"pred_{case}"]], masks[arrays[f"mask_index_{case}"]]
            close(dice_loss(*pairs), arrays[f"dice_{case}"])
            close(focal_loss(*pairs, released=True), arrays[f"focal_{case}"])
