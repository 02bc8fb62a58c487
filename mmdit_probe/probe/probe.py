"""Probe: the context manager that records, and on request changes, a transformer's joint attention."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import xarray as xr
from torch import Tensor, nn

from ..attention.intercept import Interceptor, StopForward
from ..attention.kernels import AttentionCall
from ..attention.layout import TokenLayout
from ..edits import Edit
from ..families import Family, denoiser_of, eager_and_native, family_of
from ..pipelines.loading import pipeline_of
from ..readouts.base import Readout
from ..readouts.fields import Fields
from .calls import TransformerCall
from .context import CallContext
from .dataset import to_dataset
from .editor import Editor
from .recorder import Recorder
from .stacking import CFGBranch, choose, stack


class Probe:
    """Records readouts and applies edits in every call of a transformer inside the with block.

    >>> from mmdit_probe import I2TMaps, Probe, RegionMass, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [RegionMass(), I2TMaps()], layers=[4, 7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=2, output_type="latent", max_sequence_length=0)
    >>> record = probe.dataset("conditional")
    >>> dict(record["region_mass"].sizes)
    {'call': 2, 'batch': 1, 'layer': 2, 'head': 4, 'region': 4}
    >>> record["timestep"].values.tolist()
    [2, 1]

    Args:
        transformer: a pipeline, or its transformer or U-Net. A bare transformer's prompts are known only if
            `load_pipeline` loaded its pipeline.
        readouts: what to record; may be empty if only edits are wanted.
        layers: layer numbers to record, None for all.
        edits: changes to make, in order.
        layout: the token layout, if it can't be read from the call.
        steps: sampling steps to record (0 is the first and noisiest), None for all. A step may take several calls, such
            as one for the negative prompt; each call of a transformer without a pipeline is a step.
        stop_early: abandon the forward pass after the last recorded layer; the with block ends there.
        family: how to read the model, if not as its class: `families.UNET_SELF` reads a U-Net's self-attention.

    Raises:
        ValueError: the transformer is not supported, or a layer does not exist.

    After the with block the transformer is as it was, also after an exception. Without edits its output is bit-for-bit
    that without a probe. A probe can be opened again; each opening starts a new record.
    """

    def __init__(
        self,
        transformer: Any,
        readouts: Sequence[Readout],
        *,
        layers: Collection[int] | None = None,
        edits: Sequence[Edit] = (),
        layout: TokenLayout | None = None,
        steps: Collection[int] | None = None,
        stop_early: bool = False,
        family: Family | None = None,
    ) -> None:
        self.pipe = pipeline_of(transformer)
        self.transformer: nn.Module = denoiser_of(transformer)
        self.family = family or family_of(self.transformer)
        self.modules = dict(enumerate(self.family.layers(self.transformer)))
        self.context = CallContext(self.transformer, self.family, self.pipe, layout)
        self.readouts, self.edits = tuple(readouts), tuple(edits)
        self.layers = self._checked("layers", self.modules if layers is None else layers)
        self.steps = None if steps is None else frozenset(steps)
        self.stop_early = stop_early
        self._editor = Editor(self.edits)
        self._watched = sorted({*self.layers, *self._checked("edited layers", self._editor.layers)})
        self._recorder = Recorder(self.readouts, self.layers, self.steps)
        self._calls: list[TransformerCall] = []
        self._exit: ExitStack | None = None

    def _checked(self, what: str, layers: Collection[int]) -> tuple[int, ...]:
        unknown = sorted(set(layers) - set(self.modules))
        if unknown:
            raise ValueError(
                f"Probe: {what} {unknown} do not exist; this model has layers 0 to {len(self.modules) - 1}"
            )
        return tuple(sorted(set(layers)))

    def __enter__(self) -> Probe:
        if self._exit is not None:
            raise ValueError("Probe: this probe is open already; make a second Probe to nest them")
        self._calls, self._recorder = [], Recorder(self.readouts, self.layers, self.steps)
        modules = {layer: self.modules[layer] for layer in self._watched}
        with ExitStack() as stack:
            stack.enter_context(eager_and_native(list(modules.values())))
            self.context.open(stack)
            before = self.transformer.register_forward_pre_hook(self._begin_call, with_kwargs=True)
            stack.callback(before.remove)
            interceptor = Interceptor(modules, self._handle)
            stack.callback(interceptor.close)
            interceptor.open()
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        exit_, self._exit = self._exit, None
        if exit_ is not None:
            exit_.close()
        return isinstance(error, StopForward) and error.args == (id(self),)

    def _begin_call(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._calls.append(self.context.begin(args, kwargs))

    def _handle(self, layer: int, called: AttentionCall, output: Tensor | None) -> Tensor | None:
        if not self._calls:
            raise ValueError(
                "Probe: an attention layer ran outside the transformer's forward; probe the transformer itself"
            )
        call = self._calls[-1]
        attention = call.attention(layer, called, self.context.attention_layout)
        if attention is None:
            return output
        attention = self._recorder.record(call, attention)
        output = self._editor.edited(attention, output)
        if self.stop_early and layer == self._watched[-1] and call.is_done(layer):
            raise StopForward(id(self))
        return output

    @property
    def running(self) -> TransformerCall | None:
        """The transformer's latest call: its sampling step, and what its text positions hold."""
        return self._calls[-1] if self._calls else None

    @property
    def unguided(self) -> bool:
        """Whether no recorded call is known to carry a negative prompt in addition to the prompt."""
        return all(call.conditional is None or bool(call.conditional.all()) for call in self._calls)

    def stored_bytes(self, layout: TokenLayout, heads: int, batch: int) -> int:
        """Size of the record if every layer has this layout and these heads; of one call if ``steps`` is None."""
        return self._recorder.stored_bytes(layout, heads, batch)

    def fields(self, cfg_branch: CFGBranch = "both") -> Fields:
        """What was recorded, as tensors (call, batch, layer, ...) in fp32 on the CPU; NaN where a call skipped a layer.

        The same numbers as in `dataset`, without its coordinates. ``cfg_branch`` and errors as there.
        """
        return stack(choose(self._calls, cfg_branch, self.context.words(self._calls)), self.layers)

    def dataset(self, cfg_branch: CFGBranch = "both") -> xr.Dataset:
        """What was recorded, with the dimensions ``(call, batch, layer, ...)``.

        ``cfg_branch`` keeps the batch rows of the prompt ("conditional") or of the negative prompt ("unconditional") of
        classifier-free guidance, and drops calls that have none. The attribute ``words`` is "known", or says why it is
        unknown what the text positions hold.

        Raises:
            ValueError: nothing was recorded; calls or layers differ in size; or it is unknown which batch rows carry
                the prompt.
        """
        words = self.context.words(self._calls)
        chosen = choose(self._calls, cfg_branch, words)
        kind = type(self.transformer).__name__
        attrs = {"family": self.family.name, "transformer": kind, "edits": repr(self.edits), "words": words}
        return to_dataset(chosen, self.layers, attrs)
