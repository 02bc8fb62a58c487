"""What is looked at in one image: maps of words, principal components, everything at once, the explorer page."""

from __future__ import annotations

from dataclasses import dataclass

from .generation import GenerationConfig


@dataclass(frozen=True)
class MapsConfig:
    """Heat maps of words (Seg4Diff, Fig. 9, 16).

    ``layers`` None reads all; ``direction`` is i2t (image queries on the word) or t2i; ``heads`` is mean or all.
    """

    prompt: str
    words: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    timesteps: tuple[int, ...] = (8,)
    direction: str = "i2t"
    heads: str = "mean"
    generation: GenerationConfig = GenerationConfig()


@dataclass(frozen=True)
class PCAConfig:
    """Principal components of the tokens' features (Seg4Diff, Fig. 3).

    ``scenes`` are numbers of built-in test scenes to read; without them an image is generated from ``prompt``, or given.
    ``stream`` is image, text or both; ``padding`` counts padding among the text tokens.
    """

    prompt: str | None
    scenes: tuple[int, ...] = ()
    layers: tuple[int, ...] | None = None
    timesteps: tuple[int, ...] = (8,)
    generation: GenerationConfig = GenerationConfig()
    stream: str = "image"
    padding: bool = False


@dataclass(frozen=True)
class AnalyzeConfig:
    """All studies of one image in one pass; no ``words`` maps every content word of the prompt."""

    prompt: str
    words: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    timesteps: tuple[int, ...] = (8,)
    generation: GenerationConfig = GenerationConfig()


@dataclass(frozen=True)
class ExploreConfig:
    """The explorer page of one image.

    ``layers`` and ``timesteps`` None keep all of them for grids of up to ``small`` image tokens, otherwise the expert
    layer with five others and the timesteps 8 and 28. At most ``head_groups`` groups of heads are kept beside the mean
    over all heads, and fewer where the page would be larger than ``megabytes``.
    """

    prompt: str
    layers: tuple[int, ...] | None = None
    timesteps: tuple[int, ...] | None = None
    head_groups: int = 8
    megabytes: float = 15.0
    small: int = 256
    generation: GenerationConfig = GenerationConfig()
