"""Wraps `pipe.encode_prompt`, so that the embeddings of each transformer call can be traced to prompt tokens."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import wraps
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..attention.text_tokens import TextTokens, join_rows
from ..families import Family, Pipeline
from .prompts import describe


class PromptWatch:
    """While open, records the prompts that a pipeline encodes and their embeddings.

    ``generation`` counts the runs of the pipeline: it rises when prompts are encoded after the transformer has run.
    """

    def __init__(self, pipe: Pipeline, family: Family) -> None:
        self.pipe, self.family = pipe, family
        self._text: TextTokens | None = None
        self._made: list[tuple[Any, TextTokens]] = []
        self._used = True
        self.generation = 0
        self._outer: Any = None

    def __enter__(self) -> PromptWatch:
        encode = self.pipe.encode_prompt
        signature = inspect.signature(encode)

        @wraps(encode)  # keeps the signature, for a second watch inside this one
        def watched(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            halves = self._halves(bound.arguments)
            encoded = encode(*args, **kwargs)
            self._note(halves, encoded)
            return encoded

        self._outer = self.pipe.__dict__.get("encode_prompt")
        self._put(watched)  # on the instance; __exit__ removes it
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pipe.__dict__.pop("encode_prompt", None)
        if self._outer is not None:
            self._put(self._outer)

    def _put(self, encode_prompt: Any) -> None:
        self.pipe.__dict__["encode_prompt"] = encode_prompt

    def text(self, embeddings: Any, batch: int, length: int) -> TextTokens | None:
        """What the text positions of a call with these text embeddings hold; ``length`` is their number.

        None before the pipeline has encoded a prompt, if it was given embeddings, or if the batch size or the number of
        positions differs.
        """
        self._used = True
        text = self._known(embeddings)
        text = self._text if text is None else text
        text = None if text is None else text.without_padding(length)
        if text is not None and len(text.conditional) != batch:
            text = text.conditional_rows()  # skip-layer guidance runs the prompt's rows alone
        return text if text is not None and len(text.conditional) == batch else None

    def _known(self, embeddings: Any) -> TextTokens | None:
        """The tokens of embeddings that reach the transformer as they were made, whole or sample by sample."""
        for made, text in self._made:
            if _same(made, embeddings):
                return text
        if not isinstance(embeddings, list | tuple | Tensor):
            return None
        rows = [self._known_row(sample, isinstance(embeddings, Tensor)) for sample in embeddings]
        return None if None in rows else join_rows([text for text in rows if text is not None])

    def _known_row(self, embeddings: Any, batched: bool) -> TextTokens | None:
        """The tokens of one sample of a list of embeddings; if ``batched`` since, it may have zeros behind."""
        for made, text in self._made:
            for row, sample in enumerate(made if isinstance(made, list) else ()):
                if sample is embeddings or (batched and _begins(embeddings, sample)):
                    return text.rows(slice(row, row + 1))
        return None

    def _note(self, halves: list[TextTokens], encoded: Any) -> None:
        """Remember what `encode_prompt` returned for the halves of classifier-free guidance, the prompt's first."""
        if self._used:  # a new run begins
            self._text, self._made, self._used = None, [], False
            self.generation += 1
        if not halves:
            self._text = None  # the caller passed embeddings: which half they are is not known
            return
        apart = bool(self._made)
        made = list(_text_embeddings(encoded))[: len(halves)]
        self._made += zip(made, halves, strict=False)
        # pipelines put the negative half first; if the halves are encoded in calls of their own, only the embeddings tell
        self._text = None if apart else join_rows(halves[::-1])

    def _halves(self, arguments: dict[str, Any]) -> list[TextTokens]:
        """The prompts' tokens and, if the same call encodes them, the negative prompts'."""
        parts = self.family.parts_of(self.pipe, arguments)
        if arguments.get("prompt_embeds") is not None or not parts:
            return []
        prompts = _listed(arguments.get("prompt")) * (1 if arguments.get("prompt") else arguments.get("batch_size", 1))
        images = arguments.get("num_images_per_prompt") or arguments.get("num_videos_per_prompt") or 1
        # if guidance is no argument, a second call before the transformer runs encodes the negative prompt
        guided = arguments.get("do_classifier_free_guidance")
        guided = arguments["guidance_scale"] > 1 if guided is None and "guidance_scale" in arguments else guided
        second = guided is None and bool(self._made) and not self._used
        halves = [describe(parts, [] if second else prompts, prompts if second else None, images)]
        if guided:
            negative = _listed(arguments.get("negative_prompt"))
            negative = negative * len(prompts) if len(negative) == 1 else negative
            halves.append(describe(parts, [], negative, images))
        return halves


def _same(made: Any, used: Any) -> bool:
    """Whether two embeddings are the same, perhaps on another device or in another dtype."""
    if made is used:
        return True
    both = isinstance(made, Tensor) and isinstance(used, Tensor)
    return both and made.shape == used.shape and torch.equal(made.to(used), used)


def _begins(row: Any, sample: Any) -> bool:
    """Whether a batch's row is this sample, with zeros behind it."""
    if not isinstance(row, Tensor) or not isinstance(sample, Tensor) or len(sample) > len(row):
        return False
    length = len(sample)
    alike = row.shape[1:] == sample.shape[1:] and torch.equal(sample.to(row), row[:length])
    return alike and not bool(row[length:].any())


def _text_embeddings(encoded: Any) -> Iterator[Any]:
    """The text embeddings among what `encode_prompt` returns: the first value, and those of its kind."""
    found = list(encoded) if isinstance(encoded, tuple) else [encoded]
    first = found[0]
    for value in found:
        if isinstance(first, Tensor) and isinstance(value, Tensor):
            if (value.ndim, value.shape[-1]) == (first.ndim, first.shape[-1]) and value.ndim > 2:
                yield value
        elif isinstance(first, list) and isinstance(value, list):
            yield value


def _listed(prompt: str | Sequence[str | None] | None) -> list[str]:
    """A batch of prompts; None is an empty prompt."""
    return [text or "" for text in ([prompt] if prompt is None or isinstance(prompt, str) else prompt)]
