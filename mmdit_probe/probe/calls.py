"""TransformerCall: one forward pass of the transformer, and what its readouts left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..attention.joint import JointAttention
from ..attention.kernels import AttentionCall
from ..attention.layout import TokenLayout
from ..attention.reordered import View
from ..attention.text_tokens import TextTokens
from ..pipelines.encoded import CONDITIONAL
from ..readouts.fields import Field, Fields
from .sampling_steps import SamplingTime

LayoutOf = Callable[[TokenLayout, int, int], TokenLayout | None]
"""From the forward pass's layout to that of an attention call with so many queries and keys; None to ignore it."""


@dataclass
class TransformerCall:
    """One forward pass of the transformer.

    Attributes:
        time: when in the sampling loop it happens.
        layout: where its tokens are.
        batch: number of batch rows.
        text: what its text positions hold; None if unknown.
        branches: (batch,) each row's branch of guidance: "conditional" (the prompt), "unconditional" (the negative prompt)
            or "perturbed" (the prompt, with something left out); None if unknown.
        in_run: whether a pipeline is generating.
        view: how its attention calls are brought into the layout's order; None if they are in it.
        fields: the readouts' fields, by layer, on the CPU.
        layouts: each recorded layer's layout.
        kernels: names of the kernels that ran.
        silent: of layers that ran without an attention call, what answered in its place.
        complete: whether the forward pass ran to its end.
    """

    time: SamplingTime
    layout: TokenLayout
    batch: int
    text: TextTokens | None = None
    branches: np.ndarray | None = None
    in_run: bool = False
    view: View | None = None
    fields: dict[int, Fields] = field(default_factory=dict)
    layouts: dict[int, TokenLayout] = field(default_factory=dict)
    kernels: set[str] = field(default_factory=set)
    silent: dict[int, str] = field(default_factory=dict)
    complete: bool = False
    _rows_done: dict[int, int] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The sampling step, from 0."""
        return self.time.step

    @property
    def conditional(self) -> np.ndarray | None:
        """(batch,) whether each row carries the prompt, unperturbed; None if unknown."""
        return None if self.branches is None else self.branches == CONDITIONAL

    def attention(self, layer: int, called: AttentionCall, layout_of: LayoutOf) -> JointAttention | None:
        """One of the layer's attention calls as the layout describes it; None if it is not one to read.

        A model may call the attention once for all batch rows, or once for each.
        """
        rows = self._next_rows(layer, called.batch if self.view is None else self.view.batch(called))
        arranged = called if self.view is None else self.view.rows(rows).of(called)
        if arranged is None:
            return None
        called = arranged
        layout = layout_of(self.layout, called.query.shape[-2], called.key.shape[-2])
        if layout is None:
            return None
        if rows.stop > self.batch:
            raise ValueError(
                f"Probe: layer {layer}'s attention call has {called.batch} batch rows, the forward pass {self.batch}: the model "
                f"puts frames or parts of a sample into the batch; it needs a family of its own"
            )
        text = self.text if self.text is None or called.batch == self.batch else self.text.rows(rows)
        conditional = None if self.conditional is None else self.conditional[rows]
        attention = JointAttention(called, layout, layer, self.step, text, conditional=conditional)
        self._rows_done[layer] = rows.stop
        return attention

    def _next_rows(self, layer: int, count: int) -> slice:
        """The batch rows of a layer's next attention call: all, or those after the last call's."""
        start = 0 if count == self.batch else self._rows_done.get(layer, 0)
        return slice(start, start + count)

    def is_done(self, layer: int) -> bool:
        """Whether all batch rows have passed the layer."""
        return self._rows_done.get(layer, 0) >= self.batch

    def add(self, attention: JointAttention, fields: Fields) -> None:
        """Store what the readouts made of an attention call; further batch rows are appended."""
        layer = attention.layer
        self.layouts[layer] = attention.layout
        self.kernels.add(attention.method)
        known = self.fields.get(layer, {})
        complete = not known or len(next(iter(known.values())).values) == self.batch
        self.fields[layer] = fields if complete else _joined(known, fields)


def _joined(known: Fields, more: Fields) -> Fields:
    return {name: with_values(f, torch.cat([known[name].values, f.values])) for name, f in more.items()}


def with_values(like: Field, values: Tensor) -> Field:
    """A field with other values."""
    return Field(like.dims, values, like.long_name, like.units, like.axes)
