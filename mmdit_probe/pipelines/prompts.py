"""From words to token positions, and from a pipeline's prompt to what each text position holds."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..attention.text_tokens import Kind, TextTokens, join_positions, join_rows
from ..families import PLAIN, TextPart, denoiser_of, family_of
from ..utils.text import shown


@dataclass(frozen=True)
class _Encoded:
    """A prompt's tokens as its text encoder is given them, with their padding.

    ``spans`` (position, 2) are the characters of ``text`` that each token stands for, None where the tokenizer does not
    know; the prompt is ``words`` (start, end) of them, none where the text is the template's alone.
    """

    ids: list[int]
    seen: np.ndarray
    spans: np.ndarray | None
    text: str
    words: tuple[int, int]


def _encoded(part: TextPart, prompts: Sequence[str]) -> list[_Encoded]:
    """The prompts of a batch, each in its template, padded and cut to the part's length."""
    cleaned = [part.cleaned(prompt) for prompt in prompts]
    texts = [part.template.replace(PLAIN, prompt) for prompt in cleaned]
    if not texts:
        return []
    made = part.tokenizer(
        texts,
        padding="longest" if part.multiple else "max_length",
        max_length=part.cut + part.length,
        truncation=True,
        add_special_tokens=part.special_tokens,
        return_attention_mask=True,
        return_offsets_mapping=part.tokenizer.is_fast,
    )
    start = part.template.find(PLAIN)
    words = [(start, start + len(prompt)) if start >= 0 else (0, 0) for prompt in cleaned]
    more = -len(made["input_ids"][0]) % (part.multiple or 1)
    around = (more, 0) if part.tokenizer.padding_side == "left" else (0, more)
    pad = part.tokenizer.pad_token_id or 0
    ids = [np.pad(np.array(row, int), around, constant_values=pad).tolist() for row in made["input_ids"]]
    seen = [np.pad(np.array(row, bool), around) for row in made["attention_mask"]]
    spans: list[Any] = [None] * len(texts)
    if part.tokenizer.is_fast:
        spans = [np.pad(np.array(row, int).reshape(-1, 2), (around, (0, 0))) for row in made["offset_mapping"]]
    return [_Encoded(*encoded) for encoded in zip(ids, seen, spans, texts, words, strict=True)]


def _tokenize(part: TextPart, prompts: Sequence[str], conditional: bool) -> TextTokens:
    part = part if conditional or part.negative is None else part.negative
    encoded = _encoded(part, prompts) if part.tokenizer is not None else []
    length = len(_order(part, encoded[0])) if encoded else part.length
    shape = (len(prompts), length)
    strings, kinds = np.full(shape, "", object), np.full(shape, Kind.ABSENT, object)
    begins, ends = np.ones((2, *shape), bool)
    for row, prompt in enumerate(encoded):
        strings[row], kinds[row], begins[row], ends[row] = _positions(part, prompt)
    encoders, rows = np.full(length, part.encoder, dtype=object), np.full(len(prompts), conditional)
    return TextTokens(strings, kinds, encoders, rows, begins, ends)


def _positions(part: TextPart, encoded: _Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Strings, kinds, and where words can begin and end, of the positions that one prompt fills."""
    kinds, text = _kinds(part, encoded), encoded.text
    strings = np.array([readable(token) for token in part.tokenizer.convert_ids_to_tokens(encoded.ids)], object)
    begins, ends = np.ones((2, len(kinds)), bool)
    before = None
    for place, span in enumerate([] if encoded.spans is None else map(tuple, encoded.spans.tolist())):
        if span[0] == span[1]:  # a token that stands for no character
            continue
        since = span[1] - len(text[span[0] : span[1]].lstrip())
        begins[place], ends[place] = _parted(text, since), _parted(text, span[1])
        if not strings[place].isascii():  # tokens of bytes are unreadable one by one
            strings[place] = text[since : span[1]].strip() if span != before else ""
        begins[place] &= span != before
        before = span
    kept = _order(part, encoded)
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
    [encoded] = _encoded(part, [prompt])
    offsets: np.ndarray = encoded.spans[_order(part, encoded)] - encoded.words[0]  # type: ignore[index]
    return [np.flatnonzero((offsets[:, 1] > since) & (offsets[:, 0] < to)).tolist() for since, to in ranges]


def _kinds(part: TextPart, encoded: _Encoded) -> np.ndarray:
    named = {part.tokenizer.bos_token_id: Kind.START, part.tokenizer.eos_token_id: Kind.END}
    kinds = np.array([named.get(number, Kind.WORD) for number in encoded.ids], dtype=object)
    if part.template != PLAIN and encoded.spans is not None:  # ends of its own do not end the prompt
        start, end = encoded.words
        overlaps = (encoded.spans[:, 1] > start) & (encoded.spans[:, 0] < end)
        kinds = np.where(overlaps, Kind.WORD, Kind.TEMPLATE).astype(object)
    else:
        added = np.isin(encoded.ids, part.tokenizer.all_special_ids) & (kinds == Kind.WORD)
        kinds[added & (True if encoded.spans is None else encoded.spans[:, 0] == encoded.spans[:, 1])] = Kind.TEMPLATE
    kinds[~encoded.seen] = Kind.PADDING
    return kinds


def _order(part: TextPart, encoded: _Encoded) -> np.ndarray:
    """Which of the tokenizer's positions become text positions, in order."""
    places = np.arange(len(encoded.ids))
    order = np.argsort(~encoded.seen, kind="stable") if part.left_aligned else places
    return order[(places < part.cut_from) | (places >= part.cut_from + part.cut)]


def readable(token: str | None) -> str:
    """A token without its tokenizer's marks of word starts and ends."""
    return (token or "").replace("</w>", "").replace("▁", "").replace("Ġ", "")


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
    halves = [(half, kept) for half, kept in ((negative, False), (prompts, True)) if half]
    return join_rows(
        [
            _joined(parts, [_tokenize(part, half, kept) for part in parts]).repeated(images)
            for half, kept in halves or [(prompts, True)]
        ]
    )


def _joined(parts: Sequence[TextPart], tokens: Sequence[TextTokens]) -> TextTokens:
    joined = join_positions(tokens)
    return joined.padding_last() if any(part.padding_last for part in parts) else joined


def check_length(pipe: Any, prompts: Sequence[str], max_sequence_length: int) -> None:
    """`ValueError` if a prompt is longer than every text encoder of the pipeline reads: its end would be lost unseen."""
    parts = family_of(denoiser_of(pipe)).text_parts(pipe, max_sequence_length)
    parts = [part for part in parts if part.tokenizer is not None and PLAIN in part.template]
    for prompt in prompts:
        reading = [part for part in parts if part.cleaned(prompt)]
        if reading and not any(_fits(part, prompt) for part in reading):
            room = max(part.length for part in reading)
            raise ValueError(
                f"the prompt {shown(prompt)} has more than the {room} tokens that this model reads; shorten it"
            )


def _fits(part: TextPart, prompt: str) -> bool:
    room = part.cut + part.length
    text = part.template.replace(PLAIN, part.cleaned(prompt))
    cut = part.tokenizer([text], truncation=True, max_length=room + 1, add_special_tokens=part.special_tokens)
    return len(cut["input_ids"][0]) <= room


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
