"""What the probe has to know about one class of transformers, and how to say it in a line or two."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..attention.layout import TokenLayout
from .image_input import ImageInput

Inputs = Mapping[str, Any]
Layout = Callable[[Any, Inputs], TokenLayout]
Layers = Callable[[Any], list[nn.Module]]


PLAIN = "{}"
"""Where the prompt stands in a template; alone, the prompt as it is."""


@dataclass(frozen=True)
class TextPart:
    """A run of at most ``length`` text positions made by one text encoder.

    No tokenizer means that the encoder is not loaded and its positions are zero. ``template`` is what the pipeline
    puts around the prompt, for which ``{}`` stands, once ``cleaned`` has prepared it; without ``special`` the tokenizer
    adds no tokens of its own; ``packed`` says that it moves padding behind all else; ``dropped`` positions are then cut
    off, which follow the first ``kept``.

    With a ``multiple`` there are only as many positions as the longest prompt of the batch fills, made up to a multiple
    of that number. ``sorted`` says that the model moves padding behind the tokens of all its parts. ``negative`` is how
    negative prompts are encoded, where otherwise.
    """

    encoder: str
    tokenizer: Any
    length: int
    template: str = PLAIN
    special: bool = True
    packed: bool = False
    dropped: int = 0
    kept: int = 0
    multiple: int = 0
    sorted: bool = False
    cleaned: Callable[[str], str] = str
    negative: TextPart | None = None


def same_layout(layout: TokenLayout, queries: int, keys: int) -> TokenLayout | None:
    """The layout of a call with so many queries and keys: the forward pass's own, or None if it is no such call."""
    return layout if (queries, keys) == (layout.queries, layout.keys) else None


def in_order(inputs: Inputs, layout: TokenLayout) -> Tensor | None:
    """Every sample's tokens stand where the layout says."""
    return None


OWN: Any = object()
"""An argument of `encode_prompt` that is not known: what the pipeline's call gives by default."""


def beside(pipe: Any, name: str) -> Any:
    """What the module of a pipeline's class, or of one that it derives from, calls ``name``; None if there is none such."""
    modules = (sys.modules[base.__module__] for base in type(pipe).__mro__)
    return next((getattr(module, name) for module in modules if hasattr(module, name)), None)


def unknown_text(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    """For pipelines whose text positions are not described: their tokens have no labels."""
    return []


def t5(pipe: Any, max_sequence_length: int) -> list[TextPart]:
    """One T5 encoder, its tokens padded to the length asked for."""
    return [TextPart("t5", pipe.tokenizer, max_sequence_length)]


def thousandths(transformer: Any, timestep: Tensor) -> Tensor:
    """The timestep counts from 1000 (noise) to 0 (image)."""
    return timestep.float() / 1000


def fraction(transformer: Any, timestep: Tensor) -> Tensor:
    """The timestep is the noise level, from 1 to 0."""
    return timestep.float()


def reversed_fraction(transformer: Any, timestep: Tensor) -> Tensor:
    """The timestep runs backwards, from 0 (noise) to 1 (image)."""
    return 1 - timestep.float()


@dataclass(frozen=True)
class Family:
    """How one transformer class is probed.

    Attributes:
        layers: the attention modules to read, in the order in which they run.
        layout: the token layout from the forward pass's arguments by name.
        sigmas: each batch row's noise level in [0, 1] from the timestep argument; for models trained on a
            discrete diffusion schedule, the position in it, from 1 (noise) to 0 (image).
        text_parts: the text positions that a pipeline makes, given ``max_sequence_length`` (0: its own); none if they
            are not described. Further parameters are those of its `encode_prompt`, with what its call gives them.
        expert: the published expert layer, of the models with ``depth`` layers; others of the family have none known.
        image_input: how the family is given an image to read; None if that is not known.
        image_argument: name of the argument that carries the image; its first axis, or its length, is the batch.
        timestep_argument: name of the timestep argument.
        text_argument: name of the argument that carries the text.
        call_layout: the layout of one attention call with so many queries and keys, None if it is to be ignored.
        token_order: where the tokens stand if not in the layout's order, (batch, tokens) positions in the attention
            call, -1 where it leaves a token out; None if they are in order.
        patch: width of an image token in the px of the pipeline's ``vae_scale_factor``, where its ``patch_size`` does not say.
        verbatim_prompt_args: arguments of the pipeline's call with which it draws the prompt itself, not one that it writes anew.
    """

    name: str
    transformer: str
    models: str
    layers: Layers
    layout: Layout
    sigmas: Callable[[Any, Tensor], Tensor] = thousandths
    text_parts: Callable[..., list[TextPart]] = unknown_text
    expert: int | None = None
    depth: int | None = None
    image_input: ImageInput | None = None
    image_argument: str = "hidden_states"
    timestep_argument: str = "timestep"
    text_argument: str = "encoder_hidden_states"
    call_layout: Callable[[TokenLayout, int, int], TokenLayout | None] = same_layout
    token_order: Callable[[Inputs, TokenLayout], Tensor | None] = in_order
    patch: int = 2
    verbatim_prompt_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def knows_words(self) -> bool:
        """Whether it is known what the text positions hold."""
        return self.text_parts is not unknown_text

    def parts_of(self, pipe: Any, arguments: Mapping[str, Any]) -> list[TextPart]:
        """The text positions that a pipeline's `encode_prompt` makes with these arguments.

        Among words and images they are not described.
        """
        if arguments.get("image") is not None:
            return []
        _, _, *further = inspect.signature(self.text_parts).parameters
        told = {name: arguments[name] for name in further if name in arguments}
        return self.text_parts(pipe, arguments.get("max_sequence_length") or 0, **told)


def modules(path: str, *lists: str) -> Layers:
    """The attention module at ``path`` in every block of the named module lists, list after list."""

    def of(transformer: Any) -> list[nn.Module]:
        blocks = [block for name in lists for block in transformer.get_submodule(name).children()]
        return [block.get_submodule(path) for block in blocks]

    return of


def grid_of(sizes: Sequence[int], patch: int | Sequence[int]) -> tuple[int, ...]:
    """Tokens along each axis of latents of ``sizes``; ``patch`` counts latent pixels, one number for every axis or each."""
    patches = [patch] * len(sizes) if isinstance(patch, int) else patch
    return tuple(size // step for size, step in zip(sizes, patches, strict=True))


def named_inputs(transformer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
    """A forward call's arguments by name."""
    signature = inspect.signature(type(transformer).forward)
    return signature.bind_partial(transformer, *args, **kwargs).arguments
