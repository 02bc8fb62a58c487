"""A CLIP tokenizer whose byte-pair merges turn each word of the scenes' captions into one token."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from ..datasets.scenes import CLASSES
from ..datasets.shapes import COLORS

WORDS = tuple(
    sorted(
        {"a", "an", "and", "on", "of", "under", "above", "below", "left", "right", *COLORS, *" ".join(CLASSES).split()}
    )
)
START, END = "<|startoftext|>", "<|endoftext|>"


def learn_merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until each word is a single token.

    They are learned on all words together, so that they do not collide: the merge that makes "and" also applies inside
    "sand", and later merges rely on it.
    """
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while any(len(parts) > 1 for parts in pieces.values()):
        pairs = Counter(pair for parts in pieces.values() for pair in pairwise(parts))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merge(parts, best) for word, parts in pieces.items()}
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def make_tokenizer(length: int, pad: str = END) -> CLIPTokenizer:
    """The tokenizer, of ``length`` positions; words that are not in `WORDS` are split into letters."""
    letters = sorted(ByteLevel.alphabet())
    merges = learn_merges(WORDS)
    pieces = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length, pad_token=pad)
