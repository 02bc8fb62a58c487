"""What the probe has to know about one class of transformers, with the pieces that most families share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..attention.layout import TokenLayout
from ..attention.reordered import View
from .image_input import ImageInput
from .pipeline import FamilyPipeline, Pipeline

Inputs = Mapping[str, Any]
Layout = Callable[[Any, Inputs], TokenLayout]
Layers = Callable[[Any], list[nn.Module]]


PLAIN = "{}"
"""Stands for the prompt in a template; as a whole template, the bare prompt."""


@dataclass(frozen=True)
class TextPart:
    """The consecutive text positions that one text encoder fills.

    Attributes:
        encoder: the encoder's name, such as "clip" or "t5".
        tokenizer: its tokenizer; None if the encoder is not loaded, so that its positions are zero.
        length: number of positions, or the most there can be if ``multiple`` is set.
        template: the text around the prompt; ``{}`` stands for the prompt.
        special_tokens: whether the tokenizer adds its own start and end tokens.
        left_aligned: whether the pipeline moves this part's padding behind its tokens.
        cut: number of tokens that the pipeline removes after encoding, such as the beginning of a chat template.
        cut_from: position of the first token removed.
        multiple: pad to the longest prompt of the batch, rounded up to a multiple of this; 0 pads to ``length``.
        padding_last: whether the model moves the padding of all parts behind all tokens.
        cleaned: the pipeline's text preprocessing, applied to the prompt before it enters the template.
        negative: how negative prompts are encoded; None if like prompts.
        arguments: the arguments of `encode_prompt` that feed the encoder: the first one that is given, as in the
            pipeline. Those of the negative prompt have the prefix ``negative_``.
        sharing: an encoder whose features lie side by side with this one's, in the same positions; None if there is none.
    """

    encoder: str
    tokenizer: Any
    length: int
    template: str = PLAIN
    special_tokens: bool = True
    left_aligned: bool = False
    cut: int = 0
    cut_from: int = 0
    multiple: int = 0
    padding_last: bool = False
    cleaned: Callable[[str], str] = str
    negative: TextPart | None = None
    arguments: tuple[str, ...] = ("prompt",)
    sharing: TextPart | None = None


def same_layout(layout: TokenLayout, queries: int, keys: int) -> TokenLayout | None:
    """The forward pass's layout if the attention call has its numbers of queries and keys, else None."""
    return layout if (queries, keys) == (layout.queries, layout.keys) else None


def in_order(transformer: Any, inputs: Inputs, layout: TokenLayout) -> View | None:
    """None: every sample's tokens stand where the layout says."""
    return None


def always(inputs: Inputs) -> bool:
    """Every call of the transformer is a denoising step."""
    return True


CALL_DEFAULT: Any = object()
"""Marks an argument of `encode_prompt` that is not known: the default of the pipeline's call applies."""


def unknown_text(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """No parts: the text positions are not described, and their tokens have no labels."""
    return []


Filled = Callable[[Any, Mapping[str, Any]], "list[tuple[str, list[str]]]"]


def t5(pipe: FamilyPipeline, max_sequence_length: int) -> list[TextPart]:
    """One T5 encoder, padded to ``max_sequence_length``."""
    return [TextPart("t5", pipe.tokenizer, max_sequence_length)]


def longest_of(part: TextPart, prompts: str | Sequence[str]) -> int:
    """Number of tokens of the longest of some prompts as the part cuts them, start and end tokens included."""
    texts = [part.cleaned(prompt) for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
    made = part.tokenizer(texts, truncation=True, max_length=part.length, add_special_tokens=part.special_tokens)
    return max(map(len, made["input_ids"]))


def first_of(part: TextPart, kept: int) -> TextPart:
    """The part with all but its first ``kept`` positions cut off after encoding."""
    return replace(part, length=kept, cut=part.length - kept, cut_from=kept)


def thousandths(transformer: Any, timestep: Tensor) -> Tensor:
    """Sigma from timesteps that run from 1000 (noise) to 0 (image)."""
    return timestep.float() / 1000


def fraction(transformer: Any, timestep: Tensor) -> Tensor:
    """Sigma from timesteps that run from 1 (noise) to 0 (image)."""
    return timestep.float()


def reversed_fraction(transformer: Any, timestep: Tensor) -> Tensor:
    """Sigma from timesteps that run from 0 (noise) to 1 (image)."""
    return 1 - timestep.float()


def noisiest(transformer: Any, timestep: Tensor) -> Tensor:
    """One level: the noisiest of the table of timesteps, or of the tokens' timesteps."""
    return timestep.float().max().reshape(1) / 1000


def unknown_level(transformer: Any, timestep: Tensor) -> Tensor:
    """NaN: the models of one class disagree on what their timesteps mean, or it is not known."""
    return torch.full_like(timestep.float(), torch.nan)


@dataclass(frozen=True)
class Family:
    """How the transformers of one class are probed.

    Attributes:
        name: short name, such as "sd3".
        transformer: name of the transformer's class in diffusers; subclasses belong to the family too.
        models: the models of the family, for messages and tables.
        layers: the attention modules to read, in the order in which they run.
        layout: the token layout, from the forward pass's arguments by name.
        sigmas: the noise level in [0, 1] of each batch row, from the timestep argument. For models trained on a discrete
            diffusion schedule: the position in it, from 1 (noise) to 0 (image). NaN if it is not known.
        text_parts: the text positions that a pipeline makes, given ``max_sequence_length`` (0: the pipeline's own); an
            empty list if they are not described. Further parameters take the arguments of `encode_prompt` of that name.
        text_behind: like ``text_parts``, the positions behind the images of prompts that contain some.
        expert: the published expert layer of the models with ``depth`` layers; None if none is published.
        depth: number of layers of the models that ``expert`` belongs to.
        image_input: how a given image is read; None if that is not supported.
        image_argument: name of the argument that carries the image; its length is the batch size.
        timestep_argument: name of the timestep argument.
        text_argument: name of the argument that carries the text embeddings.
        call_layout: the layout of one attention call, from its numbers of queries and keys; None for calls to ignore.
        token_order: how attention calls are brought into the layout's order, such as an `Arrangement`; None if they are in it.
        denoises: whether a call with these arguments is one of a denoising step; others, such as one that fills a cache with
            references, are neither read, nor edited, nor counted.
        patch: width of an image token in latent pixels, for pipelines without a ``patch_size``.
        images_in_prompts: where images stand that a pipeline is given, if they become a part of its prompts: "first", before the
            words, in text positions that ``text_behind`` leaves; "apart" in the layout already; "none" if they never do; None
            if it is not described.
        by_ids: whether the transformer is given a prompt's token ids, one prompt in each call, by which the prompt is recognized.
        filled: for pipelines whose call tokenizes prompts by itself, or gives `encode_prompt` something else than the prompts: from
            the call's arguments, which "conditional" and "unconditional" prompts fill the batch, in order. None for all others.
        verbatim_prompt_args: arguments of the pipeline's call that disable prompt rewriting.
        frames: whether its models make videos, or several images at once, whose grid is (frames, rows, cols).
        batches: whether its pipelines take several prompts in one call.
        references: whether its models attend to reference images beside the text and what they make.
        guessed: whether the layers and the layout are read off an unknown model, so that a probe checks them by what it does.
    """

    name: str
    transformer: str
    models: str
    layers: Layers
    layout: Layout
    sigmas: Callable[[Any, Tensor], Tensor] = thousandths
    text_parts: Callable[..., list[TextPart]] = unknown_text
    text_behind: Callable[..., list[TextPart]] = unknown_text
    expert: int | None = None
    depth: int | None = None
    image_input: ImageInput | None = None
    image_argument: str = "hidden_states"
    timestep_argument: str = "timestep"
    text_argument: str = "encoder_hidden_states"
    call_layout: Callable[[TokenLayout, int, int], TokenLayout | None] = same_layout
    token_order: Callable[[Any, Inputs, TokenLayout], View | None] = in_order
    denoises: Callable[[Inputs], bool] = always
    patch: int = 2
    images_in_prompts: Literal["first", "apart", "none"] | None = None
    by_ids: bool = False
    filled: Filled | None = None
    verbatim_prompt_args: Mapping[str, Any] = field(default_factory=dict)
    frames: bool = False
    batches: bool = True
    references: bool = False
    guessed: bool = False

    @property
    def knows_words(self) -> bool:
        """Whether ``text_parts`` describes the text positions."""
        return self.text_parts is not unknown_text

    def parts_of(self, pipe: Pipeline, arguments: Mapping[str, Any]) -> list[TextPart]:
        """The text positions that a pipeline's `encode_prompt` makes with these arguments, those of images in prompts aside."""
        described = self.text_behind if self.prompt_holds_images(arguments) else self.text_parts
        _, _, *further = inspect.signature(described).parameters
        known = {name: arguments[name] for name in further if name in arguments}
        return described(pipe, arguments.get("max_sequence_length") or 0, **known)

    def prompt_holds_images(self, arguments: Mapping[str, Any]) -> bool:
        """Whether images that are given with these arguments become a part of the prompts."""
        given = any(arguments.get(name) is not None for name in ("image", "images"))
        return given and self.images_in_prompts != "none"

    def is_step(self, transformer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> bool:
        """Whether a forward call with these arguments is one of a denoising step, see ``denoises``."""
        return self.denoises is always or self.denoises(named_inputs(transformer, args, kwargs or {}))


def modules(path: str, *lists: str) -> Layers:
    """The attention module at ``path`` in every block of the named module lists, list after list."""

    def of(transformer: Any) -> list[nn.Module]:
        blocks = [block for name in lists for block in transformer.get_submodule(name).children()]
        return [block.get_submodule(path) for block in blocks]

    return of


def grid_of(sizes: Sequence[int], patch: int | Sequence[int]) -> tuple[int, ...]:
    """Tokens along each axis of latents of ``sizes``; ``patch`` is in latent pixels, one number for all axes or one each."""
    patches = [patch] * len(sizes) if isinstance(patch, int) else patch
    return tuple(size // step for size, step in zip(sizes, patches, strict=True))


def named_inputs(transformer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
    """A forward call's arguments by name."""
    signature = inspect.signature(type(transformer).forward)
    return signature.bind_partial(transformer, *args, **kwargs).arguments
