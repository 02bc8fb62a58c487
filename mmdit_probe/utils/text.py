"""Checking text from users (prompts, words, class names), and showing it in one line."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence

LONGEST_PROMPT, LONGEST_NAME = 10_000, 400
"""Most characters that a prompt and a class name may have."""
_FUNCTION_WORDS = frozenset(("a", "an", "the", "and", "or", "of", "on", "in", "at", "to", "with", "by", "is", "are"))
_DIRECTIONS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))


def one_line(text: str, most: int = 500) -> str:
    """The text in one line, control characters escaped, shortened in the middle to about ``most`` characters.

    >>> one_line("a dog\\n on   grass")
    'a dog on grass'
    """
    line = "".join(_visible(character) for character in " ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 40]} ... {line[-35:]}"


def repaired(text: str) -> str:
    """The text with every byte in it decoded that Python could not decode: in the C locale arguments come so.

    What is no UTF-8 either is escaped, so that the text can be written to a file.

    >>> repaired("sc\\udcc3\\udca8ne"), repaired("sc\\udce8ne")
    ('sc\xe8ne', 'sc\\\\udce8ne')
    """
    return _decoded(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _decoded(text: str) -> str:
    """The text with the bytes in it decoded that Python could not decode, if they are UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text


def shown(text: str, most: int = 60) -> str:
    """The text in quotes, shortened in the middle if it is long, for an error message."""
    return repr(one_line(text, most))


def checked_text(what: str, text: str, most: int = LONGEST_PROMPT) -> str:
    """The text itself, if it can be used, without byte order marks; white space, emoji and all scripts are accepted.

    Raises:
        ValueError: the text has no visible character, more than ``most`` characters, or a control character.
    """
    text = _decoded(text).replace("\ufeff", "")
    if not any(unicodedata.category(character)[0] in "LMNPS" for character in text):
        raise ValueError(f"the {what} is empty; give it at least one word")
    if len(text) > most:
        raise ValueError(f"the {what} {shown(text)} has {len(text)} characters; at most {most} are accepted")
    odd = next((character for character in text if not character.isspace() and _visible(character) != character), None)
    if odd is not None:
        raise ValueError(f"the {what} {shown(text)} holds the control character U+{ord(odd):04X}; remove it")
    return text


def checked_words(words: Sequence[str]) -> tuple[str, ...]:
    """Words and phrases, each once; `ValueError` if there is none."""
    kept = tuple(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not kept:
        raise ValueError(
            "words: expected words of the prompt separated by commas, such as 'red circle,grass'; got none"
        )
    return tuple(checked_text("word", word, LONGEST_NAME) for word in kept)


def checked_once(what: str, texts: Sequence[str]) -> tuple[str, ...]:
    """The texts themselves; `ValueError` if one occurs twice."""
    twice = next((text for number, text in enumerate(texts) if text in texts[:number]), None)
    if twice is not None:
        raise ValueError(f"the {what} {shown(twice)} is given more than once; give it once")
    return tuple(texts)


def storable(name: str) -> str:
    """The name, if this machine can write it in its encoding, else its letters' numbers, as in "u043a"."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("ascii", "backslashreplace").decode("ascii").replace("\\", "")
    return name


def is_content_word(word: str) -> bool:
    """Whether a word may name something visible: it is neither an English function word nor punctuation alone.

    >>> [word for word in ("The", "dog", "on", "grass", ",") if is_content_word(word)]
    ['dog', 'grass']
    """
    return word.lower() not in _FUNCTION_WORDS and any(unicodedata.category(letter)[0] not in "PZ" for letter in word)


def _visible(character: str) -> str:
    """The character, escaped if it is a control character, changes the text's direction, or can't be encoded."""
    control = unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _DIRECTIONS
    return character.encode("unicode_escape").decode() if control else character
