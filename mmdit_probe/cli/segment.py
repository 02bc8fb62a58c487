"""mmdit-probe segment and mmdit-probe group."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmdit_probe.baselines.registry import REFINERS, SEG4DIFF
from mmdit_probe.configs import GroupConfig, SegmentConfig, as_dict

from . import baselines as systems
from . import options as common
from .layers import chosen_layers

_LISTED = 3
"""For more images their files are shown as NAME_..., not one by one."""
Images = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)]
OneLayer = Annotated[str | None, typer.Option(help="A layer number, or 'auto' to find one. Default: the expert layer.")]
Timestep = Annotated[int, typer.Option(help="Timestep of 28 to read, counted from the clean end.")]
Crop = Annotated[
    Literal["stretch", "center"],
    typer.Option(
        help="stretch: the whole image, as the released code; center: the square in its center, as the paper."
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Images of one forward pass.")]


def segment(
    images: Images,
    classes: Annotated[str, typer.Option(help="Class names separated by commas, such as 'dog,bench,grass'.")],
    model: common.Model = "tiny-sd3",
    layer: OneLayer = None,
    timestep: Timestep = SegmentConfig.timestep,
    method: Annotated[
        Literal["seg4diff", "diffsegmenter", "iseg", "proxyclip", "corrclip"],
        typer.Option(
            help="seg4diff, or a baseline with --model for its backbone, the released one by default: diffsegmenter, "
            "iseg (U-Nets), proxyclip, corrclip (CLIP)."
        ),
    ] = "seg4diff",
    refine: systems.Refine = "none",
    refine_steps: systems.RefineSteps = None,
    refine_entropy: systems.RefineEntropy = None,
    masks: systems.Masks = None,
    dino: systems.Dino = None,
    crop: Crop = "stretch",
    batch: Batch = 8,
    seed: common.Seed = SegmentConfig.seed,
    max_sequence_length: common.MaxSequenceLength = None,
    dtype: common.Dtype = "fp32",
    device: common.Device = "cpu",
    revision: common.Revision = None,
    offload: common.Offload = "none",
    quantize: common.Quantize = "none",
    lora: common.Lora = None,
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")] = common.RESULTS
    / "segment",
    as_json: common.AsJson = False,
) -> None:
    """Which of the given class names each pixel shows: one forward pass, no training (Seg4Diff, section 4.2).

    Names that do not fit into one prompt are split over several forward passes; none is cut.

    Writes for each image NAME_labels.png (palette PNG, pixel values are positions in --classes), NAME_legend.json,
    NAME_overlay.png, NAME_rle.json (COCO run-length codes) and NAME_maps.nc (soft maps on the token grid), and
    segment.csv.
    """
    from mmdit_probe.baselines.counters import refined_segmenter
    from mmdit_probe.segmentation.class_prompts import checked_classes, class_prompts
    from mmdit_probe.segmentation.image_files import image_files
    from mmdit_probe.segmentation.segmenters import OpenVocabularySegmenter

    systems.checked(method, refine, masks, dino)
    names = checked_classes(classes.split(","))
    files = image_files(images)
    source = systems.chosen(method, common.Source(model, dtype, device, revision, offload, lora, quantize))
    if method != SEG4DIFF:
        systems.without_layer(method, layer)
        own = systems.settings(method, None)
        system = systems.load_system(method, source, own, dino, masks)
        text = systems.label(method, source, dino, masks)
        _run_system(
            lambda image: system.segment(image, names),
            files,
            out,
            "segment",
            method,
            text,
            own,
            crop,
            as_json,
            classes=names,
        )
        return
    pipe = source.load()
    config = SegmentConfig(timestep, crop, refine, seed, max_sequence_length)
    number, baseline = one_layer(pipe, layer), systems.refinement(refine_steps, refine_entropy)
    if refine in REFINERS:
        segmenter = refined_segmenter(pipe, number, config, baseline, systems.load_masks(masks, source))
    else:
        segmenter = OpenVocabularySegmenter(pipe, number, config)
    class_prompts(pipe, names, segmenter.reader.max_sequence_length)  # bad names fail before any work
    settings = {
        "study": "segment",
        "model": systems.label(method, source, dino, masks, refine),
        "layer": segmenter.layer,
        "classes": names,
        **as_dict(config),
        **({"baseline": as_dict(baseline)} if refine in REFINERS else {}),
    }
    _run(lambda images: segmenter.batch(images, names), files, out, settings, batch, as_json)


def group(
    images: Images,
    model: common.Model = "tiny-sd3",
    layer: OneLayer = None,
    timestep: Timestep = GroupConfig.timestep,
    method: Annotated[
        Literal["seg4diff", "diffseg", "diffcut"],
        typer.Option(
            help="seg4diff merges the tokens' maps; diffseg merges the pixels' own attention; diffcut cuts their features "
            "apart. The two baselines also run on their own U-Nets, given by --model."
        ),
    ] = "seg4diff",
    threshold: Annotated[
        float | None,
        typer.Option(
            help="seg4diff, diffseg: maps closer than this (symmetric KL, nats) become one region; diffcut: normalized cuts "
            f"below this are made. Default: {GroupConfig.threshold}; "
            "diffseg 1.1, on an MM-DiT 0.4 (tuned on tiny-sd3); diffcut 0.5."
        ),
    ] = None,
    variant: Annotated[
        Literal["released", "paper-text"],
        typer.Option(help="released: what the released code does; paper-text: each map joins one region only."),
    ] = "released",
    min_max: Annotated[
        bool, typer.Option(help="Scale each grid point over the tokens before the merge (released only).")
    ] = GroupConfig.min_max,
    crop: Crop = "stretch",
    batch: Batch = 8,
    seed: common.Seed = GroupConfig.seed,
    max_sequence_length: common.MaxSequenceLength = None,
    dtype: common.Dtype = "fp32",
    device: common.Device = "cpu",
    revision: common.Revision = None,
    offload: common.Offload = "none",
    quantize: common.Quantize = "none",
    lora: common.Lora = None,
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")] = common.RESULTS
    / "group",
    as_json: common.AsJson = False,
) -> None:
    """Regions without words: where the tokens of an empty prompt look, merged by KL divergence (Seg4Diff, section 4.3), or
    by a baseline's steps.

    Writes the files of `mmdit-probe segment` with regions for classes, and group.csv.
    """
    from mmdit_probe.baselines.loading import unet_system
    from mmdit_probe.baselines.on_mmdit import JointGrouper
    from mmdit_probe.segmentation.image_files import image_files
    from mmdit_probe.segmentation.segmenters import UnsupervisedSegmenter

    if threshold is not None and not threshold > 0:
        raise ValueError(
            f"--threshold must be above 0, got {threshold}; the released code's is {GroupConfig.threshold}"
        )
    files = image_files(images)
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    merge_at = GroupConfig.threshold if threshold is None else threshold
    config = GroupConfig(merge_at, variant, min_max, timestep, crop, seed, max_sequence_length)
    own = None if method == SEG4DIFF else systems.settings(method, threshold, joint=systems.is_joint(pipe))
    if own is not None and not systems.is_joint(pipe):
        systems.without_layer(method, layer)
        system = unet_system(method, pipe, own)
        _run_system(system.group, files, out, "group", method, source.label, own, crop, as_json)
        return
    number = one_layer(pipe, layer)
    segmenter = UnsupervisedSegmenter(pipe, number, config) if own is None else JointGrouper(pipe, number, own, config)
    settings = {"study": "group", "model": source.label, "layer": segmenter.layer, "method": method, **as_dict(config)}
    settings |= {} if own is None else {"baseline": as_dict(own)}
    _run(segmenter.batch, files, out, settings, batch, as_json)


def one_layer(pipe: Any, layer: str | None) -> int:
    """The layer named, found, or the model's own."""
    return chosen_layers(pipe, None if layer is None else [layer], False)[0]


def _run_system(
    label: Callable[[Any], Any],
    files: dict[str, Path],
    out: Path,
    study: str,
    method: str,
    model: str,
    config: Any,
    crop: str,
    as_json: bool,
    **more: Any,
) -> None:
    """The images through a whole system, one at a time."""
    from mmdit_probe.storage.images import cropped

    settings = {"study": study, "model": model, "method": method, "crop": crop, "system": as_dict(config), **more}
    _run(lambda images: [label(cropped(image, crop)) for image in images], files, out, settings, 1, as_json)


def _run(segment: Any, files: dict[str, Path], out: Path, settings: dict[str, Any], batch: int, as_json: bool) -> None:
    from mmdit_probe.segmentation.image_files import FILES, segment_files, summary
    from mmdit_probe.storage.runs import write_text

    with common.Bar("images", as_json) as bar:
        table = segment_files(segment, files, out, settings, batch, bar.update)
    shown = files if as_json or len(files) <= _LISTED else ["NAME"]
    written = [out / f"{name}_{kind}" for name in shown for kind in FILES]
    written.append(write_text(out / f"{settings['study']}.csv", table.to_csv(index=False)))
    how = (
        f"layer {settings['layer']}, timestep {settings['timestep']} of 28"
        if "layer" in settings
        else settings["method"]
    )
    lines = [how, *summary(table)]
    common.finish(lines, written, as_json, table=json.loads(table.to_json(orient="records")))
