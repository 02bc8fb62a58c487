"""mmdit-probe evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmdit_probe.baselines.registry import REFINERS, SEG4DIFF, task_of
from mmdit_probe.configs import EvaluateConfig

from . import baselines as systems
from . import options as common


def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(
            help="scenes (built in), voc20, voc21, context (PC59), coco-object, coco-object-background, coco-stuff-27, ade20k, "
            "cityscapes (19 classes), cityscapes-27, or folder (images/, labels/, classes.json)."
        ),
    ],
    root: Annotated[Path | None, typer.Option(help="The data set's folder, as released; not for scenes.")] = None,
    task: Annotated[
        Literal["open-vocabulary", "unsupervised"] | None,
        typer.Option(help="Masks by class names, or regions without words. Default: the method's; seg4diff does both."),
    ] = None,
    method: Annotated[
        Literal["seg4diff", "diffsegmenter", "iseg", "proxyclip", "corrclip", "diffseg", "diffcut"],
        typer.Option(
            help="seg4diff, or a baseline. By names: diffsegmenter, iseg (U-Nets), proxyclip, corrclip (CLIP). Without "
            "words: diffseg, diffcut (U-Nets, and on any MM-DiT's layers). --model is the backbone, the released one by "
            "default; diffseg and diffcut take tiny-sd3."
        ),
    ] = "seg4diff",
    model: common.Model = "tiny-sd3",
    layers: common.Layers = "all",
    layer_sweep: Annotated[bool, typer.Option("--layer-sweep", help="All layers: the same as --layers all.")] = False,
    heads: Annotated[Literal["mean", "each"], typer.Option(help="The mean over heads, or each head apart.")] = "mean",
    timesteps: Annotated[
        str, typer.Option(help="Timesteps of 28, counted from the clean end; one forward pass each.")
    ] = ",".join(map(str, EvaluateConfig.timesteps)),
    vocabulary: Annotated[
        Literal["present", "full"],
        typer.Option(help="Classes the prompt offers: those in the image, as the paper, or all of the data set."),
    ] = "present",
    crop: Annotated[
        Literal["stretch", "center"],
        typer.Option(help="stretch: the whole image, as the released code; center: its middle square, as the paper."),
    ] = "stretch",
    normalize: Annotated[
        Literal["probs", "probs-minmax", "scores", "scores-minmax"],
        typer.Option(help="Maps after or before the softmax, as they are or each brought to [0, 1] (Table 5)."),
    ] = "probs",
    refine: systems.Refine = "none",
    refine_steps: systems.RefineSteps = None,
    refine_entropy: systems.RefineEntropy = None,
    masks: systems.Masks = None,
    dino: systems.Dino = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Unsupervised. seg4diff, diffseg: maps closer than this (symmetric KL, nats) become one region; diffcut: "
            f"normalized cuts below this are made. Default: {EvaluateConfig.threshold}; "
            "diffseg 1.1, on an MM-DiT 0.4 (tuned on tiny-sd3); diffcut 0.5."
        ),
    ] = None,
    variant: Annotated[
        Literal["released", "paper-text"],
        typer.Option(help="Unsupervised: the merge of the released code or of the text."),
    ] = "released",
    trivial: Annotated[
        bool, typer.Option("--trivial", help="Unsupervised: also one region, k-means on colors and on positions.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images; 300 of scenes.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images of one forward pass.")] = EvaluateConfig.batch,
    seed: common.Seed = EvaluateConfig.seed,
    max_sequence_length: common.MaxSequenceLength = None,
    dtype: common.Dtype = "fp32",
    device: common.Device = "cpu",
    revision: common.Revision = None,
    offload: common.Offload = "none",
    quantize: common.Quantize = "none",
    lora: common.Lora = None,
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")] = common.RESULTS
    / "evaluate",
    as_json: common.AsJson = False,
) -> None:
    """How good the masks are: pixel accuracy, mean accuracy and mIoU, of every layer in one pass over the images.

    Masks are scored at the images' own size. Regions without words are matched to the classes image by image, as the
    paper does, and by an order-independent variant beside it. `accelerate launch` splits the images over GPUs,
    torchrun over processes of any kind.
    A baseline that is a whole system has no layers: its tables have one row, and there is no figure.

    Writes evaluate.csv (a row for each timestep, layer and head), evaluate_classes.csv, evaluate_images.csv,
    evaluate.pdf / .png (Seg4Diff, Fig. 8, 15) and, with --heads each, evaluate_heads.pdf / .png (Fig. 17).
    """
    from mmdit_probe.baselines.counters import refined_counter
    from mmdit_probe.datasets.registry import dataset_name, open_dataset
    from mmdit_probe.evaluation.run import check, run_evaluation
    from mmdit_probe.evaluation.tables import summary, tabulate, without_views
    from mmdit_probe.figures.evaluation import evaluation_figure, heads_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.runs import write_text
    from mmdit_probe.utils.distributed import launched_worker_share

    if layer_sweep and layers.strip().lower() != "all":
        raise ValueError(f"--layer-sweep reads all layers, --layers {layers} does not; give one of them")
    systems.checked(method, refine, masks, dino)
    chosen_task = task_of(method, task)
    images, name = open_dataset(dataset, root, limit), dataset_name(dataset)
    config = EvaluateConfig(
        name,
        chosen_task,
        method,
        common.layer_numbers(layers),
        heads,
        common.numbers("--timesteps", timesteps),
        vocabulary,
        crop,
        normalize,
        refine,
        EvaluateConfig.threshold if threshold is None else threshold,
        variant,
        trivial=trivial,
        batch=batch,
        seed=seed,
        limit=limit,
        max_sequence_length=max_sequence_length,
    )
    check(config)
    share = launched_worker_share(device)
    source = common.Source(model, dtype, share.device or device, revision, offload, lora, quantize)
    source = systems.chosen(method, source)
    pipe, counter, whole = None, None, False
    if method == SEG4DIFF:
        pipe = source.load()
        if refine in REFINERS:
            baseline = systems.refinement(refine_steps, refine_entropy, name)
            counter = refined_counter(pipe, config, baseline, systems.load_masks(masks, source))
    else:
        pipe, counter = systems.counted(config, source, threshold, dino, masks)
        whole = pipe is None
    with common.Bar("batches of images", as_json or not share.first) as bar:
        text = systems.label(method, source, dino, masks, refine)
        batches = run_evaluation(pipe, images, config, out, text, bar.update, share, counter)
        if not share.first:
            list(batches)  # computes this process's batches; the first one sums up
            return
        result = tabulate(batches)
    if whole:
        result = without_views(result, method)
    files = [
        write_text(out / "evaluate.csv", result.views.to_csv(index=False)),
        write_text(out / "evaluate_classes.csv", result.classes.to_csv(index=False)),
        write_text(out / "evaluate_images.csv", result.images.to_csv(index=False)),
    ]
    if not whole:
        files += save_figure(evaluation_figure(result.views, result.trivial), out / "evaluate")
    if trivial:
        files.append(write_text(out / "evaluate_trivial.csv", result.trivial.to_csv(index=False)))
    if heads == "each":
        files += save_figure(heads_figure(result.views), out / "evaluate_heads")
    lines = summary(result, dataset, len(images.samples))
    tables = {"table": result.views, "trivial": result.trivial}
    common.finish(lines, files, as_json, **{n: json.loads(t.to_json(orient="records")) for n, t in tables.items()})
