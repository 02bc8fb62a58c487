"""mmdit-probe magnet train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from mmdit_probe.configs import MAGNET_PRESETS, MagnetConfig, ModelConfig, OneLayerConfig
from mmdit_probe.configs.magnet import Preset
from mmdit_probe.configs.setting import INPUT, METHOD, OUTPUT, Setting, Settings

from ..layers import check_layers, resolve_layer
from ..options import RESULTS, Overrides, RunConfig, naming_options
from ..session import Bar, figure_line, finish, label, load


def _by_preset(name: str) -> str:
    """A setting's default in words, preset by preset if they differ."""
    if name == "data":
        return MagnetConfig.data
    values = {preset: getattr(config, name) for preset, config in MAGNET_PRESETS.items()}
    shown = {preset: _worded(value) for preset, value in values.items()}
    if len(set(shown.values())) == 1:
        return "none" if next(iter(values.values())) is None else next(iter(shown.values()))
    return ", ".join(f"{preset} {value}" for preset, value in shown.items())


def _worded(value: Any) -> str:
    if value is None:
        return "all"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """What training takes in addition to MAGNET's own settings."""

    preset: Annotated[
        Preset | None,
        Setting("Settings to start from; coco and sa1b are the paper's.", METHOD, default="that of --data"),
    ] = None
    captions: Annotated[
        Path | None, Setting("JSON of captions: COCO's, or an object from image file to caption.", INPUT)
    ] = None
    workers: Annotated[int, Setting("Processes that read images ahead.", METHOD, low=0)] = 0
    tensorboard: Annotated[bool, Setting("Also log to OUT/tensorboard (needs the package tensorboard).", OUTPUT)] = (
        False
    )


def train(
    changes: Annotated[dict[str, Any], Overrides(MagnetConfig, _by_preset)],
    training: TrainingConfig,
    layer: OneLayerConfig,
    model: ModelConfig,
    output: RunConfig = RunConfig(out=RESULTS / "magnet"),
) -> None:
    """Train a LoRA with flow matching and a mask loss on one layer's I2T maps (Seg4Diff, section 5).

    Started again with the same settings it goes on from its last checkpoint, to the same losses. `accelerate launch -m
    mmdit_probe magnet train` splits the images over GPUs, torchrun over processes of any kind: a step then takes
    batch x accumulate x processes images.

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
    from mmdit_probe.utils.distributed import leave_to_first, own_device, worker_share

    data = changes.get("data", MagnetConfig.data)
    kind, _ = split_source(data)
    with naming_options(MagnetConfig):
        config = replace(MAGNET_PRESETS[training.preset or kind], **{**changes, "data": data})
    images = open_training_set(data, training.captions)
    check(config, images)
    check_layers(layer.layers, model)
    share = worker_share()
    model = replace(model, dtype=_dtype(config, model), device=own_device(model.device))
    pipe = load(model)
    config = replace(config, layer=resolve_layer(pipe, layer.layers))
    trainer = MagnetTrainer(pipe, images, config, output.out, label(model), workers=training.workers)
    with (
        Bar("steps") as bar,
        tensorboard_writer(output.out / "tensorboard" if training.tensorboard and share.first else None) as write,
    ):

        def shown(done: int, total: int, row: Any) -> None:
            write(row)
            bar.update(done, total, **{name: f"{row[name]:.4f}" for name in ("flow", "focal", "dice")})

        table = trainer.run(shown)
    leave_to_first()
    about = f"layer {config.layer}, {len(table)} steps of {config.batch} images; thin: each step, thick: running mean"
    line = figure_line(model, (), f"data {data}", about)
    files = [
        output.out / WEIGHTS_FILE,
        output.out / "losses.csv",
        *save_figure(losses_figure(table), output.out / "losses", line),
    ]
    lines = [*summary(table, config), f"what it changed: mmdit-probe magnet compare --lora {output.out}"]
    finish(output, lines, files, last=table.tail(1).to_dict("records")[0])


def _dtype(config: MagnetConfig, model: ModelConfig) -> Any:
    """The frozen weights' number format: that of mixed precision; `ValueError` if --dtype asks for another one."""
    wanted = "fp32" if config.mixed_precision == "no" else config.mixed_precision
    if model.dtype not in (ModelConfig.dtype, wanted):
        raise ValueError(f"--dtype: training takes --mixed-precision {model.dtype}, which keeps the LoRA in fp32")
    return wanted
