"""What all edits share: where they apply, and the streamed blocks that they work on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.blocks import Block
from ..attention.edges import on_edge
from ..attention.joint import JointAttention
from ..attention.kernels import exact
from ..attention.layout import Region, TokenLayout, TokenStream
from ..attention.text_tokens import TextTokens

BatchRows = Literal["conditional", "all"] | Collection[int]
"""Which batch rows an edit changes."""


@dataclass(frozen=True, eq=False)
class AttentionBlock:
    """Some batch rows and heads of one attention call, in fp32, or float64 if the call is.

    Attributes:
        probs: the text columns: probabilities of all queries on the text keys.
        values: the text values, with as many heads as the queries.
        output: the output so far.
        lse: the log-sum-exp of each query's scores.
        layout: which tokens are image and which are text.
        text: what the text positions of all batch rows hold; None if unknown.
        batch: which batch rows of the call these are.
        heads: which heads of the call these are.
        attention: the whole call.
    """

    probs: Float[Tensor, "batch heads queries text"]
    values: Float[Tensor, "batch heads text width"]
    output: Float[Tensor, "batch heads queries width"]
    lse: Float[Tensor, "batch heads queries"]
    layout: TokenLayout
    text: TextTokens | None
    batch: slice
    heads: slice
    attention: JointAttention

    @property
    def image_probs(self) -> Float[Tensor, "batch heads image text"]:
        """I2T: image queries on text keys."""
        return self.probs[:, :, self.layout.image_queries]

    @property
    def image_output(self) -> Float[Tensor, "batch heads image width"]:
        """The image queries' output so far."""
        return self.output[:, :, self.layout.image_queries]

    def with_image(self, output: Float[Tensor, "batch heads image width"]) -> Tensor:
        """The output so far with that of the image queries replaced."""
        edited = self.output.clone()
        edited[:, :, self.layout.image_queries] = output
        return edited


class Edit:
    """Base class of edits: override `change`.

    An edit of another edge than I2T works on that region as if it were I2T: ``block.image_probs`` are its probabilities,
    ``block.image_output`` the output of its queries, and ``block.values`` the values of its keys.

    Args:
        layer: a layer number or several.
        heads: head numbers; None for all.
        steps: sampling steps (0 is the first and noisiest); None for all.
        words: words of the prompt, whose text tokens are to be changed.
        kinds: kinds of text tokens to be changed: start, word, end, padding, absent.
        edge: the region that is changed, queries to keys: image (I), text (T) or reference images (R), such as "R2T".
        references: numbers of the reference images, from 1, that an edge with R means; None for all.
        batch: which batch rows to change. "conditional": those of the prompt, not those of the negative prompt (all if
            they are unknown because the transformer is called by itself; `ValueError` if a pipeline calls it in a way that
            does not tell); "all"; or row numbers.

    >>> from mmdit_probe import Edit, Probe, load_pipeline
    >>> class Double(Edit):
    ...     '''Image queries take twice as much from the chosen text tokens.'''
    ...     def change(self, block):
    ...         from_text = (block.image_probs * self.chosen_tokens(block)) @ block.values
    ...         return block.with_image(block.image_output + from_text)
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [], edits=[Double(7, words=["red"])]):
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    """

    def __init__(
        self,
        layer: int | Collection[int],
        *,
        heads: Collection[int] | None = None,
        steps: Collection[int] | None = None,
        words: Sequence[str] = (),
        kinds: Sequence[str] = (),
        edge: Region | str = Region.I2T,
        references: Collection[int] | None = None,
        batch: BatchRows = "conditional",
    ) -> None:
        self.layers = frozenset([layer] if isinstance(layer, int) else layer)
        self.heads = None if heads is None else frozenset(heads)
        self.steps = None if steps is None else frozenset(steps)
        self.words, self.kinds = tuple(words), tuple(kinds)
        self.edge = self._checked(edge, references)
        self.references = None if references is None else frozenset(references)
        if isinstance(batch, str) and batch not in ("conditional", "all"):
            raise ValueError(f"{type(self).__name__}: batch must be 'conditional', 'all' or row numbers, got {batch!r}")
        self.batch: BatchRows = batch

    def __repr__(self) -> str:
        shown = {
            name: sorted(v) if isinstance(v, frozenset) else v
            for name, v in vars(self).items()
            if v not in (None, (), Region.I2T)
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def _checked(self, edge: Region | str, references: Collection[int] | None) -> Region:
        """The edge; `ValueError` if there is none of this name, or if words or references have nothing to do with it."""
        name = type(self).__name__
        if edge not in tuple(Region):
            raise ValueError(f"{name}: edge must be one of {', '.join(Region)}, got {edge!r}")
        edge = Region(edge)
        if (self.words or self.kinds) and edge.answering != TokenStream.TEXT:
            raise ValueError(f"{name}: words and kinds choose text keys; edge {edge} has none, use I2T, T2T or R2T")
        if references is not None and TokenStream.REFERENCE not in (edge.asking, edge.answering):
            raise ValueError(f"{name}: references choose reference images; edge {edge} has none, use I2R, R2I ...")
        return edge

    def viewed(self, attention: JointAttention) -> JointAttention:
        """The call with the edit's edge as its I2T; `ValueError` if the model has no such edge."""
        return on_edge(attention, self.edge, self.references)

    def change(self, block: AttentionBlock) -> Float[Tensor, "batch heads queries width"]:
        """The edited output of a block: ``block.output`` with other values for the queries that the edit changes."""
        raise TypeError(f"{type(self).__name__}: an edit must override change")

    def chosen_tokens(self, block: AttentionBlock) -> Float[Tensor, "batch 1 1 text"]:
        """1 at the text tokens to be changed, else 0; all 1 if the edit names neither words nor kinds."""
        return chosen_tokens(block, self.words, self.kinds)

    def apply(self, attention: JointAttention, output: Tensor) -> Tensor:
        """The edited output of one call; equal to ``output`` bit for bit wherever the edit does not apply."""
        if self.steps is not None and attention.step not in self.steps:
            return output
        chosen = self.chosen(attention)
        if not chosen.any():
            return output
        attention = self.viewed(attention)
        values = text_values(attention)
        edited = output.clone()
        for block in attention.text_columns():
            if not chosen[block.batch, block.heads].any():
                continue
            part = output[block.batch, block.heads]
            changed = self.change(_attention_block(attention, block, values, part)).to(output.dtype)
            where = chosen[block.batch, block.heads, None, None]
            edited[block.batch, block.heads] = torch.where(where, changed, part)
        return edited

    def chosen(self, attention: JointAttention) -> Tensor:
        """(batch, heads): True where the edit applies."""
        unknown = sorted(self.heads - set(range(attention.heads))) if self.heads is not None else []
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: heads {unknown} do not exist; there are heads 0 to {attention.heads - 1}"
            )
        chosen = np.ones((attention.batch, attention.heads), bool)
        if self.heads is not None:
            chosen &= np.isin(np.arange(attention.heads), sorted(self.heads))
        if not isinstance(self.batch, str):
            chosen &= np.isin(np.arange(attention.batch), list(self.batch))[:, None]
        elif self.batch == "conditional" and attention.conditional is not None:
            chosen &= attention.conditional[:, None]
        return torch.from_numpy(chosen).to(attention.query.device)


def text_values(attention: JointAttention) -> Float[Tensor, "batch heads text width"]:
    """The text values in fp32, or float64 if the call is, with as many heads as the queries."""
    groups = attention.heads // attention.value.shape[1]
    return exact(attention.value[:, :, attention.layout.text_keys]).repeat_interleave(groups, 1)


def _attention_block(attention: JointAttention, block: Block, values: Tensor, output: Tensor) -> AttentionBlock:
    part = block.batch, block.heads
    own = exact(output), attention.lse[part]
    return AttentionBlock(block.probs, values[part], *own, attention.layout, attention.text, *part, attention)


def chosen_tokens(block: AttentionBlock, words: Sequence[str], kinds: Sequence[str]) -> Float[Tensor, "batch 1 1 text"]:
    """1 at the text tokens of these words and kinds in each batch row, else 0; all 1 if neither is given.

    `ValueError` if the tokens are unknown or a word is in no batch row's prompt.
    """
    if not words and not kinds:
        return block.probs.new_ones(len(block.probs), 1, 1, block.layout.text)
    if block.text is None:
        raise ValueError(
            "edit: words and kinds need the prompt's tokens, which are unknown here; probe the pipeline, not its "
            "transformer, and give it prompts, not embeddings"
        )
    found = np.isin(block.text.kinds, list(kinds))
    for word in words:
        where = block.text.spelling(word)
        if not where.any():
            raise ValueError(f"edit: {block.text.without(word)}")
        found |= where
    return torch.from_numpy(found[block.batch, None, None]).to(block.probs)
