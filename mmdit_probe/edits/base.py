"""What all edits share: where they apply, and the sockets before and after the kernel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..attention.edges import on_edge
from ..attention.joint import JointAttention
from ..attention.layout import Region, TokenLayout, TokenStream
from ..attention.text_tokens import TextTokens
from .attention_block import AttentionBlock as AttentionBlock
from .attention_block import Rows, streamed

BatchRows = Literal["conditional", "all"] | Collection[int]
"""Which batch rows an edit changes."""


class Edit:
    """Base class of edits of an attention call: override `change` (its output), or `before` (its inputs).

    Edits of one probe are applied in order: first all that stand before the kernel, then, after it, those of its output.
    Batch rows, heads and steps where an edit does not apply stay bit for bit as they are.

    An edit of another edge than I2T works on that region as if it were I2T: ``block.image_probs`` are its probabilities,
    ``block.image_output`` the output of its queries, and ``block.values`` the values of its keys.

    Args:
        layer: a layer number or several; None for every layer.
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
    >>> class Sharper(Edit):
    ...     '''All scores times 1.2.'''
    ...     def before(self, call):
    ...         return call.changed(query=1.2 * call.query)
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [], edits=[Double(7, words=["red"]), Sharper(8, heads=[0])]):
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    """

    takes_edge: ClassVar[bool] = True
    """Whether the edit changes one edge, which may be another than I2T."""

    def __init__(
        self,
        layer: int | Collection[int] | None,
        *,
        heads: Collection[int] | None = None,
        steps: Collection[int] | None = None,
        words: Sequence[str] = (),
        kinds: Sequence[str] = (),
        edge: Region | str = Region.I2T,
        references: Collection[int] | None = None,
        batch: BatchRows = "conditional",
    ) -> None:
        self.layers = None if layer is None else frozenset([layer] if isinstance(layer, int) else layer)
        self.heads = None if heads is None else frozenset(heads)
        self.steps = None if steps is None else frozenset(steps)
        self.words, self.kinds = tuple(words), tuple(kinds)
        self.edge = self._checked(edge, references)
        self.references = None if references is None else frozenset(references)
        if isinstance(batch, str) and batch not in ("conditional", "all"):
            raise ValueError(f"{type(self).__name__}: batch must be 'conditional', 'all' or row numbers, got {batch!r}")
        self.batch: BatchRows = batch

    def __repr__(self) -> str:
        public = {name: v for name, v in vars(self).items() if not name.startswith("_")}
        shown = {
            name: sorted(v) if isinstance(v, frozenset) else v
            for name, v in public.items()
            if v is not None and v != Region.I2T and not (isinstance(v, tuple) and not v)
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def _checked(self, edge: Region | str, references: Collection[int] | None) -> Region:
        """The edge; `ValueError` if there is none of this name, or if words or references have nothing to do with it."""
        name = type(self).__name__
        if edge not in tuple(Region):
            raise ValueError(f"{name}: edge must be one of {', '.join(Region)}, got {edge!r}")
        edge = Region(edge)
        has_edge = self.takes_edge and type(self).before is Edit.before
        if not has_edge and (edge != Region.I2T or references is not None):
            raise ValueError(f"{name}: this edit does not change one edge alone; leave edge and references out")
        if (self.words or self.kinds) and edge.answering != TokenStream.TEXT:
            raise ValueError(f"{name}: words and kinds choose text keys; edge {edge} has none, use I2T, T2T or R2T")
        if references is not None and TokenStream.REFERENCE not in (edge.asking, edge.answering):
            raise ValueError(f"{name}: references choose reference images; edge {edge} has none, use I2R, R2I ...")
        return edge

    @property
    def is_identity(self) -> bool:
        """Whether the settings say to change nothing; the edit is then left out, so that no bit changes."""
        return False

    def before(self, call: JointAttention) -> JointAttention:
        """The call that the kernel is to compute: ``call.changed(query=..., key=..., value=..., mask=...)``.

        Only what it says of the batch rows and heads where the edit applies is taken.
        """
        return call

    def viewed(self, attention: JointAttention) -> JointAttention:
        """The call with the edit's edge as its I2T; `ValueError` if the model has no such edge."""
        return on_edge(attention, self.edge, self.references)

    def change(self, block: AttentionBlock) -> Float[Tensor, "batch heads queries width"] | AttentionBlock:
        """The edited output of a block: ``block.output`` with other values for the queries that the edit changes.

        An edit that can say how probabilities change returns the whole block, so that edits after it work on these.
        """
        raise TypeError(f"{type(self).__name__}: an edit must override change or before")

    def changes(self, layout: TokenLayout) -> tuple[tuple[slice, slice], ...]:
        """Positions of the queries and keys whose probabilities the edit changes by themselves; ``layout`` is as `viewed`."""
        return ((layout.image_queries, layout.text_keys),)

    def chosen_tokens(self, block: AttentionBlock) -> Float[Tensor, "batch 1 1 text"]:
        """1 at the text tokens to be changed, else 0; all 1 if the edit names neither words nor kinds."""
        return chosen_tokens(block, self.words, self.kinds)

    def apply(self, attention: JointAttention, output: Tensor) -> Tensor:
        """The edited output of one call; equal to ``output`` bit for bit wherever the edit does not apply."""
        return apply_in_order([self], attention, output, Rows(attention))

    def covers(self, layer: int) -> bool:
        """Whether the edit is for this layer."""
        return self.layers is None or layer in self.layers

    def acts_at(self, step: int) -> bool:
        """Whether the edit is for this step, and changes anything."""
        return not self.is_identity and (self.steps is None or step in self.steps)

    def chosen(self, attention: JointAttention) -> Bool[Tensor, "batch heads"]:
        """True at the batch rows and heads where the edit applies."""
        unknown = sorted(self.heads - set(range(attention.heads))) if self.heads is not None else []
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: heads {unknown} do not exist; there are heads 0 to {attention.heads - 1}"
            )
        chosen = np.repeat(self.chosen_rows(attention.batch, attention.conditional)[:, None], attention.heads, 1)
        if self.heads is not None:
            chosen &= np.isin(np.arange(attention.heads), sorted(self.heads))
        return torch.from_numpy(chosen).to(attention.query.device)

    def chosen_rows(self, batch: int, conditional: np.ndarray | None) -> np.ndarray:
        """(batch,) bool: the batch rows where the edit applies; ``conditional`` (batch,), those of the prompt if known."""
        if not isinstance(self.batch, str):
            return np.isin(np.arange(batch), list(self.batch))
        known = self.batch == "conditional" and conditional is not None
        return conditional.astype(bool) if known and conditional is not None else np.ones(batch, bool)


def apply_in_order(edits: Sequence[Edit], attention: JointAttention, output: Tensor, rows: Rows) -> Tensor:
    """The output of a call after the `change` of each edit, all of the same edge, in one pass over its blocks.

    ``rows`` is what edits before these have made of the call's queries; what these make is added.
    """
    acting = [(edit, edit.chosen(attention)) for edit in edits if edit.acts_at(attention.step)]
    acting = [(edit, chosen) for edit, chosen in acting if chosen.any()]
    if not acting:
        return output
    attention, edited = acting[0][0].viewed(attention), output.clone()
    rows.check(attention.layout, type(acting[0][0]).__name__)
    for block in streamed(attention, output, rows):
        for edit, chosen in acting:
            where = chosen[block.batch, block.heads, None, None]
            if where.any():
                block = block.where(where, edit.change(block))
        edited[block.batch, block.heads] = block.output.to(output.dtype)
        rows.keep(block)
    for edit, _ in acting:
        for part in edit.changes(attention.layout):
            rows.change(*part, type(edit).__name__)
    return edited


def chosen_tokens(block: AttentionBlock, words: Sequence[str], kinds: Sequence[str]) -> Float[Tensor, "batch 1 1 text"]:
    """1 at the text tokens of these words and kinds in each batch row, else 0; all 1 if neither is given.

    `ValueError` if the tokens are unknown or a word is in no batch row's prompt.
    """
    if not words and not kinds:
        return block.probs.new_ones(len(block.probs), 1, 1, block.layout.text)
    found = spelled_tokens(block.text, words, kinds)
    return torch.from_numpy(found[block.batch, None, None]).to(block.probs)


def spelled_tokens(text: TextTokens | None, words: Sequence[str], kinds: Sequence[str]) -> np.ndarray:
    """(batch, text) bool: the text tokens of these words and kinds; errors as in `chosen_tokens`."""
    if text is None:
        raise ValueError(
            "edit: words and kinds need the prompt's tokens, which are unknown here; probe the pipeline, not its "
            "transformer, and give it prompts, not embeddings"
        )
    found = np.isin(text.kinds, list(kinds))
    for word in words:
        where = text.spelling(word)
        if not where.any():
            raise ValueError(f"edit: {text.without(word)}")
        found |= where
    return found
