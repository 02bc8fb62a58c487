"""trace: see what ordinary pipeline calls attend to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ..configs import GenerationConfig, Layers, Timesteps
from ..explorer.page import Page
from ..families import Pipeline, call_default, denoiser_of, holds, text_parts_of
from ..pipelines.call_watch import observed
from ..pipelines.generation import generation_arguments
from ..pipelines.modular_call import as_ordinary, call_pipeline
from ..pipelines.prompts import find_words
from ..pipelines.vocabulary import unknown_words
from ..utils.html import grid
from .plan import Plan, plan_of
from .probes import RunProbes
from .report import Report
from .seen import Seen
from .word import Word

Arguments = Mapping[str, Any]


@contextmanager
def trace(
    pipe: Pipeline, *, layers: Layers | None = None, timesteps: Timesteps | None = None, head_groups: int = 8
) -> Iterator[Trace]:
    """Watch the pipeline's calls in the with block, with readouts, layers and timesteps chosen by the image's size.

    The image is the one that the pipeline makes without, bit for bit.

    Args:
        pipe: any supported pipeline; others that hold its transformer are watched, too.
        layers: the layers whose maps are kept: numbers, "all" or "expert"; None chooses, and `Trace.why` says why.
        timesteps: the timesteps that are kept, counted from the clean end: numbers or "all"; None chooses.
        head_groups: most groups of heads whose maps are kept; each head alone if it has no more.

    Raises:
        ValueError: a layer or timestep does not exist, the maps need more memory than is free, or the pipeline does not say
            how many steps it takes.

    >>> from mmdit_probe import load_pipeline, trace
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with trace(pipe) as seen:
    ...     image = pipe("a red circle on grass", num_inference_steps=2, max_sequence_length=0).images[0]
    >>> seen.word("circle").overlay(image).size == image.size
    True
    >>> seen.words["word"].tolist()
    ['red', 'circle', 'grass']
    >>> seen.word("square")
    Traceback (most recent call last):
    ValueError: word: 'square' is not among the prompt's tokens: a red circle on grass
    """
    found = Trace()
    watch = _Watch(pipe, found, layers, timesteps, head_groups)
    with observed(watch, pipe):
        yield found


def read_generated(
    pipe: Pipeline,
    prompt: str,
    words: Sequence[str] = (),
    *,
    generation: GenerationConfig = GenerationConfig(),
    layers: Layers | None = None,
    timesteps: Timesteps | None = None,
    head_groups: int = 8,
) -> Seen:
    """Generate an image as the commands do, with the model's defaults, and read it.

    ``words`` are those of the table and the report, every content word of the prompt if none; the others are as in `trace`.
    """
    arguments = generation_arguments(pipe, generation)
    if words:
        find_words(text_parts_of(pipe, arguments.get("max_sequence_length", 0)), prompt, words)
    with trace(pipe, layers=layers, timesteps=timesteps, head_groups=head_groups) as found:
        call_pipeline(pipe, prompt, **arguments)
    seen = found.only
    return replace(seen, named=tuple(words), record=seen.record.assign_attrs(seed=generation.seed))


class Trace:
    """The images that a pipeline made in a with block of `trace`, in order: ``seen[0]`` is the first, a `Seen`.

    If it was one image alone, everything that a `Seen` has can be asked of the trace itself.
    """

    def __init__(self) -> None:
        self.runs: list[Run] = []

    @cached_property
    def _images(self) -> list[Seen]:
        return [seen for run in self.runs for seen in run.seen()]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, number: int) -> Seen:
        return self._images[number]

    def __iter__(self) -> Iterator[Seen]:
        return iter(self._images)

    @property
    def only(self) -> Seen:
        """The one image; `ValueError` if there is none or more than one."""
        if not self.runs:
            raise ValueError("trace: nothing was seen; call the pipeline inside the with block")
        if len(self) != 1:
            raise ValueError(f"trace: {len(self)} images were seen; say which, such as seen[0].word(...)")
        return self[0]

    @property
    def why(self) -> tuple[str, ...]:
        """Which layers and timesteps were read, and why; a sentence each."""
        return self.only.why

    @property
    def record(self) -> Any:
        """The record of maps and curves, see `Seen`."""
        return self.only.record

    @property
    def image(self) -> np.ndarray | None:
        """The image, (height, width, 3) uint8 RGB; None if the pipeline gave latents."""
        return self.only.image

    @property
    def words(self) -> pd.DataFrame:
        """See `Seen.words`."""
        return self.only.words

    def word(self, word: str, *, layer: int | None = None, timestep: int | None = None) -> Word:
        """See `Seen.word`."""
        return self.only.word(word, layer=layer, timestep=timestep)

    def report(self, path: Any = None) -> Report:
        """See `Seen.report`."""
        return self.only.report(path)

    def explore(self, megabytes: float = 15.0) -> Page:
        """See `Seen.explore`."""
        return self.only.explore(megabytes)

    def _repr_html_(self) -> str:
        """Each image with its words' maps, as notebooks show them."""
        return grid([[seen._repr_html_()] for seen in self])


class Run:
    """One call of a pipeline: what it was given, what it made, and the probes that read it."""

    def __init__(self, pipe: Pipeline, plan: Plan, arguments: Arguments) -> None:
        self.pipe, self.plan, self.arguments = pipe, plan, arguments
        self.probes = RunProbes(pipe, plan, plan.positions)
        self.made: list[np.ndarray | None] = []

    def note(self, output: Any) -> None:
        """Keep the images of the pipeline's output."""
        self.made = [] if self.arguments.get("output_type") == "latent" else images_of(output)

    def seen(self) -> list[Seen]:
        """What was read of each of its images."""
        count = self.probes.images
        made = self.made if len(self.made) == count else [None] * count
        return [self._of(row, count, image) for row, image in enumerate(made)]

    def _of(self, row: int, count: int, image: np.ndarray | None) -> Seen:
        prompt = self._prompt(row, count)
        attrs = {"prompt": prompt, "source": "generated", "steps": self.plan.steps}
        attrs["unknown_words"] = ", ".join(unknown_words(self.pipe, [prompt] if prompt else []))
        record, details = self.probes.records(row, attrs)
        return Seen(record, details, self.probes.text(row), self.plan, image)

    def _prompt(self, row: int, count: int) -> str:
        """The prompt of an image; each prompt's images are neighbors."""
        given = self.arguments.get("prompt")
        prompts = [given] if isinstance(given, str) else list(given or ())
        return str(prompts[row * len(prompts) // count]) if prompts else ""


class _Watch:
    """Opens the probes of each call of a pipeline when it begins, as then its steps and its image's size are known."""

    def __init__(
        self, pipe: Pipeline, trace: Trace, layers: Layers | None, timesteps: Timesteps | None, head_groups: int
    ) -> None:
        self.pipe, self.trace, self.settings = pipe, trace, (layers, timesteps, head_groups)
        self._running = False

    def concerns(self, pipe: Any) -> bool:
        return not self._running and (pipe is self.pipe or holds(pipe, denoiser_of(self.pipe)))

    @contextmanager
    def running(self, pipe: Any, arguments: Arguments) -> Iterator[Callable[[Any], None]]:
        steps = steps_of(pipe, arguments)
        generation = GenerationConfig(steps=steps, height=arguments.get("height"), width=arguments.get("width"))
        plan = plan_of(pipe, generation, *self.settings)
        run = Run(pipe, plan, arguments)
        self._running = True
        try:
            with run.probes:
                yield run.note
        finally:
            self._running = False
        self.trace.__dict__.pop("_images", None)
        self.trace.runs.append(run)

    @contextmanager
    def encoding(self, pipe: Any, arguments: Arguments, step: Any = None) -> Iterator[Callable[[Any], None]]:
        yield lambda encoded: None


def steps_of(pipe: Any, arguments: Arguments) -> int:
    """How many sampling steps a call with these arguments takes; `ValueError` if they do not say."""
    for name in ("sigmas", "timesteps"):
        if arguments.get(name) is not None:
            return len(arguments[name])
    steps = arguments.get("num_inference_steps") or call_default(pipe, "num_inference_steps")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(
            f"trace: {type(pipe).__name__} does not say how many sampling steps it takes; give num_inference_steps"
        )
    strength = arguments.get("strength")
    return steps if strength is None else max(1, min(int(steps * strength), steps))


def images_of(output: Any) -> list[np.ndarray | None]:
    """The images of a pipeline's output as (height, width, 3) uint8 RGB, of videos the middle frames; None for what is no image."""
    output = as_ordinary(output)
    frames = getattr(output, "frames", None)
    made = output[0] if isinstance(output, tuple) else getattr(output, "images", None)
    if frames is not None:
        made = [video[len(video) // 2] for video in frames]
    return [] if made is None else [_pixels(image) for image in made]


def _pixels(image: Any) -> np.ndarray | None:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    values = image.detach().float().cpu().numpy() if hasattr(image, "detach") else np.asarray(image)
    if values.ndim == 3 and values.shape[0] == 3 and values.shape[-1] != 3:  # of output_type "pt"
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[-1] != 3 or not np.isfinite(values).all():
        return None
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8) if values.dtype != np.uint8 else values
