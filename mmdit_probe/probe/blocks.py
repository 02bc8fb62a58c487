"""BlockWatch: tells readouts what stands around an attention call, and lets concepts ride along in the text stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.intercept import Interceptor, in_backward, runs_apart
from ..attention.joint import JointAttention
from ..attention.kernels import AttentionCall, exact
from ..attention.layout import TokenLayout
from ..attention.reordered import PresentedCall
from ..attention.surroundings import Surroundings
from ..families import (
    CONCEPT_FAMILIES,
    IMAGE,
    TEXT,
    Family,
    Pipeline,
    block_inputs,
    block_of,
    embedded_text,
    output_weight,
    run_text_stream,
)
from ..pipelines.defaults import text_length
from ..pipelines.forward import encode_prompts
from ..readouts.base import Readout


class BlockWatch:
    """What the readouts want to know about the blocks of some layers; does nothing if none wants to.

    Concept tokens pass through every block before it runs itself, in the place of its text: they see the image and each
    other, nothing sees them, and the block's own pass is untouched, bit for bit. Each block then runs twice.

    `ValueError` if concepts are asked for of a model whose blocks do not take the text apart, or without a pipeline.
    """

    def __init__(
        self,
        transformer: nn.Module,
        family: Family,
        modules: Mapping[int, nn.Module],
        layers: Sequence[int],
        readouts: Sequence[Readout],
        pipe: Pipeline | None,
    ) -> None:
        self.transformer, self.family, self.pipe = transformer, family, pipe
        self.concepts = tuple(dict.fromkeys(name for readout in readouts for name in readout.concepts))
        wanted = bool(self.concepts) or any(readout.reads_block for readout in readouts)
        last = max(layers, default=-1)
        self.modules = {
            layer: module
            for layer, module in modules.items()
            if wanted and (layer in layers or (self.concepts and layer <= last))
        }
        if self.concepts:
            self._check()
        self.layout: TokenLayout | None = None  # of the transformer's call that runs
        self._states: dict[int, Surroundings] = {}
        self._embeddings: Tensor | None = None
        self._spans: tuple[tuple[int, ...], ...] = ()
        self._tokens: Tensor | None = None

    def _check(self) -> None:
        if self.family.name not in CONCEPT_FAMILIES:
            raise ValueError(
                f"ConceptMaps: concepts ride along in the text stream of {', '.join(CONCEPT_FAMILIES)}; this is a model of "
                f"{self.family.models}, use words of the prompt and OutputMaps"
            )
        if self.pipe is None:
            raise ValueError(
                "ConceptMaps: concepts need the text encoders; give the pipeline to the probe, Probe(pipe, ...)"
            )

    def encode(self) -> None:
        """Encode each concept as a prompt of its own, of which the words' embeddings are kept."""
        if not self.concepts or self.pipe is None or self._embeddings is not None:
            return
        made = encode_prompts(self.pipe, self.concepts, text_length(self.pipe))
        places = [np.flatnonzero(row) for row in made.text.is_prompt]
        missing = [name for name, own in zip(self.concepts, places, strict=True) if not len(own)]
        if missing:
            raise ValueError(f"ConceptMaps: {missing[0]!r} has no token of its own; write it another way")
        embeddings = [made.inputs[TEXT][row, torch.from_numpy(own)] for row, own in enumerate(places)]
        ends = np.cumsum([len(own) for own in places]).tolist()
        self._spans = tuple(tuple(range(end - len(own), end)) for own, end in zip(places, ends, strict=True))
        self._embeddings = torch.cat(embeddings)[None]

    def open(self, stack: ExitStack) -> None:
        """Watch the blocks until ``stack`` is closed."""
        self._states, self._tokens = {}, None
        for layer, module in self.modules.items():
            block = block_of(self.transformer, module)
            if block is not None:
                seen = partial(self._enter, layer, module)
                stack.callback(block.register_forward_pre_hook(seen, with_kwargs=True).remove)
        stack.callback(self._states.clear)

    def _enter(self, layer: int, attention: nn.Module, block: nn.Module, args: Any, kwargs: Any) -> None:
        if in_backward() or runs_apart():
            return
        inputs = block_inputs(block, args, kwargs)
        residual, weight = inputs.get(IMAGE), output_weight(attention, block)
        known = Surroundings(weight, residual if isinstance(residual, Tensor) else None)
        self._states[layer] = self._ridden(known, layer, attention, block, inputs) if self.concepts else known

    def _ridden(
        self, known: Surroundings, layer: int, attention: nn.Module, block: nn.Module, inputs: Any
    ) -> Surroundings:
        """With the output that the concepts have in this layer's attention."""
        if layer == 0 and self._embeddings is not None:
            tokens = embedded_text(self.transformer, self._embeddings.to(inputs[TEXT].device))
            self._tokens = tokens.to(inputs[TEXT].dtype).expand(len(inputs[TEXT]), -1, -1)
        if self._tokens is None or self.layout is None:
            return known
        found: list[Tensor] = []
        at = replace(self.layout, text=self._tokens.shape[1]).text_queries

        def keep(layer: int, call: AttentionCall, output: Tensor | None) -> tuple[AttentionCall, Tensor | None]:
            found.append(exact(call.attended.output[:, :, at].detach()).transpose(1, 2).flatten(2))
            return call, output

        with Interceptor({layer: attention}, keep, lambda *_: None).alone(), torch.no_grad():
            self._tokens = run_text_stream(block, inputs, self._tokens)
        concepts = found[0] if found else None
        return replace(known, concepts=concepts, concept_names=self.concepts, concept_spans=self._spans)

    def surrounded(self, attention: JointAttention) -> JointAttention:
        """An attention call with what is known about its block."""
        known = self._states.get(attention.layer)
        if known is None:
            return attention
        around = replace(known, residual=_image_part(known.residual, attention, attention.layout))
        return replace(attention, around=around)


def _image_part(residual: Tensor | None, attention: JointAttention, layout: TokenLayout) -> Tensor | None:
    """The image tokens of a residual stream that may hold the text, too; None if it does not fit the call."""
    if residual is None or residual.ndim != 3 or len(residual) != attention.batch:
        return None
    if residual.shape[1] == layout.image:
        return residual
    whole = residual.shape[1] == layout.tokens and not isinstance(attention.call, PresentedCall)
    return residual[:, layout.image_slice] if whole else None
