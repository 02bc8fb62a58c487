"""The block around an attention module: its output projection, its residual stream, and its text stream with other tokens."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

IMAGE, TEXT, POSITIONS = "hidden_states", "encoder_hidden_states", "image_rotary_emb"
CONCEPT_FAMILIES = ("sd3", "flux")
"""Families whose blocks take the text stream apart from the image's and can run on other tokens in its place."""


def output_weight(attention: Any, block: Any) -> Tensor | None:
    """(channels, heads * value width): the weight by which an attention module's joined heads enter the image stream.

    In blocks that project attention and feed-forward together, the part that the attention meets. None if it is unknown,
    as of quantized weights.
    """
    joined = getattr(attention, "inner_dim", None)
    projection = getattr(attention, "to_out", None)
    if projection is not None:
        found = getattr(
            projection[0] if isinstance(projection, nn.ModuleList | nn.Sequential) else projection, "weight", None
        )
        return _float(found)
    together = _float(getattr(getattr(block, "proj_out", None), "weight", None))
    return None if together is None or joined is None else together[:, :joined]


def _float(weight: Any) -> Tensor | None:
    plain = isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim == 2
    return weight.detach() if plain and not weight.is_meta else None


def block_of(transformer: nn.Module, attention: nn.Module) -> nn.Module | None:
    """The block that an attention module is part of; None if it is the transformer itself."""
    names = {module: name for name, module in transformer.named_modules()}
    parent = transformer.get_submodule(names[attention].rpartition(".")[0])
    return None if parent is transformer else parent


def block_inputs(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a block's call by name."""
    bound = inspect.signature(type(block).forward).bind_partial(block, *args, **kwargs).arguments
    return dict(list(bound.items())[1:])  # without self


def embedded_text(transformer: nn.Module, embeddings: Tensor) -> Tensor:
    """Text embeddings as they enter the first block."""
    embedder: Any = transformer.get_submodule("context_embedder")
    made: Tensor = embedder(embeddings)
    return made


@torch.no_grad()
def run_text_stream(block: nn.Module, inputs: Mapping[str, Any], tokens: Tensor) -> Tensor | None:
    """What a block makes of other tokens in the place of its text: they see the image and each other, the image not them.

    ``inputs`` are the arguments of the block's own call, which is left as it is. None if the block ends the text stream.
    """
    own = {name: value for name, value in inputs.items() if name != "self"}
    if own.get(POSITIONS) is not None:
        text = own[TEXT].shape[1]
        own[POSITIONS] = tuple(_with_tokens(part, text, tokens.shape[1]) for part in own[POSITIONS])
    forward: Any = block.forward
    made: Tensor | None = forward(**{**own, TEXT: tokens})[0]
    return made


def _with_tokens(positions: Tensor, text: int, tokens: int) -> Tensor:
    """Rotary embeddings (text + image, width) for another number of text tokens, which all stand at the first one's place."""
    return torch.cat([positions[:1].expand(tokens, *positions.shape[1:]), positions[text:]])
