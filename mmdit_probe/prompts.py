"""From words to token positions, and from a pipeline's prompt to what each text position holds."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from .families import PLAIN, TextPart, denoiser_of, family_of
from .texts import shown
from .tokens import Kind, TextTokens, join_positions, join_rows


def _tokenize(part: TextPart, prompts: Sequence[str], conditional: bool) -> TextTokens:
    shape = (len(prompts), part.length)
    strings, kinds = np.full(shape, "", object), np.full(shape, Kind.ABSENT, object)
    begins, ends = np.ones((2, *shape), bool)
    for row, prompt in enumerate(prompts if part.tokenizer is not None else ()):
        strings[row], kinds[row], begins[row], ends[row] = _positions(part, prompt)
    encoders, rows = np.full(part.length, part.encoder, dtype=object), np.full(len(prompts), conditional)
    return TextTokens(strings, kinds, encoders, rows, begins, ends)


def _positions(part: TextPart, prompt: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Strings, kinds, and where words can begin and end, of the positions that one prompt fills."""
    encoded = _encoded(part, prompt)
    kinds = _encoded_kinds(part, prompt, encoded)
    strings = np.array([readable(token) for token in part.tokenizer.convert_ids_to_tokens(encoded.input_ids)], object)
    begins, ends = np.ones((2, len(kinds)), bool)
    text = part.template.replace(PLAIN, prompt)
    before = None
    for place, span in enumerate(encoded.get("offset_mapping", ())):
        if span[0] == span[1]:  # a token that stands for no character
            continue
        since = span[1] - len(text[span[0] : span[1]].lstrip())
        begins[place], ends[place] = _parted(text, since), _parted(text, span[1])
        if not strings[place].isascii():  # tokens of bytes are unreadable one by one
            strings[place] = text[since : span[1]].strip() if span != before else ""
        begins[place] &= span != before
        before = span
    kept = _order(part, kinds)
    return strings[kept], kinds[kept], begins[kept], ends[kept]


def _parted(text: str, place: int) -> bool:
    """Whether a word can end or begin before character ``place``: not amid letters that are written together."""
    around = text[max(place - 1, 0) : place + 1]
    together = len(around) == 2 and place > 0 and all(character.isalnum() for character in around)
    return not together or any(unicodedata.category(character) == "Lo" for character in around)  # Chinese, ...


def positions_of(part: TextPart, prompt: str, ranges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each range (start, end) of the prompt's characters, the text positions of the tokens that hold some of them.

    Empty where the tokenizer cut the prompt before.
    """
    encoded = _encoded(part, prompt)
    kept = _order(part, _encoded_kinds(part, prompt, encoded))
    start = part.template.index(PLAIN)
    offsets = np.array(encoded["offset_mapping"])[kept] - start
    return [np.flatnonzero((offsets[:, 1] > since) & (offsets[:, 0] < to)).tolist() for since, to in ranges]


def _encoded(part: TextPart, prompt: str) -> Any:
    """The tokenizer's output for the prompt in its template, padded and cut to the part's length.

    With the characters of each token, which a tokenizer written in Python does not know.
    """
    return part.tokenizer(
        part.template.replace(PLAIN, prompt),
        padding="max_length",
        max_length=part.dropped + part.length,
        truncation=True,
        add_special_tokens=part.special,
        return_offsets_mapping=part.tokenizer.is_fast,
    )


def _encoded_kinds(part: TextPart, prompt: str, encoded: Any) -> np.ndarray:
    kinds = np.array(_kinds(encoded.input_ids, part.tokenizer), dtype=object)
    if part.template != PLAIN:
        start = part.template.index(PLAIN)
        overlaps = [start < to and since < start + len(prompt) for since, to in encoded["offset_mapping"]]
        kinds[~np.array(overlaps)] = Kind.TEMPLATE
    kinds[np.array(encoded.get("attention_mask", [1] * len(kinds))) == 0] = Kind.PADDING
    return kinds


def _order(part: TextPart, kinds: np.ndarray) -> np.ndarray:
    """Which of the tokenizer's positions become text positions, in order."""
    places = np.arange(len(kinds))
    order = np.argsort(kinds == Kind.PADDING, kind="stable") if part.packed else places
    return order[places >= part.dropped]


def readable(token: str) -> str:
    """A token without its tokenizer's marks of word starts and ends."""
    return token.replace("</w>", "").replace("▁", "").replace("Ġ", "")


def _kinds(ids: Sequence[int], tokenizer: Any) -> list[Kind]:
    kinds, ended = [], False
    for number in ids:
        if ended:
            kinds.append(Kind.PADDING)
        elif number == tokenizer.eos_token_id:
            kinds.append(Kind.END)
            ended = True
        elif number == tokenizer.bos_token_id:
            kinds.append(Kind.START)
        elif number == tokenizer.pad_token_id:
            kinds.append(Kind.PADDING)
        else:
            kinds.append(Kind.WORD)
    return kinds


def describe(
    parts: Sequence[TextPart], prompts: Sequence[str], negative: Sequence[str] | None = None, images: int = 1
) -> TextTokens:
    """The text positions of a batch: the negative prompts' rows first, if any, ``images`` rows a prompt.

    `ValueError` if there are no parts: the pipeline's family does not say what its text positions hold.
    """
    if not parts:
        raise ValueError(
            "prompts: what this pipeline's text positions hold is not known; "
            "give its family a text_parts, or use readouts that need no words"
        )
    halves = [(negative, False)] if negative is not None else []
    halves.append((prompts, True))
    return join_rows(
        [
            join_positions([_tokenize(part, p, kept) for part in parts]).repeated(images)
            for p, kept in halves
            if p is not None
        ]
    )


def check_length(pipe: Any, prompts: Sequence[str], max_sequence_length: int) -> None:
    """`ValueError` if a prompt is longer than every text encoder of the pipeline reads: its end would be lost unseen."""
    parts = [p for p in family_of(denoiser_of(pipe)).text_parts(pipe, max_sequence_length) if p.tokenizer is not None]
    for prompt in prompts if parts else ():
        if not any(_fits(part, prompt) for part in parts):
            room = max(part.length for part in parts)
            raise ValueError(
                f"the prompt {shown(prompt)} has more than the {room} tokens that this model reads; shorten it"
            )


def _fits(part: TextPart, prompt: str) -> bool:
    room = part.dropped + part.length
    text = part.template.replace(PLAIN, prompt)
    cut = part.tokenizer(text, truncation=True, max_length=room + 1, add_special_tokens=part.special)
    return len(cut.input_ids) <= room


def find_words(parts: Sequence[TextPart], prompt: str, words: Sequence[str]) -> list[list[int]]:
    """The text positions of each word or phrase of ``prompt``: all its occurrences, in every text encoder.

    `ValueError` shows the prompt's tokens if a word is not among them, as happens where every tokenizer cut the
    prompt at its length.
    """
    text = describe(parts, [prompt])
    found = [np.flatnonzero(text.spelling(word)[0]).tolist() for word in words]
    for word, positions in zip(words, found, strict=True):
        if not positions:
            raise ValueError(f"words: {text.without(word)}")
    return found
