"""mmdit-probe magnet train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmdit_probe.configs import MAGNET_PRESETS

from .. import options as common


def _presets(name: str) -> str:
    """A setting's default, preset by preset, for the help."""
    values = {preset: getattr(config, name) for preset, config in MAGNET_PRESETS.items()}
    shown = {preset: "all" if value is None else f"{value}" for preset, value in values.items()}
    if len(set(shown.values())) == 1:
        return f"Default: {next(iter(shown.values()))}."
    return "Default: " + ", ".join(f"{preset} {value}" for preset, value in shown.items()) + "."


def train(
    data: Annotated[
        str,
        typer.Option(help="scenes (built in), coco:ROOT (train2017, stuffthingmaps), sa1b:ROOT, or folder:ROOT."),
    ] = "scenes",
    model: common.Model = "tiny-sd3",
    layer: Annotated[
        str | None, typer.Option(help="Layer of the mask loss, or 'auto' to find one. Default: the expert layer.")
    ] = None,
    preset: Annotated[
        Literal["scenes", "folder", "coco", "sa1b"] | None,
        typer.Option(help="Settings to start from; coco and sa1b are the paper's. Default: that of --data."),
    ] = None,
    matching: Annotated[
        Literal["token", "head"] | None,
        typer.Option(
            help="token: each class name's map with that class's mask; head: maps of all tokens and heads with the masks, "
            f"by the Hungarian method. {_presets('matching')}"
        ),
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="JSON of captions: COCO's, or an object from image file to caption.")
    ] = None,
    sentences: Annotated[
        int | None, typer.Option(min=1, help=f"Sentences of a caption that are kept. {_presets('sentences')}")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help=f"Rank of the LoRA. {_presets('rank')}")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help=f"Training steps. {_presets('steps')}")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help=f"Images of one forward pass. {_presets('batch')}")] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help=f"Forward passes of one step. {_presets('accumulate')}")
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help=f"Largest learning rate. {_presets('rate')}")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help=f"Steps of warm-up. {_presets('warmup')}")] = None,
    gradient_clip: Annotated[
        float | None, typer.Option(help=f"Largest norm of all gradients. {_presets('gradient_clip')}")
    ] = None,
    mask_weight: Annotated[
        float | None, typer.Option(help=f"Weight of the mask loss; 0 is a plain LoRA. {_presets('mask_weight')}")
    ] = None,
    dice_weight: Annotated[float | None, typer.Option(help=f"Weight of dice in it. {_presets('dice_weight')}")] = None,
    focal_weight: Annotated[
        float | None, typer.Option(help=f"Weight of focal in it. {_presets('focal_weight')}")
    ] = None,
    read: Annotated[
        Literal["scores", "probs"] | None,
        typer.Option(
            help=f"The mask loss reads scores before the softmax, as released, or probabilities. {_presets('read')}"
        ),
    ] = None,
    released_focal: Annotated[
        bool,
        typer.Option("--released-focal", help="The released code's focal loss, which takes logits for probabilities."),
    ] = False,
    mask_head: Annotated[
        bool, typer.Option("--mask-head", help="The released code's small convolution on the maps, while training.")
    ] = False,
    ema: Annotated[float | None, typer.Option(help="Average the weights with this decay, such as 0.99.")] = None,
    max_sequence_length: common.MaxSequenceLength = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, about a third more time.")
    ] = False,
    mixed_precision: Annotated[
        Literal["no", "fp16", "bf16"], typer.Option(help="Frozen weights and arithmetic; the LoRA stays fp32.")
    ] = "no",
    save_every: Annotated[
        int | None, typer.Option(min=1, help=f"Steps between checkpoints. {_presets('save_every')}")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images ahead.")] = 0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also log to OUT/tensorboard (needs the package tensorboard).")
    ] = False,
    seed: common.Seed = 0,
    device: common.Device = "cpu",
    revision: common.Revision = None,
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")] = common.RESULTS
    / "magnet",
    as_json: common.AsJson = False,
) -> None:
    """Train a LoRA with flow matching and a mask loss on one layer's I2T maps (Seg4Diff, section 5).

    Started again with the same settings it goes on from its last checkpoint, to the same losses. `accelerate launch` splits
    the images over GPUs, torchrun over processes of any kind: a step then takes batch x accumulate x processes images.

    Writes pytorch_lora_weights.safetensors, which every command takes by --lora OUT and diffusers by
    pipe.load_lora_weights(OUT), losses.csv with losses.pdf / .png, and checkpoint.pt.
    """
    from mmdit_probe.figures.magnet import losses_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.magnet.checks import check, summary
    from mmdit_probe.magnet.lora import WEIGHTS_FILE
    from mmdit_probe.magnet.tensorboard import tensorboard_writer
    from mmdit_probe.magnet.trainer import MagnetTrainer
    from mmdit_probe.magnet.training_sets import open_training_set, split_source
    from mmdit_probe.utils.distributed import launched_worker_share

    from ..segment import one_layer

    kind, _ = split_source(data)
    given = {
        "matching": matching, "sentences": sentences, "rank": rank, "steps": steps, "batch": batch, "rate": lr,
        "accumulate": accumulate, "warmup": warmup, "gradient_clip": gradient_clip, "mask_weight": mask_weight,
        "dice_weight": dice_weight, "focal_weight": focal_weight, "read": read, "save_every": save_every,
    }  # fmt: skip
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config = replace(
        MAGNET_PRESETS[preset or kind],
        data=data,
        released_focal=released_focal,
        mask_head=mask_head,
        ema=ema,
        max_sequence_length=max_sequence_length,
        gradient_checkpointing=gradient_checkpointing,
        mixed_precision=mixed_precision,
        seed=seed,
        **chosen,
    )
    images = open_training_set(data, captions)
    check(config, images)
    share = launched_worker_share(device)
    dtype = "fp32" if mixed_precision == "no" else mixed_precision
    source = common.Source(model, dtype, share.device or device, revision, "none", None)
    pipe = source.load()
    config = replace(config, layer=one_layer(pipe, layer))
    trainer = MagnetTrainer(pipe, images, config, out, source.label, workers=workers)
    with (
        common.Bar("steps", as_json or not share.first) as bar,
        tensorboard_writer(out / "tensorboard" if tensorboard and share.first else None) as write,
    ):

        def shown(done: int, total: int, row: Any) -> None:
            write(row)
            bar.update(done, total, **{name: f"{row[name]:.4f}" for name in ("flow", "focal", "dice")})

        table = trainer.run(shown)
    if not share.first:
        return
    files = [out / WEIGHTS_FILE, out / "losses.csv", *save_figure(losses_figure(table), out / "losses")]
    lines = summary(table, config)
    lines.append(f"what it changed: mmdit-probe magnet compare --lora {out}")
    common.finish(lines, files, as_json, last=json.loads(table.tail(1).to_json(orient="records"))[0])
