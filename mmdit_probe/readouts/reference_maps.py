"""Maps of the attention to and from reference images, each on its own grid."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.layout import Region, TokenLayout
from ..attention.reductions import Heads, MapSum
from .base import OverTextColumns, Readout, Reduction
from .fields import Field, Fields, check_heads, leading_dims

Named = tuple[str, tuple[str, ...], tuple[int, ...]]


class _ReferenceMaps(Readout):
    """Maps of one region, averaged over heads or of each head, with a field or two for each reference image."""

    region: Region

    def __init__(self, heads: Heads = "mean") -> None:
        check_heads(type(self).__name__, heads)
        self.heads: Heads = heads

    def check(self, layout: TokenLayout) -> None:
        """`ValueError` if the model lacks the region."""
        if self.region not in layout.regions:
            lacks = "reference images do not take part" if layout.references else "no reference images are given"
            raise ValueError(
                f"{type(self).__name__}: there is no {self.region} attention here, as {lacks}; "
                f"there is {', '.join(region for region in Region if region in layout.regions)}"
            )

    def field(self, maps: Tensor, on: Named, long_name: str, *last: str) -> Field:
        """Maps (batch, [head,] tokens, ...) as a field on a grid; ``last`` are further axes behind it."""
        _, dims, sizes = on
        leading = leading_dims(self.heads)
        over = "" if self.heads == "all" else ", mean over heads"
        return Field((*leading, *dims, *last), maps.unflatten(len(leading), sizes), long_name + over)

    def numbers(self, layout: TokenLayout, heads: int, each: int) -> int:
        """Numbers stored for ``each`` reference token and head, if the region exists."""
        return each * layout.reference * (1 if self.heads == "mean" else heads) if self.region in layout.regions else 0


class I2RMaps(_ReferenceMaps):
    """Where the image looks in each reference image, and which of its places do: fields for each reference, from 1.

    - ``i2r_1`` (batch, [head,] reference_1_row, reference_1_col): probability that image queries give to each place of the
      reference, mean over image queries; the sum over the reference is its share of I2R.
    - ``i2r_share_1`` (batch, [head,] row, col): each image query's probability mass on the reference.

    In [0, 1], of the joint softmax. A reference without a known grid has the single axis ``reference_1_token``. ``heads`` is
    "mean" (average over heads) or "all" (a map for each).

    Raises:
        ValueError: there are no reference images.

    >>> import torch
    >>> from mmdit_probe import Extra, I2RMaps, JointAttention, TokenLayout
    >>> from mmdit_probe.attention import AttentionCall
    >>> layout = TokenLayout((4, 6), text=7, extras=(Extra("reference", 6, "last", grid=(2, 3)),))
    >>> query, key, value = torch.randn(3, 1, 2, layout.tokens, 8)
    >>> found = I2RMaps().measure(JointAttention(AttentionCall(query, key, value), layout))
    >>> found["i2r_1"].dims, found["i2r_share_1"].dims
    (('batch', 'reference_1_row', 'reference_1_col'), ('batch', 'row', 'col'))
    """

    region = Region.I2R

    def measure(self, attention: JointAttention) -> Fields:
        layout, fields = attention.layout, {}
        self.check(layout)
        for named, keys in zip(_named(layout), layout.reference_keys, strict=True):
            onto, share = _onto_and_share(attention, layout.image_queries, keys, self.heads)
            name = "probability that image queries give to the place of the reference, mean over image queries"
            fields[f"i2r_{named[0]}"] = self.field(onto, named, name)
            name = "probability mass that the image query gives to the reference"
            fields[f"i2r_share_{named[0]}"] = self.field(share, _image(layout), name)
        return fields

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        shares = layout.image * len(layout.references) if self.region in layout.regions else 0
        return self.numbers(layout, heads, 1) + shares * (1 if self.heads == "mean" else heads)


class R2IMaps(_ReferenceMaps):
    """Where each reference image looks in the image, and which of its places do: fields for each reference, from 1.

    - ``r2i_1`` (batch, [head,] row, col): probability that the reference's queries give to each image position, mean over
      the reference's queries.
    - ``r2i_share_1`` (batch, [head,] reference_1_row, reference_1_col): each reference query's mass on the image.

    In [0, 1], of the joint softmax; axes, ``heads`` and errors as in `I2RMaps`; references that do not attend are refused, too.
    """

    region = Region.R2I

    def measure(self, attention: JointAttention) -> Fields:
        layout, fields = attention.layout, {}
        self.check(layout)
        for named, rows in zip(_named(layout), layout.reference_queries, strict=True):
            onto, share = _onto_and_share(attention, rows, layout.image_keys, self.heads)
            name = "probability that the reference's queries give to the image position, mean over these queries"
            fields[f"r2i_{named[0]}"] = self.field(onto, _image(layout), name)
            name = "probability mass that the reference's query gives to the image"
            fields[f"r2i_share_{named[0]}"] = self.field(share, named, name)
        return fields

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        onto = layout.image * len(layout.references) if self.region in layout.regions else 0
        return self.numbers(layout, heads, 1) + onto * (1 if self.heads == "mean" else heads)


class R2TMaps(_ReferenceMaps):
    """``r2t_1`` (batch, [head,] reference_1_row, reference_1_col, token): each reference query's probability of each text token.

    As `I2TMaps`, on each reference image's own grid: which of its places listen to a word. In [0, 1]; axes, ``heads`` and
    errors as in `I2RMaps`; references that do not attend are refused, too.
    """

    region = Region.R2T

    def reduction(self, attention: JointAttention) -> Reduction:
        layout = attention.layout
        self.check(layout)
        sums = [MapSum(attention, _length(rows), layout.text, self.heads) for rows in layout.reference_queries]
        name = "probability with which the reference's query attends to the text token"

        def add(block: Block) -> None:
            for total, rows in zip(sums, layout.reference_queries, strict=True):
                total.add_values(block, block.probs[:, :, rows])

        def result() -> Fields:
            pairs = zip(_named(layout), sums, strict=True)
            return {f"r2t_{named[0]}": self.field(total.maps, named, name, "token") for named, total in pairs}

        return OverTextColumns(add, result)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return self.numbers(layout, heads, layout.text)


class T2RMaps(_ReferenceMaps):
    """``t2r_1`` (batch, [head,] reference_1_row, reference_1_col, token): each text token's probability of each place.

    As `T2IMaps`, on each reference image's own grid: where in it a word looks. In [0, 1]; axes, ``heads`` and errors as in
    `I2RMaps`; models whose text does not attend are refused, too.
    """

    region = Region.T2R

    def measure(self, attention: JointAttention) -> Fields:
        layout, fields = attention.layout, {}
        self.check(layout)
        name = "probability with which the text token attends to the place of the reference"
        for named, keys in zip(_named(layout), layout.reference_keys, strict=True):
            total = MapSum(attention, layout.text, _length(keys), self.heads)
            for block in attention.blocks(layout.text_queries, keys):
                total.add_values(block, block.probs)
            fields[f"t2r_{named[0]}"] = self.field(total.maps.transpose(-1, -2), named, name, "token")
        return fields

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return self.numbers(layout, heads, layout.text)


def _onto_and_share(attention: JointAttention, rows: slice, cols: slice, heads: Heads) -> tuple[Tensor, Tensor]:
    """(batch, [head,] cols) mean over the queries, and (batch, [head,] rows) sum over the keys."""
    onto = MapSum(attention, 1, _length(cols), heads)
    share = MapSum(attention, _length(rows), 1, heads)
    for block in attention.blocks(rows, cols):
        onto.add_values(block, block.probs.mean(2, keepdim=True))
        share.add_values(block, block.probs.sum(3, keepdim=True))
    return onto.maps[..., 0, :], share.maps[..., 0]


def _length(places: slice) -> int:
    return places.stop - places.start


def _image(layout: TokenLayout) -> Named:
    return "", layout.grid_dims, layout.grid


def _named(layout: TokenLayout) -> Iterator[Named]:
    """Each reference's number, and the names and sizes of its axes."""
    for number, reference in enumerate(layout.references, 1):
        sizes = (reference.tokens,) if reference.grid is None else reference.grid
        names = ("token",) if reference.grid is None else ("frame", "row", "col")[-len(sizes) :]
        yield str(number), tuple(f"reference_{number}_{name}" for name in names), sizes
