"""Tokenizers as some pipelines use them: piece by piece, on bytes, or with a token for the empty prompt.

Each is called as a tokenizer of transformers is, with a list of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Rows = dict[str, list[list[Any]]]

LONGEST = 1 << 17
"""The most tokens of a prompt for tokenizers without a length of their own."""


def own_length(tokenizer: Any) -> int:
    """The length at which a tokenizer truncates by default."""
    return min(int(tokenizer.model_max_length), LONGEST)


class _Used:
    """A wrapped tokenizer; what a subclass does not define is the tokenizer's own."""

    is_fast = True

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def _padded(self, ids: list[list[int]], spans: list[list[tuple[int, int]]], length: int) -> Rows:
        """Truncated, and padded to ``length`` on the tokenizer's padding side."""
        rows: Rows = {"input_ids": [], "attention_mask": [], "offset_mapping": []}
        for numbers, places in zip(ids, spans, strict=True):
            some = len(numbers[:length])
            for name, kept, empty in (
                ("input_ids", numbers[:length], self.tokenizer.pad_token_id),
                ("attention_mask", [1] * some, 0),
                ("offset_mapping", places[:length], (0, 0)),
            ):
                more = [empty] * (length - some)
                rows[name].append([*more, *kept] if self.padding_side == "left" else [*kept, *more])
        return rows


class Pieces(_Used):
    """Tokenizes the pieces into which ``split`` divides a text, without special tokens."""

    def __init__(self, tokenizer: Any, split: Callable[[str], Sequence[str]]) -> None:
        super().__init__(tokenizer)
        self.split = split

    def __call__(
        self, texts: Sequence[str], *, max_length: int = LONGEST, padding: str | bool = False, **options: Any
    ) -> Rows:
        ids, spans = [], []
        for text in texts:
            numbers, places, start = [], [], 0
            for piece in self.split(text):
                made = self.tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
                numbers += made["input_ids"]
                places += [(start + since, start + to) for since, to in made["offset_mapping"]]
                start += len(piece)
            ids.append(numbers)
            spans.append(places)
        longest = max(map(len, ids), default=0)
        return self._padded(ids, spans, max_length if padding else min(longest, max_length))


class Front(_Used):
    """Pads in front, whatever the tokenizer does, to ``least`` tokens or more."""

    padding_side = "left"

    def __init__(self, tokenizer: Any, least: int = 0) -> None:
        super().__init__(tokenizer)
        self.least = least

    def __call__(
        self, texts: Sequence[str], *, max_length: int = LONGEST, padding: str | bool = False, **options: Any
    ) -> Rows:
        special = options.get("add_special_tokens", True)
        made = self.tokenizer(texts, add_special_tokens=special, return_offsets_mapping=True)
        ids, spans = ([list(row) for row in made[name]] for name in ("input_ids", "offset_mapping"))
        longest = max(self.least, *map(len, ids)) if padding else max(map(len, ids), default=0)
        return self._padded(ids, spans, max_length if padding == "max_length" else min(longest, max_length))


class Bytes(_Used):
    """A byte tokenizer (ByT5) with the character offsets of its tokens; an empty text has no tokens."""

    def __call__(self, texts: Sequence[str], *, max_length: int, padding: str | bool = False, **options: Any) -> Rows:
        ids, spans = [], []
        for text in texts:
            made = self.tokenizer(text, max_length=max_length, truncation=True)["input_ids"] if text else []
            places = [(place, place + 1) for place, character in enumerate(text) for _ in character.encode()]
            ids.append(made)
            spans.append([*places[: len(made) - 1], (0, 0)] if made else [])  # the end token has no characters
        longest = max(map(len, ids), default=0)
        return self._padded(ids, spans, max_length if padding else longest)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Token strings; a space is written as in SentencePiece."""
        return ["▁" if token == " " else token for token in self.tokenizer.convert_ids_to_tokens(ids)]


class Started(_Used):
    """Replaces an empty prompt by ``bos_token_id`` at every position of the batch, of which there is at least one."""

    def __init__(self, tokenizer: Any, bos_token_id: int) -> None:
        super().__init__(tokenizer)
        self.bos_token_id = bos_token_id

    def __call__(self, texts: Sequence[str], **options: Any) -> Rows:
        if any(texts):
            made = self.tokenizer(texts, **options)
            rows: Rows = {name: [list(row) for row in made[name]] for name in made}
        else:
            rows = {"input_ids": [[0]] * len(texts), "attention_mask": [[1]] * len(texts), "offset_mapping": [[(0, 0)]]}
            rows["offset_mapping"] *= len(texts)
        for row, text in enumerate(texts):
            if not text:
                length = len(rows["input_ids"][row])
                rows["input_ids"][row] = [self.bos_token_id] * length
                rows["attention_mask"][row] = [1] * length
                rows["offset_mapping"][row] = [(0, 0)] * length
        return rows
