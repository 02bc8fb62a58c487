"""What the commands share: options, loading, the progress bar, and how a command ends."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmdit_probe.configs import LARGEST_SEED
from mmdit_probe.storage.digests import model_label
from mmdit_probe.utils.text import checked_once, checked_text, shown

RESULTS = Path("results")

Model = Annotated[
    str,
    typer.Option(
        help="tiny-sd3 (embedded), a diffusers folder, or a hub id such as "
        "stabilityai/stable-diffusion-3-medium-diffusers."
    ),
]
Prompt = Annotated[list[str] | None, typer.Option(help="A prompt; may be given several times.")]
Prompts = Annotated[Path | None, typer.Option(help="A text file with one prompt a line.")]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Sampling steps.")]
Timesteps = Annotated[
    str, typer.Option(help="Timesteps to read, counted from the clean end: 8 of 28 is the 21st step.")
]
GuidanceScale = Annotated[
    float | None,
    typer.Option(
        help="Classifier-free guidance; the model's own default if not given. Which number turns it off depends on the "
        "pipeline: 1 for most, 0 for Z-Image."
    ),
]
MaxSequenceLength = Annotated[
    int | None,
    typer.Option(
        min=0, help="T5 positions; the model's own default if not given (SD3: 77, the paper's 154 text tokens)."
    ),
]
Height = Annotated[int | None, typer.Option(min=1, help="Image height in px.")]
Width = Annotated[int | None, typer.Option(min=1, help="Image width in px.")]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the starting noise.")]
Layer = Annotated[
    list[str] | None,
    typer.Option(help="A layer number, or 'auto' to find one; may be given several times. Default: the expert layer."),
]
ClipModel = Annotated[
    str | None,
    typer.Option("--clip", help="CLIP for the scores, e.g. openai/clip-vit-base-patch16; tiny-sd3 brings its own."),
]
DinoModel = Annotated[str | None, typer.Option("--dino", help="DINO for the scores, e.g. facebook/dino-vits16.")]
ImageLike = Annotated[
    Path | None, typer.Option("--image", help="An image file to read instead of generating one; one forward pass.")
]
Longest = Annotated[
    int | None, typer.Option(min=1, help="Longer side of --image in px; the model's own size if not given.")
]
Layers = Annotated[str, typer.Option(help="Layers to read: all, or numbers such as 3,7.")]
Out = Annotated[Path, typer.Option(help="Output folder.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or mps (untested).")]
Dtype = Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Number format of the weights.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Offload = Annotated[
    Literal["none", "model", "sequential"],
    typer.Option(help="Keep in main memory what is not at work: one model at a time, or layer by layer (slow)."),
]
Quantize = Annotated[
    Literal["none", "int8", "nf4"],
    typer.Option(
        help="Weights of the transformer in fewer bits: int8 needs torchao, nf4 bitsandbytes and --device cuda."
    ),
]
Lora = Annotated[str | None, typer.Option(help="A LoRA on top: a .safetensors file, a folder or a hub id.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, messages on standard error.")
]


def chosen_prompts(model: str, prompt: list[str] | None, file: Path | None) -> tuple[str, ...]:
    """The user's prompts, or the scenes' for the embedded model."""
    from mmdit_probe.datasets.prompts import read_prompts, scene_prompts

    if prompt and file:
        raise ValueError("give --prompt or --prompts, not both")
    if prompt or file is not None:
        given = prompt or read_prompts(file)  # type: ignore[arg-type]
        return checked_once("prompt", [checked_text("prompt", text) for text in given])
    if model != "tiny-sd3":
        raise ValueError("give --prompt or --prompts FILE: the built-in prompts are scenes that only tiny-sd3 knows")
    return scene_prompts()


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, in order, each once."""
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ValueError(f"{option}: expected numbers separated by commas, such as 8,28; got {shown(text)}") from None
    if max(map(abs, found)) > LARGEST_SEED:
        raise ValueError(f"{option}: numbers can be {LARGEST_SEED} at most, got {shown(text)}")
    return found


def seed_numbers(option: str, text: str) -> tuple[int, ...]:
    """Seeds separated by commas, each once."""
    found = numbers(option, text)
    if not all(0 <= seed <= LARGEST_SEED for seed in found):
        raise ValueError(f"{option}: seeds must be 0 to {LARGEST_SEED}, got {shown(text)}")
    return found


def decimals(option: str, text: str) -> tuple[float, ...]:
    """Numbers separated by commas, in order, each once."""
    try:
        return tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise ValueError(f"{option}: expected numbers separated by commas, such as 0,1.5; got {shown(text)}") from None


def layer_numbers(text: str) -> tuple[int, ...] | None:
    """Layer numbers, or None for all of them."""
    return None if text.strip().lower() == "all" else numbers("--layers", text)


_held = ExitStack()


def lock_output(out: Path) -> None:
    """Hold the output folder until the command ends; `ValueError` before any work if it can't be written or is taken."""
    from mmdit_probe.storage.runs import held_folder

    _held.enter_context(held_folder(out))


def release() -> None:
    """The command has ended: give up its output folder, which goes if it is empty, and the messages of its memory."""
    _held.close()


def check_prompts_fit(pipe: Any, prompts: Sequence[str], max_sequence_length: int | None) -> None:
    """`ValueError` if the model would read only the beginning of a prompt."""
    from mmdit_probe.pipelines.defaults import model_defaults
    from mmdit_probe.pipelines.prompts import check_length

    default = model_defaults(pipe).max_sequence_length
    check_length(pipe, prompts, default if max_sequence_length is None else max_sequence_length)


def input_image(image: Path | None, longest: int | None, pipe: Any) -> Any:
    """The image of --image as the model takes it, None if there is none."""
    from mmdit_probe.pipelines.image_size import load_image

    if image is None and longest is not None:
        raise ValueError("--longest is the size of --image; give --height and --width for a generated image")
    return None if image is None else load_image(image, pipe, longest)


_SHOWN = 2
"""Estimates printed: of one image or batch, and of all of them."""


class _Echo(logging.Handler):
    """To the standard error of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(self.format(record), err=True)


def show_memory() -> None:
    """Print on standard error what a run will keep, once and not for every image, and every lack of memory."""
    seen: set[str] = set()

    def chosen(message: logging.LogRecord) -> bool:
        what = str(message.args[0] if isinstance(message.args, tuple) and message.args else "")
        new = what not in seen and len(seen) < _SHOWN
        seen.add(what)
        return new or message.levelno > logging.INFO

    handler = _Echo()
    handler.setFormatter(logging.Formatter("memory: %(message)s"))
    handler.addFilter(chosen)
    logger = logging.getLogger("mmdit_probe.memory")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    _held.callback(logger.removeHandler, handler)


@dataclass(frozen=True)
class Source:
    """Where the pipeline comes from and how it is loaded."""

    model: str
    dtype: str
    device: str
    revision: str | None
    offload: Literal["none", "model", "sequential"]
    lora: str | None
    quantize: Literal["none", "int8", "nf4"] = "none"

    @cached_property
    def label(self) -> str:
        """What the numbers depend on, in words: an output folder is continued only with the same."""
        return model_label(self.model, self.dtype, self.revision, self.lora, self.quantize)

    def load(self) -> Any:
        """The pipeline."""
        from mmdit_probe.pipelines.loading import load_pipeline

        show_memory()
        return load_pipeline(
            self.model,
            dtype=self.dtype,
            device=self.device,
            revision=self.revision,
            offload=self.offload,
            lora=self.lora,
            quantize=self.quantize,
        )


def finish(lines: list[str], files: list[Path], as_json: bool, **data: Any) -> None:
    """Print what was found and where the files are."""
    if as_json:
        typer.echo(json.dumps({"reading": lines, "files": [str(file) for file in files], **data}))
        return
    typer.echo("\n".join(lines))
    typer.echo("\nWritten:\n" + "\n".join(f"  {file}" for file in files))


class Bar:
    """A progress bar on standard error; closed before any error is shown."""

    def __init__(self, unit: str, quiet: bool) -> None:
        self.unit, self.quiet = unit, quiet

    def __enter__(self) -> Bar:
        from tqdm.auto import tqdm

        self.bar = tqdm(unit=f" {self.unit}", disable=self.quiet or None)
        return self

    def update(self, done: int, total: int, **shown: str) -> None:
        """``done`` of ``total`` are finished; ``shown`` stands behind the bar."""
        self.bar.total = total
        self.bar.n = done
        if shown:
            self.bar.set_postfix(shown, refresh=False)
        self.bar.refresh()

    def __exit__(self, *_: object) -> None:
        self.bar.close()
