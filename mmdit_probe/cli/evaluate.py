"""mmdit-probe evaluate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmdit_probe.configs import (
    BaselineConfig,
    DatasetConfig,
    EvaluateConfig,
    ModelConfig,
    Setting,
    Settings,
    ThresholdConfig,
)
from mmdit_probe.configs.reading import reading_name
from mmdit_probe.configs.segmentation import Method, Task

from .layers import check_layers
from .methods import backbone, loaded, selected
from .options import RESULTS, naming_options
from .session import Bar, figure_line, finish, label, name_unknown_words
from .split import SplitRunConfig

if TYPE_CHECKING:
    from mmdit_probe.evaluation.tables import Evaluation


Dataset = Annotated[
    str,
    typer.Argument(
        help="scenes (built in), voc20, voc21, context (PC59), coco-object, coco-object-background, coco-stuff-27, ade20k, "
        "cityscapes (19 classes), cityscapes-27, or folder (images/, labels/, classes.json)."
    ),
]
"""A labeled data set."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedMethod(Settings):
    """The method, and which of its tasks."""

    task: Annotated[
        Task | None,
        Setting(
            "Masks by class names, or regions without words.", default="the method's; seg4diff's is open-vocabulary"
        ),
    ] = None
    method: Annotated[
        Method,
        Setting(
            "seg4diff, or a baseline. By names: diffsegmenter, iseg (U-Nets), proxyclip, corrclip (CLIP). Without words: "
            "diffseg, diffcut (U-Nets, and on any MM-DiT's layers). --model is the backbone, the released one by default; "
            "diffseg and diffcut take tiny-sd3."
        ),
    ] = "seg4diff"


def evaluate(
    dataset: Dataset,
    files: DatasetConfig,
    method: EvaluatedMethod,
    baseline: BaselineConfig,
    threshold: ThresholdConfig,
    config: EvaluateConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "evaluate"),
) -> None:
    """How good the masks are: pixel accuracy, mean accuracy and mIoU, of every layer in one pass over the images.

    Masks are scored at the images' own size. Regions without words are matched to the classes image by image, as the
    paper does, and by an order-independent variant as well.
    A baseline that is a whole system has no layers: its tables have one row, and there is no figure.

    Writes evaluate.csv (a row for each timestep, layer and head, with 95% bootstrap intervals of mIoU over images; mIoU is the
    mean over the classes of the ground truth, miou_absent_zero mmseg's), evaluate_classes.csv, evaluate_images.csv,
    evaluate.pdf / .png (Seg4Diff, Fig. 8, 15) and, with --heads all, evaluate_heads.pdf / .png (Fig. 17). All numbers in
    files are fractions.
    """
    selection = selected(method, baseline, threshold)
    from mmdit_probe.datasets.registry import dataset_name, open_dataset

    images = open_dataset(dataset, files.root, config.limit)
    config = replace(selection.fill(config), dataset=dataset_name(dataset), task=selection.task(method.task))

    from mmdit_probe.baselines.selection import changed_settings
    from mmdit_probe.evaluation.counter import MapCounter
    from mmdit_probe.evaluation.run import check, run_evaluation
    from mmdit_probe.evaluation.tables import named_layers, summary, tabulate, without_settings
    from mmdit_probe.metrics.inference import FEWEST

    check(config)
    with naming_options(EvaluateConfig):
        selection.check_given(changed_settings(config))
    check_layers(config.layers, model)
    model = backbone(selection, model)
    found = loaded(selection, model)
    with naming_options(EvaluateConfig):
        counter = found.counter(config)
    pipe = None if found.is_whole else found.pipe
    together = ""
    if counter is None and pipe is not None and config.aggregate != EvaluateConfig.aggregate:
        counter = MapCounter(pipe, config)
        together = f"{config.read}, {counter.reader.name}"
    if pipe is not None and config.task == "open-vocabulary":
        name_unknown_words(pipe, images.classes)
    with Bar("batches of images") as bar:
        text = selection.label(label(model))
        result = tabulate(run_evaluation(pipe, images, config, output.out, text, bar.update, counter))
    about = f"{dataset}, n = {len(images.samples)} images, mIoU over the classes of the ground truth"
    if len(images.samples) >= FEWEST and config.heads == "mean":
        about += "; bars: 95% intervals over images"
    if together:
        result = named_layers(result, together)
    if found.is_whole:
        result = without_settings(result, selection.method)
    written = _write(result, config, found.is_whole or bool(together), output.out, figure_line(model, (), about))
    by_words = pipe is not None and config.task == "open-vocabulary"
    read = reading_name(config.read, config.aggregate) if by_words else ""
    lines = summary(result, dataset, len(images.samples), read)
    finish(output, lines, written, table=result.settings, trivial=result.trivial)


def _write(result: Evaluation, config: EvaluateConfig, whole: bool, out: Path, line: str) -> list[Path]:
    from mmdit_probe.figures.evaluation import evaluation_figure, heads_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.files import write_text

    written = [
        write_text(out / "evaluate.csv", result.settings.to_csv(index=False)),
        write_text(out / "evaluate_classes.csv", result.classes.to_csv(index=False)),
        write_text(out / "evaluate_images.csv", result.images.to_csv(index=False)),
    ]
    if not whole:
        written += save_figure(evaluation_figure(result.settings, result.trivial, config.steps), out / "evaluate", line)
    if config.trivial:
        written.append(write_text(out / "evaluate_trivial.csv", result.trivial.to_csv(index=False)))
    if config.heads == "all":
        written += save_figure(heads_figure(result.settings, config.steps), out / "evaluate_heads", line)
    return written
