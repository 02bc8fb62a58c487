"""Which words of prompts and class names a model's text encoders do not know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ..families import Pipeline, TextPart, text_parts_of
from .defaults import model_defaults

WHOLE_WORDS = 1000
"""Below so many tokens, such as tiny-sd3's 620, a vocabulary is a list of whole words: what it spells by letters is unknown."""
_WORD = re.compile(r"\w+|[^\w\s\x00-\x7f\u2000-\u206f]+")
"""Words, and runs of signs such as emoji; no punctuation."""


def unknown_words(pipe: Pipeline, texts: Iterable[str]) -> tuple[str, ...]:
    """The words of ``texts`` that a text encoder of the pipeline does not know, each once, in order.

    A word is unknown if a tokenizer turns part of it into its unknown token; for a vocabulary of whole words (tiny-sd3), also
    if it has no token of its own, so that the model sees letters that it was never taught. Empty if the positions of the model's
    words are not known.

    >>> from mmdit_probe import load_pipeline
    >>> unknown_words(load_pipeline("tiny-sd3"), ["a red circle on grass", "a photo of a dog on grass"])
    ('photo', 'dog')
    """
    words = dict.fromkeys(word for text in texts for word in _WORD.findall(text))
    parts = [
        part for part in text_parts_of(pipe, model_defaults(pipe).max_sequence_length) if part.tokenizer is not None
    ]
    return tuple(word for word in words if any(_is_unknown(part, word) for part in parts))


def _is_unknown(part: TextPart, word: str) -> bool:
    tokenizer = part.tokenizer
    made: Any = tokenizer(
        [part.cleaned(word)], max_length=part.cut + part.length, truncation=True, add_special_tokens=False
    )
    ids = list(made["input_ids"][0])
    unknown = tokenizer.unk_token_id
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    if unknown is not None and unknown not in special and unknown in ids:
        return True
    if not hasattr(type(tokenizer), "__len__") or len(tokenizer) >= WHOLE_WORDS:  # those that we wrap have none
        return False
    return len(ids) > 1 or (len(word) == 1 and word.lower() != "a")  # the one letter that is a word of the scenes


def said_of(unknown: tuple[str, ...], most: int = 20) -> str:
    """One line on words that a model does not know; empty if there is none.

    >>> said_of(("photo", "dog"))
    'words that this model does not know: photo, dog'
    """
    if not unknown:
        return ""
    more = f" and {len(unknown) - most} more" if len(unknown) > most else ""
    return f"words that this model does not know: {', '.join(unknown[:most])}{more}"
