"""States: what some layers held at some steps of a run, to be looked at or patched into another run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..attention.text_tokens import TextTokens
from ..storage.files import atomic_write
from .base import spelled_tokens

What = Literal["output", "query", "key", "value", "block"]
Stream = Literal["image", "text"]
Tokens = str | Sequence[str]
""""all", "image", "text", or words of the prompt: one as a text, or several."""
_FORMAT = "mmdit-probe states 1"
_TEXT = ("strings", "kinds", "begins", "ends")


@dataclass(frozen=True, eq=False)
class States:
    """What one prompt's run held, by layer, step and stream.

    Attributes:
        what: "output" of the attention before its projection, "query", "key" or "value" as the kernel saw them, or "block",
            the residual streams that a block gave on.
        tensors: by (layer, step, "image" or "text"): (heads, tokens, width), of blocks (tokens, channels); on the CPU, in the
            run's precision.
        prompt: the run's prompt.
        grid: the image's tokens, as in `TokenLayout`.
        text: number of text positions of the run.
        places: which of them the tensors of the text hold.
        tokens: what the text positions held, one batch row; None if unknown.
    """

    what: What
    tensors: Mapping[tuple[int, int, Stream], Tensor] = field(repr=False)
    prompt: str
    grid: tuple[int, ...]
    text: int
    places: tuple[int, ...] = field(repr=False)
    tokens: TextTokens | None = field(default=None, repr=False)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that were recorded."""
        return tuple(sorted({layer for layer, _, _ in self.tensors}))

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that were recorded."""
        return tuple(sorted({step for _, step, _ in self.tensors}))

    @property
    def nbytes(self) -> int:
        """Size of the tensors in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def places_of(self, words: Sequence[str]) -> list[int]:
        """The recorded text positions that spell words of the run's prompt; `ValueError` if one is not recorded."""
        found = np.flatnonzero(spelled_tokens(self.tokens, words, ())[0]).tolist()
        missing = [place for place in found if place not in self.places]
        if missing:
            raise ValueError(
                f"states: the tokens of {', '.join(words)} are not among those recorded; record tokens='text'"
            )
        return found

    def save(self, path: Path | str) -> Path:
        """Write a .safetensors file."""
        text = self.tokens
        about = {
            "format": _FORMAT,
            "what": self.what,
            "prompt": self.prompt,
            "grid": self.grid,
            "text": self.text,
            "places": self.places,
            "tokens": text and {name: getattr(text, name)[0].tolist() for name in _TEXT},
            "encoders": text and [str(name) for name in text.encoders],
        }
        named = {f"{layer}.{step}.{stream}": tensor for (layer, step, stream), tensor in self.tensors.items()}
        with atomic_write(Path(path)) as part:
            save_file(
                {name: tensor.contiguous() for name, tensor in named.items()}, part, {"states": json.dumps(about)}
            )
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> States:
        """Read what `save` wrote; `ValueError` if the file is no such file."""
        try:
            with safe_open(str(path), "pt") as file:
                about = json.loads((file.metadata() or {}).get("states", "{}"))
                named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a file of states ({error}); give one that States.save wrote") from None
        if about.get("format") != _FORMAT:
            raise ValueError(f"{path} is not a file of states; give one that States.save wrote")
        tensors: dict[tuple[int, int, Stream], Tensor] = {}
        for name, tensor in named.items():
            layer, step, stream = name.split(".")
            tensors[int(layer), int(step), "image" if stream == "image" else "text"] = tensor
        tokens = about["tokens"] and _one_row(about["tokens"], about["encoders"])
        grid, places = tuple(about["grid"]), tuple(about["places"])
        return cls(about["what"], tensors, about["prompt"], grid, about["text"], places, tokens)


def _one_row(columns: Mapping[str, list[object]], encoders: list[str]) -> TextTokens:
    kinds = {"strings": object, "kinds": object, "begins": bool, "ends": bool}
    rows: dict[str, Any] = {name: np.array([columns[name]], kinds[name]) for name in _TEXT}
    return TextTokens(encoders=np.array(encoders, object), conditional=np.ones(1, bool), **rows)


def checked_what(name: str, what: str) -> None:
    """`ValueError` that begins with ``name`` if this is nothing that is recorded."""
    if what not in get_args(What):
        raise ValueError(f"{name}: what must be one of {', '.join(get_args(What))}, got {what!r}")


def streams_of(tokens: Tokens) -> tuple[list[Stream], tuple[str, ...]]:
    """The streams that tokens belong to, and the words that choose among the text's; none for all of it."""
    if tokens == "all":
        return ["image", "text"], ()
    if tokens == "image":
        return ["image"], ()
    if tokens == "text":
        return ["text"], ()
    words = (tokens,) if isinstance(tokens, str) else tuple(tokens)
    if not words:
        raise ValueError("tokens: give all, image, text, or words of the prompt")
    return ["text"], words
