"""Tokenizers that turn each word of the scenes' captions into one token: CLIP's by byte-pair merges, T5's by a list of words."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, T5Tokenizer

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


def make_t5_tokenizer(length: int) -> T5Tokenizer:
    """T5's tokenizer, of ``length`` positions; words that are not in `WORDS` are split into letters.

    A word is worth more than its letters, and printable ASCII alone is known: what else there is becomes the unknown token.
    """
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [(letter, -10.0) for letter in ("▁", *map(chr, range(33, 127)))]
    words = [(f"▁{word}", -1.0) for word in WORDS]
    return T5Tokenizer(vocab=special + letters + words, extra_ids=0, model_max_length=length)
