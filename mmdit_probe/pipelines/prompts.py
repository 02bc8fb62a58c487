"""What each text position of a prompt holds, and the positions of words and of character ranges."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..attention.text_tokens import Kind, TextTokens, join_positions, join_rows
from ..families import PLAIN, Pipeline, TextPart, text_parts_of
from ..utils.text import shown

Prompts = Sequence[str] | Mapping[str, Sequence[str]]
"""A batch of prompts, or the batches that a pipeline was given by argument: ``prompt``, ``prompt_2``, ..."""


@dataclass(frozen=True)
class _Encoded:
    """A prompt's tokens as its text encoder takes them, padding included.

    Attributes:
        ids: token ids, (positions,).
        seen: the attention mask, (positions,) bool.
        spans: start and end of each token's characters in ``text``, (positions, 2); None if the tokenizer does not tell.
        text: the prompt in its template.
        words: start and end of the prompt's characters in ``text``; (0, 0) if the template does not hold the prompt.
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


def _by_argument(prompts: Prompts) -> Mapping[str, Sequence[str]]:
    return prompts if isinstance(prompts, Mapping) else {"prompt": prompts}


def _fed(part: TextPart, prompts: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The prompts that feed a part: those of its first argument that is given."""
    rows = max(map(len, prompts.values()), default=0)
    given = next((prompts[name] for name in part.arguments if prompts.get(name)), [""] * rows)
    return given if len(given) == rows else [*given] * rows


def _tokenize(part: TextPart, given: Mapping[str, Sequence[str]], conditional: bool) -> TextTokens:
    """One part's text positions of a batch of prompts, or of negative prompts if not ``conditional``."""
    prompts, sharing = _fed(part, given), part.sharing
    if sharing is not None and list(_fed(sharing, given)) == list(prompts):
        sharing = None  # one prompt is the same words, though tokenizers may name their padding differently
    part = part if conditional or part.negative is None else part.negative
    encoded = _encoded(part, prompts) if part.tokenizer is not None else []
    length = len(_order(part, encoded[0])) if encoded else part.length
    shape = (len(prompts), length)
    strings, kinds = np.full(shape, "", object), np.full(shape, Kind.ABSENT, object)
    begins, ends = np.ones((2, *shape), bool)
    for row, prompt in enumerate(encoded):
        strings[row], kinds[row], begins[row], ends[row] = _positions(part, prompt)
    encoders, rows = np.full(length, part.encoder, dtype=object), np.full(len(prompts), conditional)
    tokens = TextTokens(strings, kinds, encoders, rows, begins, ends)
    return tokens if sharing is None else tokens.beside(_tokenize(sharing, given, conditional))


def _positions(part: TextPart, encoded: _Encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Strings, kinds, and whether a word can begin and end there, (positions,) each, of one prompt's text positions."""
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
    order = _order(part, encoded)
    return strings[order], kinds[order], begins[order], ends[order]


def _parted(text: str, place: int) -> bool:
    """Whether a word can end or begin before character ``place``: not between letters that are written together."""
    around = text[max(place - 1, 0) : place + 1]
    together = len(around) == 2 and place > 0 and all(character.isalnum() for character in around)
    return not together or any(unicodedata.category(character) == "Lo" for character in around)  # Chinese, ...


def positions_of(part: TextPart, prompt: str, ranges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each range (start, end) of the prompt's characters, the text positions of the tokens that overlap it.

    Empty for a range behind the tokenizer's last position.
    """
    [encoded] = _encoded(part, [prompt])
    offsets: np.ndarray = encoded.spans[_order(part, encoded)] - encoded.words[0]  # type: ignore[index]
    return [np.flatnonzero((offsets[:, 1] > since) & (offsets[:, 0] < to)).tolist() for since, to in ranges]


def _kinds(part: TextPart, encoded: _Encoded) -> np.ndarray:
    named = {part.tokenizer.bos_token_id: Kind.START, part.tokenizer.eos_token_id: Kind.END}
    kinds = np.array([named.get(number, Kind.WORD) for number in encoded.ids], dtype=object)
    if part.template != PLAIN and encoded.spans is not None:  # the template's end tokens do not end the prompt
        start, end = encoded.words
        overlaps = (encoded.spans[:, 1] > start) & (encoded.spans[:, 0] < end)
        kinds = np.where(overlaps, Kind.WORD, Kind.TEMPLATE).astype(object)
    else:
        added = np.isin(encoded.ids, part.tokenizer.all_special_ids) & (kinds == Kind.WORD)
        kinds[added & (True if encoded.spans is None else encoded.spans[:, 0] == encoded.spans[:, 1])] = Kind.TEMPLATE
    kinds[~encoded.seen] = Kind.PADDING
    return kinds


def _order(part: TextPart, encoded: _Encoded) -> np.ndarray:
    """The tokenizer's positions that become text positions, in order; (text,)."""
    places = np.arange(len(encoded.ids))
    order = np.argsort(~encoded.seen, kind="stable") if part.left_aligned else places
    return order[(places < part.cut_from) | (places >= part.cut_from + part.cut)]


def first_encoder(text: TextTokens) -> np.ndarray:
    """(batch, text) True at the positions of the first text encoder, if it is loaded; the paper's 77 in SD3."""
    return (text.kinds != Kind.ABSENT) & (text.encoders == text.encoders[0])


def readable(token: str | None) -> str:
    """A token without its tokenizer's marks for the start and end of words."""
    return (token or "").replace("</w>", "").replace("▁", "").replace("Ġ", "")


def describe(
    parts: Sequence[TextPart], prompts: Prompts, negative: Prompts | None = None, images: int = 1
) -> TextTokens:
    """The text positions of a batch: the rows of the negative prompts first, if any; ``images`` rows for each prompt.

    Each part has the words of the argument that feeds it; negative prompts are named as prompts, without ``negative_``.
    `ValueError` if there are no parts, as the pipeline's family does not describe its text positions.
    """
    if not parts:
        raise ValueError(
            "prompts: the text positions of this pipeline are not described; "
            "give its family text_parts, or use readouts that need no words"
        )
    halves = [(half, conditional) for half, conditional in ((negative, False), (prompts, True)) if half]
    return join_rows(
        [
            _joined(parts, [_tokenize(part, _by_argument(half), conditional) for part in parts]).repeated(images)
            for half, conditional in halves or [(prompts, True)]
        ]
    )


def prompt_ids(parts: Sequence[TextPart], prompt: str, is_negative: bool) -> list[int]:
    """The token ids of one prompt, or negative prompt, as its encoders take them, one behind the other."""
    own = [part.negative or part if is_negative else part for part in parts]
    return [number for part in own for number in _encoded(part, [prompt])[0].ids]


def _joined(parts: Sequence[TextPart], tokens: Sequence[TextTokens]) -> TextTokens:
    joined = join_positions(tokens)
    return joined.padding_last() if any(part.padding_last for part in parts) else joined


def check_length(pipe: Pipeline, prompts: Sequence[str], max_sequence_length: int) -> None:
    """`ValueError` if a prompt is too long for every text encoder of the pipeline: its end would be lost silently."""
    parts = text_parts_of(pipe, max_sequence_length)
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

    ``word#2`` is the second occurrence alone.

    `ValueError` with the prompt's tokens if a word is not among them, also because every tokenizer cut it off.

    >>> from mmdit_probe import load_pipeline
    >>> from mmdit_probe.families import text_parts_of
    >>> parts = text_parts_of(load_pipeline("tiny-sd3"))
    >>> find_words(parts, "a red circle on grass", ["red circle", "grass"])
    [[2, 3], [5]]
    """
    text = describe(parts, [prompt])
    found = [np.flatnonzero(text.spelling(word)[0]).tolist() for word in words]
    for word, positions in zip(words, found, strict=True):
        if not positions:
            raise ValueError(f"words: {text.without(word)}")
    return found


def repeated_words(parts: Sequence[TextPart], prompt: str, words: Sequence[str]) -> dict[str, int]:
    """Those of the words that stand in the prompt more than once, and how often.

    >>> from mmdit_probe import load_pipeline
    >>> from mmdit_probe.families import text_parts_of
    >>> repeated_words(text_parts_of(load_pipeline("tiny-sd3")), "a red circle on a blue circle", ["circle", "red"])
    {'circle': 2}
    """
    text = describe(parts, [prompt])
    times = {word: text.times(word) for word in words}
    return {word: count for word, count in times.items() if count > 1}
