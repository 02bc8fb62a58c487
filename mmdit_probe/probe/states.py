"""record_states: run a prompt once and keep what some layers held."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from ..attention.text_tokens import TextTokens
from ..edits.base import spelled_tokens
from ..edits.states import States, Stream, Tokens, What, checked_what, streams_of
from ..edits.streams import BlockEdit, Streams
from ..families import Pipeline, call_default
from ..pipelines.modular_call import call_pipeline
from ..utils.memory import check_room
from .probe import Probe


def record_states(
    pipe: Pipeline,
    prompt: str,
    *,
    what: What = "output",
    layers: Collection[int] | None = None,
    steps: Collection[int] | None = None,
    tokens: Tokens = "all",
    seed: int = 0,
    **call: Any,
) -> States:
    """Generate one image of a prompt and keep what the prompt's batch row held, for `Patch`.

    Args:
        pipe: a pipeline.
        prompt: one prompt.
        what: "output" of the attention before its projection, "query", "key", "value", or "block" for the residual streams
            that blocks give on.
        layers: layer numbers; None for all.
        steps: sampling steps, from 0; None for all.
        tokens: "all", "image", "text", or words of the prompt.
        seed: of the starting noise, made on the CPU as `mmdit-probe` makes it.
        call: further arguments of the pipeline's call, such as ``num_inference_steps``.

    Raises:
        ValueError: the states would not fit into the free memory; which is told, as what they need, before they are kept.
            Or the scheduler calls the model several times a step; or the prompt's tokens can't be told.
    """
    checked_what("record_states", what)
    if not isinstance(prompt, str) or call.get("num_images_per_prompt", 1) != 1:
        raise ValueError("record_states: give one prompt, and one image of it")
    recorder = _Recorder(what, layers, steps, tokens)
    probe = Probe(pipe, [], edits=[recorder])
    recorder.count = len(probe.modules if layers is None else set(layers)) * _step_count(pipe, steps, call)
    call.setdefault("output_type", "latent")
    with probe, torch.no_grad():
        call_pipeline(pipe, prompt, generator=torch.Generator().manual_seed(seed), **call)
    if recorder.layout is None:
        raise ValueError("record_states: nothing was recorded; the run has no such steps")
    layout = recorder.layout
    return States(what, recorder.kept, prompt, layout.grid, layout.text, tuple(recorder.places), recorder.tokens)


def _step_count(pipe: Pipeline, steps: Collection[int] | None, call: dict[str, Any]) -> int:
    if steps is not None:
        return len(set(steps))
    for levels in ("sigmas", "timesteps"):
        if call.get(levels) is not None:
            return len(call[levels])
    return int(call.get("num_inference_steps") or call_default(pipe, "num_inference_steps") or 1)


class _Recorder(BlockEdit):
    """Changes nothing and keeps what it sees of the prompt's batch row."""

    def __init__(
        self, what: What, layers: Collection[int] | None, steps: Collection[int] | None, tokens: Tokens
    ) -> None:
        super().__init__(layers, steps=steps)
        self.what, self.count = what, 1
        self.kept: dict[tuple[int, int, Stream], Tensor] = {}
        self.layout: TokenLayout | None = None
        self.tokens: TextTokens | None = None
        self.places: Sequence[int] = ()
        self._streams, self._words = streams_of(tokens)

    @property
    def is_around_blocks(self) -> bool:
        return self.what == "block"

    def before(self, call: JointAttention) -> JointAttention:
        layout = call.layout
        if self.what == "query":
            self._keep(call, call.query, layout.image_queries, layout.text_queries)
        elif self.what in ("key", "value"):
            tensor = call.key if self.what == "key" else call.value
            self._keep(call, tensor, layout.image_keys, layout.text_keys)
        return call

    def apply(self, attention: JointAttention, output: Tensor) -> Tensor:
        if self.what == "output" and self.acts_at(attention.step):
            self._keep(attention, output, attention.layout.image_queries, attention.layout.text_queries)
        return output

    def leave(self, given: Streams, made: Streams) -> Streams:
        row = self._row(made)
        if row is not None:
            self._begin(made.layout, made.tokens, row)
            parts: dict[Stream, Tensor | None] = {"image": made.image[row], "text": made.text}
            if made.text is not None:
                parts["text"] = made.text[row][list(self.places)]
            self._store(made.layer, made.step, parts)
        return made

    def _keep(self, at: JointAttention, tensor: Tensor, image: slice, text: slice) -> None:
        row = self._row(at)
        if row is None:
            return
        self._begin(at.layout, at.text, row)
        places = [text.start + place for place in self.places] if text.stop > text.start else []
        self._store(at.layer, at.step, {"image": tensor[row, :, image], "text": tensor[row][:, places]})

    def _row(self, at: JointAttention | Streams) -> int | None:
        """The prompt's batch row; None in a call without it."""
        batch = at.batch if isinstance(at, JointAttention) else len(at.image)
        rows = np.flatnonzero(self.chosen_rows(batch, at.conditional))
        if len(rows) > 1:
            raise ValueError("record_states: which batch row is the prompt's can't be told in this pipeline's calls")
        return int(rows[0]) if len(rows) else None

    def _begin(self, layout: TokenLayout, tokens: TextTokens | None, row: int) -> None:
        """What is recorded, from the first call that is."""
        if self.layout is None:
            own = None if tokens is None else tokens.rows(slice(row, row + 1))
            self.layout, self.tokens = layout, own
            words = np.flatnonzero(spelled_tokens(own, self._words, ())[0]).tolist() if self._words else None
            self.places = range(layout.text) if words is None else words

    def _store(self, layer: int, step: int, parts: dict[Stream, Tensor | None]) -> None:
        own = {stream: parts[stream] for stream in self._streams}
        if not self.kept:
            size = self.count * sum(t.numel() * t.element_size() for t in own.values() if t is not None)
            advice = "record fewer layers or steps, or the text or some words alone"
            check_room(f"states of {self.count} layers and steps", size, advice=advice)
        for stream, tensor in own.items():
            if (layer, step, stream) in self.kept:
                raise ValueError(
                    "record_states: this scheduler calls the model more than once a step; take one of first order"
                )
            if tensor is not None and tensor.shape[-2]:
                self.kept[layer, step, stream] = tensor.detach().to("cpu", copy=True)
