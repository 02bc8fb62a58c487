"""Correspondence: where each image token finds its like in another image, or in the other frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..attention.joint import JointAttention
from ..attention.kernels import exact
from ..attention.layout import Region, TokenLayout
from ..configs.correspondence import Match
from .base import Readout
from .fields import Axis, Field, Fields
from .output_similarity import joined_outputs


class Correspondence(Readout):
    """Where each image token finds its like: the best match on another image's grid, or on each frame's of the same video.

    - ``match_row`` and ``match_col`` (batch, [to_frame,] row, col): the place of the best match, the first of equal ones.
    - ``match_confidence`` (batch, [to_frame,] row, col): of "qk" the match's probability in [0, 1], of features its cosine.
    - ``match_mass`` (batch, to_frame): frames and "qk" only; mean probability that the frame's queries give to all keys of the
      other frame, in the joint softmax over all keys, in [0, 1].

    Two images are the batch rows 2n and 2n + 1 of one forward pass, each matched with the other; queries and keys are those of
    the two passes at the same noise level, and nothing attends from one to the other. Queries and keys carry their positions
    (rotary or added), so that "qk" may prefer the same place whatever is there. NaN where a mask lets a token attend to
    nothing of the frame.

    Args:
        match: "qk", probabilities of the softmax over the other's image tokens alone, mean over heads (DiffTrack, arXiv
            2506.17220); or "output" (of the attention, before its projection), "query", "key" or "value", the cosine of these
            vectors, heads side by side.
        frame: None for pairs of images; of a video the frame whose tokens are matched to every frame, itself included.

    Raises:
        ValueError: the batch rows are no pairs; there is no such frame; image does not attend to image in this model.

    >>> import torch
    >>> from mmdit_probe import JointAttention, TokenLayout
    >>> from mmdit_probe.attention import AttentionCall
    >>> layout, vectors = TokenLayout((2, 3), text=1), 9 * torch.eye(7)[None, None]
    >>> shifted = vectors.clone()
    >>> shifted[:, :, :6] = vectors[:, :, :6].roll(1, 2)  # the second image is the first, one token on
    >>> both = torch.cat([vectors, shifted])
    >>> fields = Correspondence().measure(JointAttention(AttentionCall(both, both, both), layout))
    >>> (fields["match_row"].values * 3 + fields["match_col"].values)[0].int().tolist()
    [[1, 2, 3], [4, 5, 0]]
    """

    def __init__(self, match: Match = "qk", frame: int | None = None) -> None:
        if match not in get_args(Match):
            raise ValueError(f"Correspondence: match must be one of {', '.join(get_args(Match))}, got {match!r}")
        if frame is not None and frame < 0:
            raise ValueError(f"Correspondence: frame must be 0 or more, got {frame}")
        self.match: Match = match
        self.frame = frame

    def measure(self, attention: JointAttention) -> Fields:
        layout = attention.layout
        if self.match not in ("output", "query") and Region.I2I not in layout.regions:
            raise ValueError(
                "Correspondence: image does not attend to image in this model's layers; match output or query"
            )
        return self._pairs(attention) if self.frame is None else self._frames(attention, self.frame)

    def _pairs(self, attention: JointAttention) -> Fields:
        layout = attention.layout
        if attention.batch % 2 or len(layout.grid) != 2:
            raise ValueError(
                f"Correspondence: pairs of images are an even number of batch rows, got {attention.batch} of grid "
                f"{layout.grid}; give frame for a video"
            )
        other = torch.arange(attention.batch, device=attention.query.device) ^ 1
        if self.match == "qk":
            query = exact(attention.query[:, :, layout.image_queries].detach())
            key = exact(attention.full_key[:, :, layout.image_keys].detach())

            def alike(rows: slice) -> Tensor:
                return (query[:, :, rows] @ key[other].transpose(-1, -2) * attention.scale).softmax(-1).mean(1)
        else:
            vectors = functional.normalize(vectors_of(attention, self.match), dim=-1)

            def alike(rows: slice) -> Tensor:
                return vectors[:, rows] @ vectors[other].transpose(-1, -2)

        best, place = _best(alike, layout.image, attention.row_chunk)
        return self._fields(
            ("batch", *layout.grid_dims), best.unflatten(-1, layout.grid), place.unflatten(-1, layout.grid), layout
        )

    def _frames(self, attention: JointAttention, frame: int) -> Fields:
        layout = attention.layout
        if len(layout.grid) != 3 or frame >= layout.grid[0]:
            there = f"{layout.grid[0]} frames" if len(layout.grid) == 3 else "images without frames"
            raise ValueError(
                f"Correspondence: frame {frame} is not among this model's {there}; choose another, or none for images"
            )
        frames, size = layout.grid[0], layout.image // layout.grid[0]
        first = layout.image_queries.start + frame * size
        found, masses = [], []
        if self.match != "qk":
            vectors = functional.normalize(vectors_of(attention, self.match), dim=-1).unflatten(1, (frames, size))
        for number in range(frames):
            if self.match == "qk":
                start = layout.image_keys.start + number * size
                own = _FrameProbs(attention, first, slice(start, start + size))
                found.append(_best(own, size, attention.row_chunk))
                masses.append(own.mass / size)
            else:

                def alike(rows: slice, number: int = number) -> Tensor:
                    return vectors[:, frame, rows] @ vectors[:, number].transpose(-1, -2)

                found.append(_best(alike, size, attention.row_chunk))
        best, place = (torch.stack(parts, 1).unflatten(-1, layout.grid[1:]) for parts in zip(*found, strict=True))
        axis = Axis(
            "to_frame", tuple(map(str, range(frames))), f"frame in which the tokens of frame {frame} are looked for"
        )
        fields = self._fields(("batch", "to_frame", "row", "col"), best, place, layout, (axis,))
        if masses:
            name = f"mean probability that the queries of frame {frame} give to the frame's keys, mean over heads"
            fields["match_mass"] = Field(("batch", "to_frame"), torch.stack(masses, 1), name, axes=(axis,))
        return fields

    def _fields(
        self, dims: tuple[str, ...], best: Tensor, place: Tensor, layout: TokenLayout, axes: tuple[Axis, ...] = ()
    ) -> Fields:
        cols = layout.grid[-1]
        what = "probability" if self.match == "qk" else f"cosine of the {self.match} vectors"
        values = {
            "match_row": (place // cols, "row of the token's best match in the other image or frame"),
            "match_col": (place % cols, "column of the token's best match in the other image or frame"),
            "match_confidence": (best, f"{what} of the token's best match in the other image or frame"),
        }
        lost = best.isnan()
        return {
            name: Field(dims, value.float().masked_fill(lost, torch.nan), said, axes=axes)
            for name, (value, said) in values.items()
        }

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return 3 * layout.image + (0 if self.frame is None else layout.grid[0])


class _FrameProbs:
    """The softmax (batch, rows, keys) of a frame's queries over some keys alone, mean over heads.

    ``mass`` (batch,) is the sum over the rows asked for of what these keys get in the joint softmax.
    """

    def __init__(self, attention: JointAttention, first: int, keys: slice) -> None:
        self.attention, self.first, self.keys = attention, first, keys
        self.mass = attention.query.new_zeros(attention.batch, dtype=torch.float32)

    def __call__(self, rows: slice) -> Tensor:
        own = slice(self.first + rows.start, self.first + rows.stop)
        scores = self.attention.scores(own, self.keys)
        joint = (scores - self.attention.lse[:, :, own, None]).exp()
        self.mass += joint.sum((-2, -1)).mean(1)
        return scores.softmax(-1).mean(1)


def vectors_of(attention: JointAttention, match: Match) -> Float[Tensor, "batch image channels"]:
    """The image tokens' attention output, query, key or value, heads side by side, in fp32."""
    layout = attention.layout
    if match == "output":
        return joined_outputs(attention, layout.image_queries)
    tokens = layout.image_queries if match == "query" else layout.image_keys
    return exact(getattr(attention, match)[:, :, tokens].detach()).transpose(1, 2).flatten(2)


def _best(alike: Callable[[slice], Tensor], tokens: int, chunk: int) -> tuple[Tensor, Tensor]:
    """The largest likeness (batch, tokens) of each token and its place, some rows of (batch, rows, others) at a time."""
    parts = [alike(rows).max(-1) for rows in _chunks(tokens, chunk)]
    return torch.cat([part.values for part in parts], -1), torch.cat([part.indices for part in parts], -1)


def _chunks(tokens: int, size: int) -> Iterator[slice]:
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))
