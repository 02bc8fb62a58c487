"""CallContext: what is known about a call of the transformer before its attention runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn

from ..attention.layout import TokenLayout
from ..attention.text_tokens import TextTokens
from ..families import Family, Inputs, Pipeline, named_inputs
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

    def __init__(self, transformer: nn.Module, family: Family, pipe: Pipeline, layout: TokenLayout | None) -> None:
        self.transformer, self.family, self.pipe, self.given = transformer, family, pipe, layout
        self._counter = StepCounter(pipe)
        self._watch: PromptWatch | None = None

    def open(self, stack: ExitStack) -> None:
        """Count steps from 0 and watch the pipeline's prompts until ``stack`` is closed."""
        self._counter = StepCounter(self.pipe)
        if self._encodes_prompts:
            self._watch = stack.enter_context(PromptWatch(self.pipe, self.family))
            stack.callback(self._forget)

    def _forget(self) -> None:
        self._watch = None

    @property
    def _encodes_prompts(self) -> bool:
        return self.pipe is not None and hasattr(self.pipe, "encode_prompt")

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TransformerCall:
        """A call of the transformer with these arguments."""
        inputs = named_inputs(self.transformer, args, kwargs)
        layout, batch = self.layout(inputs), len(inputs[self.family.image_argument])
        generation = 0 if self._watch is None else self._watch.generation
        time = self._counter.next(self._sigmas(inputs), generation)
        return TransformerCall(time, layout, batch, self.text(inputs), self.family.token_order(inputs, layout))

    def layout(self, inputs: Inputs) -> TokenLayout:
        """Where the tokens of a call are."""
        return self.given or self.family.layout(self.transformer, inputs)

    def text(self, inputs: Inputs) -> TextTokens | None:
        """What the text positions of a call hold; None if unknown."""
        if self._watch is None:
            return None
        batch = len(inputs[self.family.image_argument])
        return self._watch.text(inputs.get(self.family.text_argument), batch, self.layout(inputs).text)

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
        return levels.cpu().numpy()

    def words(self, calls: Sequence[TransformerCall]) -> str:
        """``known``, or why it is unknown what the calls' text positions hold."""
        if all(call.text is not None for call in calls):
            return KNOWN
        if self.pipe is None:
            return (
                "unknown: no pipeline is known for this transformer; give the pipeline to the probe, Probe(pipe, ...) "
                "instead of Probe(pipe.transformer, ...)"
            )
        if not self._encodes_prompts or not self.family.knows_words:
            return f"unknown: the text positions of {type(self.pipe).__name__} are not described"
        return "unknown: no prompt was seen; let the pipeline encode prompts, not embeddings, while the probe is open"
