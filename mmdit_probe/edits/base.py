"""What all edits share: where they apply, and the streamed view they work on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmdit_probe.attention.joint import Block, JointAttention
from mmdit_probe.attention.layout import TokenLayout
from mmdit_probe.attention.text_tokens import TextTokens

Rows = Literal["conditional", "all"] | Collection[int]


@dataclass(frozen=True, eq=False)
class AttentionBlock:
    """Some batch rows and heads of one attention call, in fp32.

    ``probs`` are the text columns (all queries, text keys), ``values`` the text values, ``output`` the output so far,
    ``lse`` the log-sum-exp of each query's scores.
    """

    probs: Float[Tensor, "batch heads queries text"]
    values: Float[Tensor, "batch heads text width"]
    output: Float[Tensor, "batch heads queries width"]
    lse: Float[Tensor, "batch heads queries"]
    layout: TokenLayout
    text: TextTokens | None
    batch: slice

    @property
    def image_probs(self) -> Float[Tensor, "batch heads image text"]:
        """I2T: image queries on text keys."""
        return self.probs[:, :, self.layout.image_queries]

    @property
    def image_output(self) -> Float[Tensor, "batch heads image width"]:
        """The image queries' output so far."""
        return self.output[:, :, self.layout.image_queries]

    def with_image(self, output: Float[Tensor, "batch heads image width"]) -> Tensor:
        """The output with its image queries' rows replaced."""
        edited = self.output.clone()
        edited[:, :, self.layout.image_queries] = output
        return edited


class Edit:
    """Base class: override `change`.

    Args:
        layer: a layer number or several.
        heads: head numbers, None for all.
        steps: sampling steps (0 is the first, the noisiest), None for all.
        words: words of the prompt; the edit concerns their text tokens alone.
        kinds: kinds of text tokens (start, word, end, padding, absent), likewise.
        rows: "conditional" leaves the batch rows of the negative prompt alone, where it is known which they are;
            "all" edits every row; or row numbers.
    """

    def __init__(
        self,
        layer: int | Collection[int],
        *,
        heads: Collection[int] | None = None,
        steps: Collection[int] | None = None,
        words: Sequence[str] = (),
        kinds: Sequence[str] = (),
        rows: Rows = "conditional",
    ) -> None:
        self.layers = frozenset([layer] if isinstance(layer, int) else layer)
        self.heads = None if heads is None else frozenset(heads)
        self.steps = None if steps is None else frozenset(steps)
        self.words, self.kinds = tuple(words), tuple(kinds)
        if isinstance(rows, str) and rows not in ("conditional", "all"):
            raise ValueError(f"{type(self).__name__}: rows must be 'conditional', 'all' or row numbers, got {rows!r}")
        self.rows: Rows = rows

    def __repr__(self) -> str:
        shown = {
            name: sorted(v) if isinstance(v, frozenset) else v for name, v in vars(self).items() if v not in (None, ())
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def change(self, view: AttentionBlock) -> Float[Tensor, "batch heads queries width"]:
        """The edited output of a view; rows of ``view.output`` that the edit does not concern stay as they are."""
        raise TypeError(f"{type(self).__name__}: an edit must override change")

    def chosen_tokens(self, view: AttentionBlock) -> Float[Tensor, "batch 1 1 text"]:
        """1 at the text tokens that the edit concerns, else 0; all 1 if it names neither words nor kinds."""
        return chosen_tokens(view, self.words, self.kinds)

    def apply(self, attention: JointAttention, output: Tensor) -> Tensor:
        """The edited output of one call; exactly ``output`` wherever the edit does not apply."""
        if self.steps is not None and attention.step not in self.steps:
            return output
        chosen = self._chosen(attention)
        if not chosen.any():
            return output
        values = text_values(attention)
        edited = output.clone()
        for block in attention.text_columns():
            if not chosen[block.batch, block.heads].any():
                continue
            part = output[block.batch, block.heads]
            changed = self.change(_view(attention, block, values, part)).to(output.dtype)
            where = chosen[block.batch, block.heads, None, None]
            edited[block.batch, block.heads] = torch.where(where, changed, part)
        return edited

    def _chosen(self, attention: JointAttention) -> Tensor:
        """(batch, heads): True where the edit applies."""
        unknown = sorted(self.heads - set(range(attention.heads))) if self.heads is not None else []
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: heads {unknown} do not exist; there are heads 0 to {attention.heads - 1}"
            )
        chosen = np.ones((attention.batch, attention.heads), bool)
        if self.heads is not None:
            chosen &= np.isin(np.arange(attention.heads), sorted(self.heads))
        if not isinstance(self.rows, str):
            chosen &= np.isin(np.arange(attention.batch), list(self.rows))[:, None]
        elif self.rows == "conditional" and attention.text is not None:
            chosen &= attention.text.conditional.astype(bool)[:, None]
        return torch.from_numpy(chosen).to(attention.query.device)


def text_values(attention: JointAttention) -> Float[Tensor, "batch heads text width"]:
    """The text values in fp32, with as many heads as the queries."""
    groups = attention.heads // attention.value.shape[1]
    return attention.value[:, :, attention.layout.text_keys].float().repeat_interleave(groups, 1)


def _view(attention: JointAttention, block: Block, values: Tensor, output: Tensor) -> AttentionBlock:
    part = block.batch, block.heads
    return AttentionBlock(
        block.probs, values[part], output.float(), attention.lse[part], attention.layout, attention.text, block.batch
    )


def chosen_tokens(view: AttentionBlock, words: Sequence[str], kinds: Sequence[str]) -> Float[Tensor, "batch 1 1 text"]:
    """1 at the text tokens of the given words and kinds in each batch row, else 0; all 1 if neither is given.

    `ValueError` if the tokens are not known, or a word is in no row's prompt.
    """
    if not words and not kinds:
        return torch.ones(len(view.probs), 1, 1, view.layout.text, device=view.probs.device)
    if view.text is None:
        raise ValueError(
            "edit: words and kinds need a pipeline whose prompt was seen; probe the pipeline, not the bare model"
        )
    found = np.isin(view.text.kinds, list(kinds))
    for word in words:
        where = view.text.spelling(word)
        if not where.any():
            raise ValueError(f"edit: {view.text.without(word)}")
        found |= where
    return torch.from_numpy(found[view.batch, None, None]).to(view.probs)
