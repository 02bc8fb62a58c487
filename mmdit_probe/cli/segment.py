"""mmdit-probe segment and mmdit-probe group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmdit_probe.configs import (
    BaselineConfig,
    BatchConfig,
    GroupConfig,
    Layers,
    ModelConfig,
    OneLayerConfig,
    SegmentConfig,
    Setting,
    Settings,
    ThresholdConfig,
)
from mmdit_probe.configs.reading import reading_name
from mmdit_probe.configs.segmentation import NamedMethod, RegionMethod
from mmdit_probe.configs.setting import INPUT

from .layers import check_layers, resolve_layer, resolve_layers
from .methods import backbone, loaded, selected
from .options import RESULTS, RunConfig
from .session import Bar, finish, label, name_unknown_words

if TYPE_CHECKING:
    from mmdit_probe.baselines.loaded import Labeler, LoadedMethod
    from mmdit_probe.baselines.selection import Selection

_LISTED = 3
"""For more images their files are shown as NAME_..., not one by one."""
Images = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)]


@dataclass(frozen=True, kw_only=True)
class NamedConfig(Settings):
    """Class names, and the method that finds them."""

    classes: Annotated[
        tuple[str, ...],
        Setting("Class names separated by commas, such as 'dog,bench,grass'.", INPUT, commas=True, required=True),
    ] = ()
    method: Annotated[
        NamedMethod,
        Setting(
            "seg4diff, or a baseline with --model for its backbone, the released one by default: diffsegmenter, iseg "
            "(U-Nets), proxyclip, corrclip (CLIP)."
        ),
    ] = "seg4diff"


@dataclass(frozen=True, kw_only=True)
class RegionMethodConfig(Settings):
    """The method that finds regions."""

    method: Annotated[
        RegionMethod,
        Setting(
            "seg4diff merges the tokens' maps; diffseg merges the pixels' own attention; diffcut cuts their features "
            "apart. The two baselines also run on their own U-Nets, given by --model."
        ),
    ] = "seg4diff"


def segment(
    images: Images,
    named: NamedConfig,
    baseline: BaselineConfig,
    config: SegmentConfig,
    layer: OneLayerConfig,
    batch: BatchConfig,
    model: ModelConfig,
    output: RunConfig = RunConfig(out=RESULTS / "segment"),
) -> None:
    """Which of the given class names each pixel shows: one forward pass, no training (Seg4Diff, section 4.2).

    --read takes other maps than the layer's I2T, --aggregate puts layers together: then all, or those of --layers.
    Names that do not fit into one prompt are split over several forward passes; none is cut.

    Writes for each image NAME_labels.png (palette PNG, pixel values are positions in --classes), NAME_legend.json,
    NAME_overlay.png, NAME_rle.json (COCO run-length codes) and NAME_maps.nc (soft maps on the token grid), and
    segment.csv.
    """
    selection = selected(named, baseline)
    _check_found(images)

    from mmdit_probe.segmentation.class_prompts import checked_classes
    from mmdit_probe.segmentation.image_files import image_files

    names, files = checked_classes(named.classes), image_files(images)
    _check_layer(selection, layer.layers, model)
    model = backbone(selection, model)
    method = loaded(selection, model)
    unknown = () if method.is_whole else name_unknown_words(method.pipe, names)
    together = config.aggregate != "layer" and not method.is_whole
    several = (
        None if not together or layer.layers == OneLayerConfig.layers else resolve_layers(method.pipe, layer.layers)
    )
    labeler = method.by_names(names, None if together else _layer(method, layer.layers), config, several)
    _run(labeler, files, "segment", selection, model, batch.batch, output, unknown)


def group(
    images: Images,
    method: RegionMethodConfig,
    threshold: ThresholdConfig,
    config: GroupConfig,
    layer: OneLayerConfig,
    batch: BatchConfig,
    model: ModelConfig,
    output: RunConfig = RunConfig(out=RESULTS / "group"),
) -> None:
    """Regions without words: where the tokens of an empty prompt look, merged by KL divergence (Seg4Diff, section 4.3), or
    by a baseline's steps.

    Writes the files of `mmdit-probe segment` with regions for classes, and group.csv.
    """
    selection = selected(method, threshold)
    _check_found(images)

    from mmdit_probe.segmentation.image_files import image_files

    files = image_files(images)
    _check_layer(selection, layer.layers, model)
    found = loaded(selection, model)
    _run(found.regions(_layer(found, layer.layers), config), files, "group", selection, model, batch.batch, output)


def _check_found(images: list[Path]) -> None:
    """`ValueError` if a file or folder is missing: before anything heavy is imported."""
    for path in images:
        if not path.exists():
            raise ValueError(f"image: no file {path}")


def _check_layer(selection: Selection, layers: Layers, model: ModelConfig) -> None:
    """`ValueError`, before anything is loaded, if a layer is named that the method or the model does not have."""
    if selection.baseline is not None and not selection.baseline.joint:
        _refuse_layer(selection.method, layers)
    check_layers(layers, model)


def _layer(method: LoadedMethod, layers: Layers) -> int | None:
    """The layer named, found, or the model's own; `ValueError` if one is named for a whole system, which has none."""
    if not method.is_whole:
        return resolve_layer(method.pipe, layers)
    _refuse_layer(method.selection.method, layers)
    return None


def _refuse_layer(method: str, layers: Layers) -> None:
    if layers != OneLayerConfig.layers:
        raise ValueError(f"--layer is about an MM-DiT's maps; --method {method} is a whole system here, leave it out")


def _run(
    labeler: Labeler,
    files: dict[str, Path],
    study: str,
    selection: Selection,
    model: ModelConfig,
    batch: int,
    output: RunConfig,
    unknown: tuple[str, ...] = (),
) -> None:
    from mmdit_probe.segmentation.image_files import FILES, segment_files, summary
    from mmdit_probe.storage.files import write_text

    settings = {"study": study, "model": selection.label(label(model)), **labeler.settings}
    settings |= {"unknown_words": ", ".join(unknown)} if study == "segment" else {}
    with Bar("images") as bar:
        table = segment_files(
            labeler.label, files, output.out, settings, batch=labeler.at_once or batch, progress=bar.update
        )
    shown = files if output.as_json or len(files) <= _LISTED else ["NAME"]
    written = [output.out / f"{name}_{kind}" for name in shown for kind in FILES]
    written.append(write_text(output.out / f"{study}.csv", table.to_csv(index=False)))
    how: str = selection.method
    if "layer" in settings:
        layer = settings["layer"]
        how = f"{layer if isinstance(layer, str) else f'layer {layer}'}, timestep {settings['timestep']} of {settings['steps']}"
        if "read" in settings:
            how = f"{reading_name(settings['read'], settings['aggregate'])}, {how}"
    finish(output, [how, *summary(table)], written, table=table)
