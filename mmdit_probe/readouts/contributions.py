"""Contributions: what words add to the image stream, in the layer's own units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from .base import OverTextColumns, Readout, Reduction
from .fields import Axis, Field, Fields
from .output_similarity import joined_outputs

Words = Sequence[str | Sequence[int]]
_UNITS = "in the model's own units"


class Contributions(Readout):
    """How much words change the image stream: the L2 norm of what their tokens add to the layer's output.

    The attention output of an image query is a sum over keys, ``sum_j p_ij v_j``, head by head, and the output projection is
    linear; so the part that a word's tokens S add is ``|| sum_h W_O^h sum_{j in S} p_ij v_j ||``, exactly, without the
    projection's bias and before the block's gate (compare Localizing Knowledge in DiTs, arXiv 2505.18832).

    - ``contribution`` (batch, word, row, col): of each word, at each image position.
    - ``contribution_total`` (batch, row, col): of all keys together. Vectors add up, their lengths need not.
    - ``residual_norm`` (batch, row, col): length of the image stream's vector as it enters the block, before any
      normalization; NaN where it is not known which tensor that is.

    Args:
        words: words or phrases of the prompt, found in every encoder and with all their occurrences (``circle#2``: the second);
            or the text positions of each word. NaN for batch rows of a negative prompt, which does not have the words.

    Raises:
        ValueError: there is no word, a word is not in the prompt, or the layer's output projection can't be read (quantized
            weights).

    >>> from mmdit_probe import Contributions, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [Contributions(["red circle", "grass"])], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent", max_sequence_length=0)
    >>> record = probe.dataset("conditional").isel(call=0, batch=0, layer=0)
    >>> dict(record["contribution"].sizes), record["word"].values.tolist()
    ({'word': 2, 'row': 8, 'col': 8}, ['red circle', 'grass'])
    """

    reads_block = True

    def __init__(self, words: Words) -> None:
        if isinstance(words, str) or not words or not all(len(word) for word in words):
            raise ValueError("Contributions: give at least one word, such as ['red circle'], or its text positions")
        self.words = tuple(word if isinstance(word, str) else tuple(word) for word in words)

    def reduction(self, attention: JointAttention) -> Reduction:
        chosen = word_tokens("Contributions", self.words, attention)
        total = _ContributionSum(attention, output_weight_of("Contributions", attention), chosen)
        return OverTextColumns(total.add, lambda: self._fields(total, attention))

    def _fields(self, total: _ContributionSum, attention: JointAttention) -> Fields:
        layout = attention.layout
        labels = tuple(word if isinstance(word, str) else ",".join(map(str, word)) for word in self.words)
        axis = Axis("word", labels, "word of the prompt, or its text positions")
        grid = ("batch", *layout.grid_dims)
        added = f"length of what the word's tokens add to the layer's output, {_UNITS}"
        residual = attention.around.residual
        return {
            "contribution": Field(
                ("batch", "word", *layout.grid_dims), total.norms().unflatten(-1, layout.grid), added, axes=(axis,)
            ),
            "contribution_total": Field(
                grid,
                _whole(attention, total.weight).unflatten(-1, layout.grid),
                f"length of the layer's whole attention output after its projection, {_UNITS}",
            ),
            "residual_norm": Field(
                grid,
                _lengths(residual, attention).unflatten(-1, layout.grid),
                f"length of the image stream's vector as it enters the block, {_UNITS}",
            ),
        }

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return (len(self.words) + 2) * layout.image


class _ContributionSum:
    """Probabilities of the words' tokens, of all heads, from the text columns: O(image x heads x words' tokens) numbers."""

    def __init__(self, attention: JointAttention, weight: Tensor, chosen: np.ndarray) -> None:
        self.attention, self.weight, self.chosen = (
            attention,
            weight,
            torch.from_numpy(chosen).to(attention.query.device),
        )
        self.tokens = torch.nonzero(self.chosen.any(0).any(0)).flatten()
        shape = (attention.batch, attention.heads, attention.layout.image, len(self.tokens))
        self.probs = attention.query.new_zeros(shape, dtype=torch.float32)

    def add(self, block: Block) -> None:
        """Add a block of the text columns."""
        self.probs[block.batch, block.heads] = block.probs[:, :, self.attention.layout.image_queries][
            ..., self.tokens
        ].float()

    def norms(self) -> Float[Tensor, "batch word image"]:
        """Each word's length: with g the projected values, ``|| sum p g ||^2 = p^T (g g^T) p``, over heads and tokens."""
        projected = _projected_values(self.attention, self.weight, self.tokens)
        words = []
        for word in range(self.chosen.shape[1]):
            kept = self.chosen[:, word, self.tokens]  # (batch, token)
            own = kept.any(0)
            g = (projected[:, :, own] * kept[:, None, own, None]).flatten(1, 2)
            p = self.probs[..., own].transpose(1, 2).flatten(2)
            squares = torch.einsum("bia,bac,bic->bi", p, g @ g.transpose(-1, -2), p)
            length = squares.clamp(min=0).sqrt()
            words.append(length.masked_fill(~kept.any(-1, keepdim=True), torch.nan))
        return torch.stack(words, 1)


def _projected_values(
    attention: JointAttention, weight: Tensor, tokens: Tensor
) -> Float[Tensor, "batch heads token channels"]:
    """What each text token's value becomes after its head's part of the output projection."""
    values = attention.value[:, :, attention.layout.text_keys].detach()[:, :, tokens].float()
    values = values.repeat_interleave(attention.heads // values.shape[1], 1)
    by_head = weight.unflatten(1, (attention.heads, -1))
    return torch.einsum("bhtw,chw->bhtc", values, by_head)


def _whole(attention: JointAttention, weight: Tensor) -> Float[Tensor, "batch image"]:
    queries = attention.layout.image_queries
    parts = []
    for start in range(queries.start, queries.stop, attention.row_chunk):
        rows = slice(start, min(start + attention.row_chunk, queries.stop))
        parts.append((joined_outputs(attention, rows).float() @ weight.T).norm(dim=-1))
    return torch.cat(parts, 1)


def _lengths(residual: Tensor | None, attention: JointAttention) -> Float[Tensor, "batch image"]:
    if residual is None:
        return attention.query.new_full((attention.batch, attention.layout.image), torch.nan, dtype=torch.float32)
    return torch.linalg.vector_norm(residual.detach(), dim=-1, dtype=torch.float32)


def output_weight_of(name: str, attention: JointAttention) -> Float[Tensor, "channels joined"]:
    """The weight of the image stream's output projection in fp32; `ValueError` if it is unknown."""
    weight, joined = attention.around.output_weight, attention.heads * attention.value.shape[-1]
    if weight is None or weight.shape[1] != joined:
        raise ValueError(
            f"{name}: the output projection of layer {attention.layer} can't be read here; probe the pipeline's own "
            f"transformer with weights that are not quantized"
        )
    return weight.to(attention.query.device, torch.float32)


def word_tokens(name: str, words: Words, attention: JointAttention) -> np.ndarray:
    """(batch, word, text) bool: the tokens of each word in each batch row; `ValueError` if a prompt's row has none."""
    text = attention.layout.text
    found = np.zeros((attention.batch, len(words), text), bool)
    for number, word in enumerate(words):
        if isinstance(word, str):
            if attention.text is None:
                raise ValueError(f"{name}: which tokens are {word!r} is unknown here; give its text positions instead")
            found[:, number] = attention.text.spelling(word)[:, :text]
        else:
            found[:, number, [place for place in word if 0 <= place < text]] = True
    carries = np.ones(attention.batch, bool) if attention.conditional is None else attention.conditional.astype(bool)
    for row, number in np.argwhere(~found.any(-1)).tolist():
        given = words[number]
        if carries[row] and isinstance(given, str) and attention.text is not None:
            raise ValueError(f"{name}: {attention.text.rows(slice(row, row + 1)).without(given)}")
        if carries[row]:
            raise ValueError(f"{name}: position {max(given)} does not exist; there are {text} text tokens")
    return found
