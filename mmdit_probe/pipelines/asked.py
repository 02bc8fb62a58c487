"""What a pipeline is asked to encode: the prompts of each branch of guidance, from the arguments of `encode_prompt`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..attention.text_tokens import TextTokens
from ..families import Family, TextPart
from .encoded import CONDITIONAL, UNCONDITIONAL
from .prompts import describe, prompt_ids

_NEGATIVE = "negative_"
_PROMPT = re.compile(r"prompt(_\d+)?")


@dataclass(frozen=True)
class Half:
    """What is known, before it is encoded, of one branch's prompts.

    Attributes:
        text: their text positions; None if unknown.
        branch: "conditional" or "unconditional"; None if unknown.
        rows: number of batch rows; None if unknown.
        vision: number of text positions, the first ones, that images in the prompts fill; None if unknown.
        certain: whether the branch follows from the arguments, not from the order of the calls.
        ids: of models that are given token ids, those of the only prompt.
    """

    text: TextTokens | None
    branch: str | None
    rows: int | None
    certain: bool
    vision: int | None = 0
    ids: tuple[int, ...] = ()


def filled_halves(family: Family, pipe: Any, arguments: Mapping[str, Any]) -> list[Half]:
    """What fills the batch of a pipeline that tokenizes prompts in its call with these arguments, the last first.

    Nothing for other pipelines.
    """
    if family.filled is None or arguments.get("prompt") is None:
        return []
    images = int(arguments.get("num_images_per_prompt") or 1)
    parts, halves = family.parts_of(pipe, arguments), []
    for branch, prompts in family.filled(pipe, arguments):
        negative = branch == UNCONDITIONAL
        text = describe(parts, [] if negative else prompts, prompts if negative else None, images) if parts else None
        vision = None if family.prompt_holds_images(arguments) and family.images_in_prompts != "apart" else 0
        ids = tuple(prompt_ids(parts, prompts[0], negative)) if family.by_ids and parts else ()
        halves.append(Half(text, branch, len(prompts) * images, True, vision, ids))
    return halves[::-1]


@dataclass(frozen=True)
class Asked:
    """One call of `encode_prompt`.

    Attributes:
        family: describes the text positions.
        pipe: the pipeline that is called.
        arguments: of the call, by name.
        branch: the branch that is known of the running pipeline's own arguments; None if it is not.
        text_of: what embeddings hold that were encoded before; None if unknown.
    """

    family: Family
    pipe: Any
    arguments: Mapping[str, Any]
    branch: str | None
    text_of: Callable[[Any], TextTokens | None]

    def halves(self, earlier: int) -> list[Half]:
        """The prompt's half and, if the same call encodes it, the negative prompt's.

        ``earlier`` counts the calls before: if guidance is no argument, the second encodes the negative prompt.
        """
        guided = self._guided()
        by_order = guided is None and self.branch is None
        branch = self.branch or (UNCONDITIONAL if by_order and earlier == 1 else CONDITIONAL)
        if by_order and earlier > 1:
            branch = ""
        own = self._half(branch or None, "", not by_order)
        if not guided or own.branch != CONDITIONAL:
            return [own]
        return [own, self._half(UNCONDITIONAL, _NEGATIVE, True, own.rows)]

    def _guided(self) -> bool | None:
        """Whether the call encodes the negative prompt too; None if it takes none."""
        for name in ("do_classifier_free_guidance", "prepare_unconditional_embeds"):
            if self.arguments.get(name) is not None:
                return bool(self.arguments[name])
        if self.arguments.get("guidance_scale") is not None:
            return bool(self.arguments["guidance_scale"] > 1)
        return True if "negative_prompt" in self.arguments else None

    def _half(self, branch: str | None, prefix: str, certain: bool, others: int | None = None) -> Half:
        """One branch's prompts; ``others`` is the number of the prompt's batch rows, which the negative prompts fill."""
        images = self._images()
        embeddings = self.arguments.get(f"{prefix}prompt_embeds")
        if embeddings is not None:
            rows = len(embeddings) * images if isinstance(embeddings, Tensor | list) else None
            text = self.text_of(embeddings)
            text = None if text is None else text.repeated(images)
            return Half(text, branch, rows, certain)
        if "prompt" not in self.arguments:
            return Half(None, None, None, certain)
        prompts = self._prompts(prefix, None if others is None else max(others // images, 1))
        rows = max(map(len, prompts.values())) * images
        parts = self._parts()
        if not parts:
            return Half(None, branch, rows, certain)
        negative = branch == UNCONDITIONAL
        text = describe(parts, [] if negative else prompts, prompts if negative else None, images)
        return Half(text, branch, rows, certain)

    def _images(self) -> int:
        names = ("num_images_per_prompt", "num_videos_per_prompt")
        return next((int(self.arguments[name]) for name in names if self.arguments.get(name)), 1)

    def _prompts(self, prefix: str, rows: int | None) -> dict[str, Sequence[str]]:
        """The prompts by the argument that carries them, without ``prefix``, for each batch row."""
        names = [name for name in self.arguments if name.startswith(prefix) and _PROMPT.fullmatch(name[len(prefix) :])]
        given = {name[len(prefix) :]: self.arguments[name] for name in names if self.arguments[name]}
        rows = rows or (self.arguments.get("batch_size") or 1 if not given else 1)
        listed = {name: _listed(value) for name, value in {"prompt": None, **given}.items()}
        rows = max(rows, *map(len, listed.values()))
        return {name: texts * rows if len(texts) == 1 else texts for name, texts in listed.items()}

    def _parts(self) -> list[TextPart]:
        """The text positions that the pipeline makes; none if it lacks what its family's pipelines have."""
        try:
            return self.family.parts_of(self.pipe, self.arguments)
        except AttributeError:
            return []


def _listed(prompt: str | Sequence[str | None] | None) -> list[str]:
    """A batch of prompts; None is an empty prompt."""
    return [text or "" for text in ([prompt] if prompt is None or isinstance(prompt, str) else prompt)]
