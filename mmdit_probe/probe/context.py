"""CallContext: what is known about a call of the transformer before its attention runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ..attention.layout import Extra, TokenLayout
from ..families import Family, Inputs, Pipeline, named_inputs
from ..pipelines.encoded import CONDITIONAL, PERTURBED, CarriedPrompts
from ..pipelines.prompt_watch import PromptWatch
from .calls import TransformerCall
from .sampling_steps import StepCounter

KNOWN = "known"


class CallContext:
    """Token layout, sampling time and prompt tokens of a transformer's calls.

    Args:
        transformer: the module that is called.
        family: how its arguments are read.
        pipe: its pipeline, None if unknown.
        layout: the token layout, if it can't be read from the call.
    """

    def __init__(
        self, transformer: nn.Module, family: Family, pipe: Pipeline | None, layout: TokenLayout | None
    ) -> None:
        self.transformer, self.family, self.given = transformer, family, layout
        self.pipe = pipe
        self._counter, self._step = StepCounter(self.pipe), _Step()
        self._watch: PromptWatch | None = None
        self._caller: Pipeline | None = pipe

    def open(self, stack: ExitStack) -> None:
        """Count steps from 0 and watch the pipelines' prompts until ``stack`` is closed."""
        self._counter, self._step = StepCounter(self.pipe), _Step()
        self._watch = stack.enter_context(PromptWatch(self.pipe, self.family, self.transformer))
        stack.callback(self._forget)

    def _forget(self) -> None:
        self._caller = self._known_pipe
        self._watch, self._step = None, _Step()

    @property
    def _known_pipe(self) -> Pipeline | None:
        """The pipeline that calls the transformer, or did so last; else the one that the probe was given."""
        return self._caller if self._watch is None else self._watch.caller

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TransformerCall:
        """A call of the transformer with these arguments."""
        inputs = named_inputs(self.transformer, args, kwargs)
        layout, images = self.layout(inputs), inputs[self.family.image_argument]
        generation, in_run = (0, False) if self._watch is None else (self._watch.generation, self._watch.in_run)
        self._counter.pipe = self._known_pipe
        time = self._counter.next(self._sigmas(inputs), generation)
        carried = self.carried(inputs)
        layout, branches = self._without_vision(layout, carried), carried.branches
        if in_run and branches is not None and carried.source is not None:
            branches = self._step.marked(time.step, carried, images)
        text = carried.text
        text = text if text is None or branches is None else text.with_branches(branches == CONDITIONAL)
        order = self.family.token_order(inputs, layout)
        return TransformerCall(time, layout, len(images), text, branches, in_run, order)

    def carried(self, inputs: Inputs) -> CarriedPrompts:
        """What the batch rows of a call carry."""
        if self._watch is None:
            return CarriedPrompts()
        batch = len(inputs[self.family.image_argument])
        return self._watch.carried(inputs.get(self.family.text_argument), batch, self.layout(inputs).text)

    def _without_vision(self, layout: TokenLayout, carried: CarriedPrompts) -> TokenLayout:
        """The layout with the images of the prompt apart from its text; `ValueError` if it is unknown which they are."""
        if self.given is not None or carried.vision == 0:
            return layout
        if carried.vision is None:
            raise ValueError(
                f"Probe: the prompt of {type(self._known_pipe).__name__} contains images, and which text positions are theirs "
                f"is unknown; give Probe(layout=TokenLayout(..., extras=...)) with these positions apart"
            )
        images = Extra("vision", carried.vision, "first" if layout.order == "text-image" else "between")
        return replace(layout, text=layout.text - carried.vision, extras=(images, *layout.extras))

    def layout(self, inputs: Inputs) -> TokenLayout:
        """Where the tokens of a call are; `ValueError` if it lacks what the family reads that from."""
        if self.given is not None:
            return self.given
        try:
            return self.family.layout(self.transformer, inputs)
        except (AttributeError, KeyError, TypeError, IndexError) as error:
            names = (self.family.image_argument, self.family.text_argument)
            missing = [name for name in names if inputs.get(name) is None]
            why = f"without {' and '.join(missing)}" if missing else f"in a way that is not known ({error!r})"
            raise ValueError(
                f"Probe: {type(self.transformer).__name__} was called {why}, so that it can't be told where its tokens are; "
                "call it as its pipelines do, or give Probe(layout=TokenLayout(...))"
            ) from error

    def attention_layout(self, layout: TokenLayout, queries: int, keys: int) -> TokenLayout | None:
        """The layout of an attention call in a forward pass with ``layout``; None to ignore the call."""
        return self.family.call_layout(layout, queries, keys) or self.given

    def _sigmas(self, inputs: Inputs) -> np.ndarray | None:
        """(batch,) noise levels in [0, 1]; None if the call has none."""
        timestep = inputs.get(self.family.timestep_argument)
        if timestep is None:
            return None
        levels = self.family.sigmas(self.transformer, torch.as_tensor(timestep))
        levels = levels.flatten(1).amax(1) if levels.ndim > 1 else levels.reshape(-1)  # a level per token: the noisiest
        return levels.float().cpu().numpy()

    def words(self, calls: Sequence[TransformerCall]) -> str:
        """``known``, or why it is unknown what the calls' text positions hold."""
        if all(call.text is not None for call in calls):
            return KNOWN
        pipe = self._known_pipe
        if pipe is None:
            return (
                "unknown: no pipeline is known for this transformer; give the pipeline to the probe, Probe(pipe, ...) "
                "instead of Probe(pipe.transformer, ...)"
            )
        if not self.family.knows_words:
            return f"unknown: the text positions of {type(pipe).__name__} are not described"
        return "unknown: no prompt was seen; let the pipeline encode prompts, not embeddings, while the probe is open"


class _Step:
    """The prompts' batch rows that the calls of one sampling step have carried so far, with their latents."""

    def __init__(self) -> None:
        self.step = -1
        self._calls: list[tuple[np.ndarray, np.ndarray, Any]] = []

    def marked(self, step: int, carried: CarriedPrompts, images: Any) -> np.ndarray:
        """The branches of a call, perturbed where the step has had the same prompt with the same latents before.

        Guidance that compares the prompt's prediction with a perturbed one makes both in one call (PAG), or the perturbed
        one in a later call (skip-layer guidance). Within a call, only rows beyond the number of prompts are compared.
        """
        branches, source = cast(np.ndarray, carried.branches).copy(), cast(np.ndarray, carried.source)
        if step != self.step:
            self.step, self._calls = step, []
        own = np.flatnonzero(branches == CONDITIONAL)
        for row in own:
            twice = len(own) > carried.prompts and any(
                source[other] == source[row] and _same_latents(images[other], images[row]) for other in own[own < row]
            )
            if twice or self._had(source[row], images[row]):
                branches[row] = PERTURBED
        self._calls.append((own, source, images))
        return branches

    def _had(self, source: int, latents: Any) -> bool:
        return any(
            sources[row] == source and _same_latents(images[row], latents)
            for own, sources, images in self._calls
            for row in own
        )


def _same_latents(one: Any, other: Any) -> bool:
    both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return both and one.shape == other.shape and torch.equal(one, other)
