"""Noting the prompts that a pipeline encodes, so that a transformer's call is known to carry them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import wraps
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..attention.text_tokens import TextTokens, join_rows
from ..families import Family
from .prompts import describe


class PromptWatch:
    """While open, notes the prompts that a pipeline encodes and the features that it makes of them.

    ``generation`` counts how often it has begun to encode anew.
    """

    def __init__(self, pipe: Any, family: Family) -> None:
        self.pipe, self.family = pipe, family
        self._text: TextTokens | None = None
        self._made: list[tuple[Any, TextTokens]] = []
        self._used = True
        self.generation = 0
        self._outer: Any = None

    def __enter__(self) -> PromptWatch:
        encode = self.pipe.encode_prompt
        signature = inspect.signature(encode)

        @wraps(encode)  # so that a second probe inside this one still finds the arguments' names
        def watched(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            halves = self._halves(bound.arguments)
            features = encode(*args, **kwargs)
            self._note(halves, features)
            return features

        self._outer = self.pipe.__dict__.get("encode_prompt")
        self.pipe.encode_prompt = watched  # on the instance; leaving deletes it again
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pipe.__dict__.pop("encode_prompt", None)
        if self._outer is not None:
            self.pipe.encode_prompt = self._outer

    def text(self, features: Any, batch: int, length: int) -> TextTokens | None:
        """What the text positions of a call with these text features hold.

        None before the pipeline has encoded a prompt, where it was given embeddings, and where the number of
        positions is another one.
        """
        self._used = True
        text = self._known(features)
        text = self._text if text is None else text
        text = None if text is None else text.without_padding(length)
        if text is not None and len(text.conditional) != batch:
            text = text.conditional_rows()  # skip-layer guidance runs the conditional half alone
        return text if text is not None and len(text.conditional) == batch else None

    def _known(self, features: Any) -> TextTokens | None:
        """The tokens of features that are passed on as they were made, whole or as a list of single samples."""
        for made, text in self._made:
            if _same(made, features):
                return text
        if not isinstance(features, list | tuple | Tensor):
            return None
        rows = [self._known_row(sample, isinstance(features, Tensor)) for sample in features]
        return None if None in rows else join_rows([text for text in rows if text is not None])

    def _known_row(self, features: Any, batched: bool) -> TextTokens | None:
        """The tokens of one sample that was made in a list; ``batched`` it may have zeros behind."""
        for made, text in self._made:
            for row, sample in enumerate(made if isinstance(made, list) else ()):
                if sample is features or (batched and _begins(features, sample)):
                    return text.rows(slice(row, row + 1))
        return None

    def _note(self, halves: list[TextTokens], features: Any) -> None:
        if self._used:  # a new generation begins
            self._text, self._made, self._used = None, [], False
            self.generation += 1
        if not halves:
            self._text = None  # embeddings were given: which half they are is not known
            return
        apart = bool(self._made)
        made = list(_features(features))[: len(halves)]
        self._made += zip(made, halves, strict=False)
        # pipelines put the negative half first; of prompts encoded one by one only the features tell
        self._text = None if apart else join_rows(halves[::-1])

    def _halves(self, arguments: dict[str, Any]) -> list[TextTokens]:
        """The prompts' tokens and, where they are encoded with them, the negative prompts'."""
        parts = self.family.parts_of(self.pipe, arguments)
        if arguments.get("prompt_embeds") is not None or not parts:
            return []
        prompts = _listed(arguments.get("prompt")) * (1 if arguments.get("prompt") else arguments.get("batch_size", 1))
        images = arguments.get("num_images_per_prompt") or arguments.get("num_videos_per_prompt") or 1
        # where guidance is no argument, a second call before the transformer's first encodes the negative prompt
        guided = arguments.get("do_classifier_free_guidance")
        guided = arguments["guidance_scale"] > 1 if guided is None and "guidance_scale" in arguments else guided
        second = guided is None and bool(self._made) and not self._used
        halves = [describe(parts, [] if second else prompts, prompts if second else None, images)]
        if guided:
            negative = _listed(arguments.get("negative_prompt"))
            negative = negative * len(prompts) if len(negative) == 1 else negative
            halves.append(describe(parts, [], negative, images))
        return halves


def _same(made: Any, features: Any) -> bool:
    """Whether features are the ones that were made, on another device or in another precision perhaps."""
    if made is features:
        return True
    both = isinstance(made, Tensor) and isinstance(features, Tensor)
    return both and made.shape == features.shape and torch.equal(made.to(features), features)


def _begins(features: Any, sample: Any) -> bool:
    """Whether a batch's row is this sample, with zeros behind it."""
    if not isinstance(features, Tensor) or not isinstance(sample, Tensor) or len(sample) > len(features):
        return False
    length = len(sample)
    alike = features.shape[1:] == sample.shape[1:] and torch.equal(sample.to(features), features[:length])
    return alike and not bool(features[length:].any())


def _features(result: Any) -> Iterator[Any]:
    """The text features among what `encode_prompt` returns: the first, and those that look like it."""
    found = list(result) if isinstance(result, tuple) else [result]
    first = found[0]
    for value in found:
        if isinstance(first, Tensor) and isinstance(value, Tensor):
            if (value.ndim, value.shape[-1]) == (first.ndim, first.shape[-1]) and value.ndim > 2:
                yield value
        elif isinstance(first, list) and isinstance(value, list):
            yield value


def _listed(prompt: str | Sequence[str | None] | None) -> list[str]:
    """A batch of prompts; none is an empty one."""
    return [text or "" for text in ([prompt] if prompt is None or isinstance(prompt, str) else prompt)]
