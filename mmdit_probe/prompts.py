"""From words to token positions, and from a pipeline's prompt to what each text position holds."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from .families import Family, TextPart
from .tokens import Kind, TextTokens, join_positions, join_rows


def _tokenize(part: TextPart, prompts: Sequence[str], conditional: bool) -> TextTokens:
    shape = (len(prompts), part.length)
    encoders = np.full(part.length, part.encoder, dtype=object)
    rows = np.full(len(prompts), conditional)
    if part.tokenizer is None:
        return TextTokens(np.full(shape, "", object), np.full(shape, Kind.ABSENT, object), encoders, rows)
    strings, kinds = np.empty(shape, object), np.empty(shape, object)
    for row, prompt in enumerate(prompts):
        ids = part.tokenizer(prompt, padding="max_length", max_length=part.length, truncation=True).input_ids
        strings[row] = [readable(token) for token in part.tokenizer.convert_ids_to_tokens(ids)]
        kinds[row] = _kinds(ids, part.tokenizer)
    return TextTokens(strings, kinds, encoders, rows)


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
    """The text positions of a batch: the negative prompts' rows first, if any, ``images`` rows a prompt."""
    halves = [(negative, False)] if negative is not None else []
    halves.append((prompts, True))
    return join_rows(
        [
            join_positions([_tokenize(part, p, kept) for part in parts]).repeated(images)
            for p, kept in halves
            if p is not None
        ]
    )


def find_words(tokenizer: Any, prompt: str, words: Sequence[str]) -> list[list[int]]:
    """The token positions of each word or phrase in ``prompt``, all occurrences, in the order given.

    `ValueError` shows the prompt's tokens if a word is not among them, as happens where the tokenizer cut the
    prompt at its length.
    """
    ids = tokenizer(prompt, truncation=True).input_ids
    found = []
    for word in words:
        piece = tokenizer(word, add_special_tokens=False).input_ids
        starts = [i for i in range(len(ids) - len(piece) + 1) if piece and ids[i : i + len(piece)] == piece]
        if not starts:
            shown = " ".join(readable(token) for token in tokenizer.convert_ids_to_tokens(ids))
            raise ValueError(f"find_words: {word!r} is not among the prompt's tokens: {shown}")
        found.append(sorted({i + k for i in starts for k in range(len(piece))}))
    return found


class PromptWatch:
    """While open, notes the prompts that a pipeline encodes.

    ``text`` is None until the pipeline has encoded a prompt, and where it was given embeddings.
    """

    def __init__(self, pipe: Any, family: Family) -> None:
        self.pipe, self.family = pipe, family
        self.text: TextTokens | None = None

    def __enter__(self) -> PromptWatch:
        encode = self.pipe.encode_prompt
        signature = inspect.signature(encode)

        def watched(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            self.text = self._describe(bound.arguments)
            return encode(*args, **kwargs)

        self.pipe.encode_prompt = watched  # on the instance; leaving deletes it again
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pipe.__dict__.pop("encode_prompt", None)

    def _describe(self, arguments: dict[str, Any]) -> TextTokens | None:
        if arguments.get("prompt_embeds") is not None or arguments.get("prompt") is None:
            return None
        prompts = _listed(arguments["prompt"])
        negative = None
        if arguments.get("do_classifier_free_guidance"):
            negative = _listed(arguments.get("negative_prompt") or "")
            negative = negative * len(prompts) if len(negative) == 1 else negative
        parts = self.family.text_parts(self.pipe, arguments.get("max_sequence_length") or 0)
        if not parts:
            return None
        return describe(parts, prompts, negative, arguments.get("num_images_per_prompt") or 1)


def _listed(prompt: str | Sequence[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt)
