"""Class names as prompts: joined by spaces, split over several prompts where the tokenizer has no room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..families import family_of
from ..texts import LONGEST_NAME, checked_once, checked_text, shown


@dataclass(frozen=True)
class ClassPrompt:
    """A prompt of class names.

    ``numbers`` are the names' positions in the list of all classes, ``spans`` each name's positions among the text tokens.
    """

    prompt: str
    numbers: tuple[int, ...]
    spans: tuple[tuple[int, ...], ...]


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The names without spaces around them; `ValueError` if there is none, an empty one, or one twice."""
    if isinstance(classes, str):
        raise ValueError(f"classes: give a list of names, such as ['dog', 'grass'], got the text {classes!r}")
    names = tuple(" ".join(name.split()) for name in classes)
    if not names or not all(names):
        raise ValueError("classes: give at least one name, and no empty one, such as dog,bench,grass")
    return checked_once("class name", [checked_text("class name", name, LONGEST_NAME) for name in names])


def class_prompts(pipe: Any, classes: Sequence[str], max_sequence_length: int) -> list[ClassPrompt]:
    """As few prompts as hold all the names in order; no name is ever cut or left out.

    The positions are those of the pipeline's first text encoder, which come first in the text stream.
    """
    parts = family_of(pipe.transformer).text_parts(pipe, max_sequence_length)
    if not parts or parts[0].tokenizer is None:
        raise ValueError("segmentation: where this model's words sit is not known; use a Stable Diffusion 3 pipeline")
    tokenizer, names = parts[0].tokenizer, checked_classes(classes)
    room = parts[0].length - len(tokenizer("").input_ids)
    return [_prompt(tokenizer, names, numbers) for numbers in _packed(tokenizer, names, room)]


def _pieces(tokenizer: Any, name: str) -> list[int]:
    return tokenizer(name, add_special_tokens=False).input_ids


def _packed(tokenizer: Any, names: Sequence[str], room: int) -> Iterator[tuple[int, ...]]:
    packed: list[int] = []
    used = 0
    for number, name in enumerate(names):
        size = len(_pieces(tokenizer, name))
        if not 0 < size <= room:
            raise ValueError(
                f"classes: {shown(name)} has {size} tokens, this model's prompts hold 1 to {room}; choose another"
            )
        if used + size > room:
            yield tuple(packed)
            packed, used = [], 0
        packed.append(number)
        used += size
    yield tuple(packed)


def _prompt(tokenizer: Any, names: Sequence[str], numbers: tuple[int, ...]) -> ClassPrompt:
    prompt = " ".join(names[number] for number in numbers)
    ids, spans, start = tokenizer(prompt).input_ids, [], 0
    for number in numbers:
        piece = _pieces(tokenizer, names[number])
        at = next((i for i in range(start, len(ids)) if ids[i : i + len(piece)] == piece), None)
        if at is None:
            raise ValueError(
                f"classes: {names[number]!r} has other tokens beside the other names; write it another way"
            )
        start = at + len(piece)
        spans.append(tuple(range(at, start)))
    return ClassPrompt(prompt, numbers, tuple(spans))
