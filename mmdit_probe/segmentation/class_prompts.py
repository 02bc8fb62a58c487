"""Class names as prompts: joined by spaces, and split over several prompts if they do not fit into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..families import PLAIN, Pipeline, TextPart, text_parts_of
from ..pipelines.prompts import positions_of
from ..utils.text import LONGEST_NAME, checked_once, checked_text, shown


@dataclass(frozen=True)
class ClassPrompt:
    """A prompt of class names.

    Attributes:
        prompt: the names joined by spaces.
        numbers: the names' positions in the list of all classes.
        spans: each name's positions among the text tokens.
        names: the names.
    """

    prompt: str
    numbers: tuple[int, ...]
    spans: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The names without surrounding spaces; `ValueError` if there is none, or if one is empty or given twice."""
    if isinstance(classes, str):
        raise ValueError(f"classes: give a list of names, such as ['dog', 'grass'], got the text {classes!r}")
    names = tuple(" ".join(name.split()) for name in classes)
    if not names or not all(names):
        raise ValueError("classes: give at least one name and no empty ones, such as dog,bench,grass")
    return checked_once("class name", [checked_text("class name", name, LONGEST_NAME) for name in names])


def class_prompts(pipe: Pipeline, classes: Sequence[str], max_sequence_length: int) -> list[ClassPrompt]:
    """As few prompts as hold all the names in order; no name is cut or left out.

    The positions are those of the pipeline's first text encoder, which come first in the text stream. `ValueError` if a
    name does not fit into a prompt of its own, or the model's token positions are not known.
    """
    parts = text_parts_of(pipe, max_sequence_length)
    if not parts or parts[0].tokenizer is None:
        raise ValueError("segmentation: the positions of this model's words are not known; use another model")
    names = checked_classes(classes)
    return [_prompt(parts[0], names, numbers) for numbers in _packed(parts[0], names)]


def _tokens(part: TextPart, text: str, special: bool = False) -> int:
    return len(part.tokenizer([text], add_special_tokens=special, verbose=False)["input_ids"][0])


def _packed(part: TextPart, names: Sequence[str]) -> Iterator[tuple[int, ...]]:
    room = part.cut + part.length - _tokens(part, part.template.replace(PLAIN, ""), part.special_tokens)
    if room < 1:
        raise ValueError(
            f"max_sequence_length: {part.length} leaves no room for class names next to the {-room + part.length} tokens "
            f"that every prompt of this model has; give a larger one"
        )
    packed: list[int] = []
    for number, name in enumerate(names):
        size = _tokens(part, name)
        if not 0 < size <= room:
            raise ValueError(
                f"classes: {shown(name)} has {size} tokens, this model's prompts hold 1 to {room}; choose another"
            )
        if _tokens(part, _joined(names, [*packed, number])) > room:
            yield tuple(packed)
            packed = []
        packed.append(number)
    yield tuple(packed)


def _joined(names: Sequence[str], numbers: Sequence[int]) -> str:
    return " ".join(names[number] for number in numbers)


def _prompt(part: TextPart, names: Sequence[str], numbers: tuple[int, ...]) -> ClassPrompt:
    ends = np.cumsum([len(names[number]) + 1 for number in numbers]) - 1
    ranges = [(int(end) - len(names[number]), int(end)) for number, end in zip(numbers, ends, strict=True)]
    prompt = _joined(names, numbers)
    spans = positions_of(part, prompt, ranges)
    for number, span in zip(numbers, spans, strict=True):
        if not span:
            raise ValueError(f"classes: {names[number]!r} has no token of its own; write it another way")
    chosen = tuple(names[number] for number in numbers)
    return ClassPrompt(prompt, numbers, tuple(tuple(span) for span in spans), chosen)
