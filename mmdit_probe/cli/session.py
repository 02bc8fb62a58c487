"""What a command does around its study: prompts, loading, holding the output folder, progress, and how it ends."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdit_probe.configs import EMBEDDED_MODELS, ImageConfig, ModelConfig, PromptConfig
from mmdit_probe.storage.digests import model_label
from mmdit_probe.storage.invocation import running_command
from mmdit_probe.utils.distributed import WorkerShare, leave_to_first, own_device, sharing, worker_share
from mmdit_probe.utils.tables import json_rows
from mmdit_probe.utils.text import checked_once, checked_text, repaired

from .collector import resume_collector
from .held import held
from .options import OutputConfig
from .terminal import say, silence, tell

if TYPE_CHECKING:
    from mmdit_probe.families import Pipeline
    from mmdit_probe.storage.runs import RunFolder

_SHOWN = 2
"""Memory estimates printed: of one image or batch, and of all of them."""


def chosen_prompts(prompts: PromptConfig, model: ModelConfig) -> tuple[str, ...]:
    """The user's prompts, or the scenes' for the embedded model."""
    from mmdit_probe.datasets.prompts import read_prompts, scene_prompts

    if prompts.prompt and prompts.prompts is not None:
        raise ValueError("give --prompt or --prompts, not both")
    given = prompts.prompt or (() if prompts.prompts is None else read_prompts(prompts.prompts))
    if given:
        chosen = checked_once("prompt", [checked_text("prompt", text) for text in given])
        _record(prompt=list(chosen), prompts=None)  # the file may be another one when the run is repeated
        return chosen
    if model.model not in EMBEDDED_MODELS:
        raise ValueError(
            "give --prompt or --prompts FILE: the built-in prompts are scenes that the embedded models alone know"
        )
    return scene_prompts()


def _record(**options: Any) -> None:
    """Write options to run.json with other values than they were given with."""
    command = running_command()
    if command is not None:
        command.options.update(options)


def label(model: ModelConfig) -> str:
    """What the numbers depend on, in words: an output folder is continued only with the same."""
    return model_label(model.model, model.dtype, model.revision, model.lora, model.quantize, model.weights_variant)


def figure_line(model: ModelConfig, prompts: Sequence[str] = (), *notes: str) -> str:
    """The line under a figure: the model, the prompt or how many there are, and ``notes``."""
    from mmdit_probe.figures.style import caption

    lora = f"with LoRA {Path(model.lora).name}" if model.lora else ""
    return caption(model.model, prompts, lora, *notes)


def load(model: ModelConfig) -> Any:
    """The pipeline; from here on memory is spoken of."""
    from mmdit_probe.pipelines.loading import load_pipeline

    show_memory()
    pipe = load_pipeline(
        model.model,
        dtype=model.dtype,
        device=own_device(model.device),
        revision=model.revision,
        variant=model.weights_variant,
        offload=model.offload,
        lora=model.lora,
        quantize=model.quantize,
    )
    resume_collector()
    return pipe


def check_prompts_fit(pipe: Pipeline, prompts: Sequence[str], max_sequence_length: int | None) -> None:
    """`ValueError` if the model would read only the beginning of a prompt; words that it does not know are named."""
    from mmdit_probe.pipelines.defaults import model_defaults
    from mmdit_probe.pipelines.prompts import check_length

    default = model_defaults(pipe).max_sequence_length
    check_length(pipe, prompts, default if max_sequence_length is None else max_sequence_length)
    name_unknown_words(pipe, prompts)


def name_unknown_words(pipe: Pipeline, texts: Sequence[str]) -> tuple[str, ...]:
    """Name on standard error the words of prompts or class names that the model does not know, and return them."""
    from mmdit_probe.pipelines.vocabulary import said_of, unknown_words

    unknown = unknown_words(pipe, texts)
    if unknown:
        tell(said_of(unknown))
    return unknown


def check_image(image: ImageConfig) -> None:
    """`ValueError` if a size is given without its image, or the file is no image that can be read."""
    from mmdit_probe.storage.images import read_rgb

    if image.image is None and image.longest is not None:
        raise ValueError("--longest is the size of --image; give --height and --width for a generated image")
    if image.image is not None:
        read_rgb(image.image)


def input_image(image: ImageConfig, pipe: Pipeline) -> Any:
    """The image of --image as the model takes it, None if there is none."""
    from mmdit_probe.pipelines.image_size import load_image

    return None if image.image is None else load_image(image.image, pipe, image.longest)


def drawn_image(image: ImageConfig, read: Any, pipe: Pipeline) -> tuple[Any, list[str]]:
    """What figures show: the user's own image, at its own size; what was ``read`` if it was generated.

    And a line where the copy that the model read has other proportions.
    """
    if image.image is None:
        return read, []
    from mmdit_probe.pipelines.image_size import token_pixels
    from mmdit_probe.storage.images import read_rgb
    from mmdit_probe.tracing.given import stretched

    own = read_rgb(image.image)
    said = stretched(own, read, token_pixels(pipe))
    return own, [said] if said else []


def planned_run(out: Path, study: str, model: str, config: Any = None, **more: Any) -> RunFolder:
    """The run of a command that reads one image or a few files, with everything that its numbers depend on.

    There is nothing to split: of processes that were started together the first one goes on alone.
    `ValueError` before any work if the folder holds another run that is not to be overwritten.
    """
    leave_to_first()
    with sharing(WorkerShare()):
        return checked_run(out, study, model, config, **more)


def checked_run(out: Path, study: str, model: str, config: Any = None, **more: Any) -> RunFolder:
    """The run of a command whose work is split; `ValueError` as of `planned_run`."""
    from mmdit_probe.storage.runs import RunFolder

    run = RunFolder.for_study(out, study, model, config, **more)
    run.check()
    return run


def begin(run: RunFolder) -> None:
    """Hold the output folder until the command ends; an earlier run that is to be overwritten is removed now.

    `ValueError` if the folder can't be written or is in use.
    """
    with run.open():
        pass


def content(*files: Path | None) -> dict[str, str]:
    """A setting of a run: the digest of the files that it reads, for `planned_run`; nothing if there are none."""
    from mmdit_probe.storage.digests import digest

    given = [file for file in files if file is not None]
    return {"content": digest(given)} if given else {}


class _Echo(logging.Handler):
    """To the standard error of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(self.format(record))


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
    logger = logging.getLogger("mmdit_probe.utils.memory")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    held.callback(logger.removeHandler, handler)
    _show_fonts()


def _show_fonts() -> None:
    """Print on standard error which characters of a figure no font has."""
    handler, logger = _Echo(), logging.getLogger("mmdit_probe.figures.fonts")
    logger.addHandler(handler)
    held.callback(logger.removeHandler, handler)


class Bar:
    """A progress bar on standard error, with a total and an estimate; closed before any error is shown.

    It is drawn on terminals alone, also with --json; ``quiet`` draws none, and neither do processes that were started together
    but for the first.
    """

    def __init__(self, unit: str, quiet: bool = False) -> None:
        self.unit, self.quiet = unit, quiet or not worker_share().begins

    def __enter__(self) -> Bar:
        from tqdm.auto import tqdm

        self.bar = tqdm(unit=f" {self.unit}", disable=self.quiet or sys.stderr is None or None)
        return self

    def update(self, done: int, total: int, **shown: str) -> None:
        """``done`` of ``total`` are finished; ``shown`` stands behind the bar."""
        self.bar.total = total
        self.bar.n = done
        if shown:
            self.bar.set_postfix(shown, refresh=False)
        self._drawn(self.bar.refresh)

    def __exit__(self, *_: object) -> None:
        self._drawn(self.bar.close)

    def _drawn(self, draw: Callable[[], Any]) -> None:
        try:
            draw()
        except OSError:  # nobody looks any more
            silence(sys.stderr)
            self.bar.disable = True


def finish(output: OutputConfig, lines: Sequence[str], files: Sequence[Path], **data: Any) -> None:
    """Print what was found and where the files are; ``data``, tables among it, goes into the JSON alone."""
    if output.as_json:
        found = {"summary": [repaired(line) for line in lines], "files": [repaired(str(file)) for file in files]}
        say(json.dumps({**found, **{name: _plain(value) for name, value in data.items()}}))
        return
    say("\n".join(lines))
    say("\nWritten:\n" + "\n".join(f"  {file}" for file in files))


def _plain(value: Any) -> Any:
    """Tables as lists of rows."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return json_rows(value) if hasattr(value, "to_json") else value
