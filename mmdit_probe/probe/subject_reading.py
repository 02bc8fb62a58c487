"""SubjectReader: a loss on where the image looks at subjects, of some batch rows of a call, with gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.intercept import Interceptor, StopForward
from ..attention.joint import JointAttention
from ..attention.kernels import AttentionCall
from ..attention.text_tokens import TextTokens
from ..families import named_inputs
from .calls import TransformerCall
from .probe import Probe
from .subject_losses import SubjectLoss, SubjectMaps


class SubjectReader:
    """Runs the model's first layers on some batch rows and takes a loss of their I2T probabilities.

    Args:
        probe: says which layers are read, and how the model's calls are.
        subjects: words or phrases of the prompt.
        loss: from an image's `SubjectMaps` to a scalar.
    """

    def __init__(self, probe: Probe, subjects: Sequence[str], loss: SubjectLoss) -> None:
        self.probe, self.subjects, self.loss = probe, tuple(subjects), loss

    def losses(self, call: TransformerCall, given: Mapping[str, Any], rows: Sequence[int]) -> Float[Tensor, " rows"]:
        """The loss of each of some batch rows of ``call``; ``given`` are the transformer's arguments of these rows.

        Carries gradients, also to the latents if these do. `ValueError` if a layer can't be read, if layers have grids of
        different sizes, if a subject is not in a prompt, or if the loss is no scalar.
        """
        layers = self._attentions(call, given, rows)
        first = layers[0][0]
        if len({(own.layout.grid, own.layout.text) for calls in layers for own in calls}) > 1:
            raise ValueError("AttentionLoss: these layers have grids of different sizes; choose layers of one size")
        with torch.autocast(first.query.device.type, enabled=False):
            probs = torch.stack([torch.cat([_mean_probs(own) for own in calls]) for calls in layers]).mean(0)
            maps = probs.transpose(1, 2).unflatten(2, first.layout.grid)
            losses = [
                self.loss(self._subject_maps(own, text)) for own, text in zip(maps, _texts(layers[0]), strict=True)
            ]
        wrong = [loss for loss in losses if not isinstance(loss, Tensor) or loss.shape != ()]
        if wrong:
            shape = f"shape {tuple(wrong[0].shape)}" if isinstance(wrong[0], Tensor) else repr(wrong[0])
            raise ValueError(f"AttentionLoss: the loss must be a scalar tensor, got {shape}")
        return torch.stack(losses)

    def _attentions(
        self, call: TransformerCall, given: Mapping[str, Any], rows: Sequence[int]
    ) -> list[list[JointAttention]]:
        """The attention calls of each layer; the pass ends behind the last one, and no other probe sees it."""
        transformer, layers = self.probe.transformer, self.probe.layers
        text = None if call.text is None else call.text.rows(np.array(rows))
        view = self.probe.family.token_order(transformer, named_inputs(transformer, (), given), call.layout)
        again = TransformerCall(call.time, call.layout, len(rows), text, view=view)
        found: dict[int, list[JointAttention]] = {layer: [] for layer in layers}

        def keep(layer: int, called: AttentionCall, output: Tensor | None) -> tuple[AttentionCall, Tensor | None]:
            attention = again.attention(layer, called, self.probe.context.attention_layout)
            if attention is not None:
                found[layer].append(attention)
                if layer == layers[-1] and again.is_done(layer):
                    raise StopForward(id(self))
            return called, output

        modules = {layer: self.probe.modules[layer] for layer in layers}
        with Interceptor(modules, keep, lambda *_: None).alone():
            try:
                transformer.forward(**given)  # without the whole's hooks, which are for the pipeline's own call
            except StopForward as stop:
                if stop.args != (id(self),):
                    raise
        silent = [layer for layer, own in found.items() if not own]
        if silent:
            raise ValueError(f"AttentionLoss: layers {silent} made no attention call that can be read; leave them out")
        return list(found.values())

    def _subject_maps(self, maps: Float[Tensor, "text ..."], text: TextTokens) -> SubjectMaps:
        subjects = []
        for word in self.subjects:
            places = np.flatnonzero(text.spelling(word)[0])
            if not len(places):
                raise ValueError(f"AttentionLoss: {text.without(word)}")
            subjects.append(maps[places])
        return SubjectMaps(subjects, maps[np.flatnonzero(text.is_prompt[0])].sum(0))


def _mean_probs(attention: JointAttention) -> Float[Tensor, "batch image text"]:
    """I2T, mean over heads, with gradients."""
    return attention.probs(attention.layout.image_queries, attention.layout.text_keys).mean(1)


def _texts(calls: Sequence[JointAttention]) -> list[TextTokens]:
    """What the text positions of each batch row hold."""
    return [own.text.rows(slice(row, row + 1)) for own in calls if own.text is not None for row in range(own.batch)]
