"""Patch: what one run held, written into another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from .states import States, Stream, Tokens, What, checked_what, streams_of
from .streams import BlockEdit, Streams


class Patch(BlockEdit):
    """Write recorded states into a run, at the layers and steps where they were recorded.

    Both runs need the same image size and the same number of text positions. A run that is patched with its own states is the
    same bit for bit.

    Args:
        states: of `record_states`.
        layer: a layer number or several of those recorded; None for all of them.
        what: what the states are, to be said if a reader should see it; another than the states' is refused.
        tokens: "all" that were recorded, "image", "text", or words of the recorded run's prompt, whose states are written at
            the same text positions.
        where: steps and batch, and of attention states heads, see `Edit`.

    Raises:
        ValueError: states of this kind, layers, steps or tokens were not recorded; or the run has other tokens.

    >>> from mmdit_probe import Patch, Probe, load_pipeline, record_states
    >>> pipe = load_pipeline("tiny-sd3")
    >>> short = dict(num_inference_steps=2, max_sequence_length=0)
    >>> states = record_states(pipe, "a red circle on grass", what="value", layers=[4, 5], tokens="text", **short)
    >>> with Probe(pipe, [], edits=[Patch(states, [4, 5], tokens="red")]):
    ...     _ = pipe("a blue circle on grass", output_type="latent", **short)
    """

    def __init__(
        self,
        states: States,
        layer: int | Collection[int] | None = None,
        what: What | None = None,
        tokens: Tokens = "all",
        *,
        heads: Collection[int] | None = None,
        **where: Any,
    ) -> None:
        super().__init__(states.layers if layer is None else layer, **where)
        self.heads = None if heads is None else frozenset(heads)
        self.what: What = states.what if what is None else what
        checked_what("Patch", self.what)
        if self.what != states.what:
            raise ValueError(f"Patch: the states are of {states.what}, not of {self.what}; record_states takes what=")
        if self.what == "block" and self.heads is not None:
            raise ValueError("Patch: a block's residual streams have no heads; leave heads out")
        if self.words or self.kinds:
            raise ValueError("Patch: tokens= says which tokens are patched; leave words and kinds out")
        for name, wanted, known in (("layers", self.layers, states.layers), ("steps", self.steps, states.steps)):
            missing = sorted(set(wanted or ()) - set(known))
            if missing:
                raise ValueError(f"Patch: {name} {missing} were not recorded; there are {list(known)}")
        self.tokens = tokens
        self._states = states
        self._streams, words = streams_of(tokens)
        self._streams = [s for s in self._streams if any(key[2] == s for key in states.tensors)]
        if not self._streams:
            raise ValueError(f"Patch: states of {tokens} tokens were not recorded")
        self._places = states.places_of(words) if words else list(states.places)

    @property
    def is_around_blocks(self) -> bool:
        return self.what == "block"

    def acts_at(self, step: int) -> bool:
        return step in self._states.steps and super().acts_at(step)

    def before(self, call: JointAttention) -> JointAttention:
        if self.what == "query":
            return call.changed(
                query=self._written(call.query, call, call.layout.image_queries, call.layout.text_queries)
            )
        if self.what in ("key", "value"):
            old = call.key if self.what == "key" else call.value
            return call.changed(**{self.what: self._written(old, call, call.layout.image_keys, call.layout.text_keys)})
        return call

    def apply(self, attention: JointAttention, output: Tensor) -> Tensor:
        if self.what != "output":
            return output
        chosen = self.chosen(attention)[..., None, None]
        if not chosen.any():  # a call of the negative prompt, which may be shorter
            return output
        layout = attention.layout
        written = self._written(output, attention, layout.image_queries, layout.text_queries)
        return torch.where(chosen, written, output)

    def leave(self, given: Streams, made: Streams) -> Streams:
        if self.what != "block":
            return made
        self._check(made.layout)
        image, text = made.image, made.text
        if "image" in self._streams:
            image = self._state(made, "image").to(image).expand_as(image)
        if "text" in self._streams and text is not None:
            text = text.clone()
            text[:, self._places] = self._state(made, "text").to(text)
        return made.changed(image=image, text=text)

    def _written(self, old: Tensor, at: JointAttention, image: slice, text: slice) -> Tensor:
        self._check(at.layout)
        new = old.clone()
        if "image" in self._streams and image.stop > image.start:
            new[:, :, image] = self._state(at, "image").to(old)
        if "text" in self._streams and text.stop > text.start:
            new[:, :, [text.start + place for place in self._places]] = self._state(at, "text").to(old)
        return new

    def _state(self, at: JointAttention | Streams, stream: Stream) -> Tensor:
        """The recorded tokens of a stream that are written here."""
        found = self._states.tensors[at.layer, at.step, stream]
        if stream == "image" or self._places == list(self._states.places):
            return found
        return found[..., [self._states.places.index(place) for place in self._places], :]

    def _check(self, layout: TokenLayout) -> None:
        known = self._states
        if layout.grid != known.grid or layout.text != known.text:
            raise ValueError(
                f"Patch: the states are of {known.grid} image tokens and {known.text} text positions, this run has "
                f"{layout.grid} and {layout.text}; give both runs the same size and the same text length"
            )
