"""Probe: the context manager that watches, and if asked changes, a transformer's joint attention."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ..attention.intercept import Interceptor, StopForward
from ..attention.joint import JointAttention
from ..attention.kernels import AttentionCall
from ..attention.layout import TokenLayout
from ..attention.reordered import ArrangedCall, arranged, take
from ..attention.text_tokens import TextTokens
from ..edits import Edit
from ..families import Family, Inputs, denoiser_of, eager_and_native, family_of, named_inputs
from ..pipelines.loading import pipeline_of
from ..pipelines.prompt_watch import PromptWatch
from ..readouts.base import Field, Fields, Readout, read
from ..utils.memory import check_room, empty_cuda_cache
from .dataset import CallRecord, CFGBranch, to_dataset
from .finite import FiniteWatch
from .sampling_steps import StepCounter


class Probe:
    """Records readouts, and applies edits, for every call of a transformer inside the with block.

        with Probe(pipe.transformer, [RegionMass(), I2TMaps()]) as probe:
            pipe("a red circle on grass")
        dataset = probe.dataset()

    Args:
        transformer: a diffusers transformer, or a pipeline that has one.
        readouts: what to record; may be empty where only edits are wanted.
        layers: layer numbers to record, None for all.
        edits: changes to make, in order.
        layout: the token layout, where it can't be read from the call.
        steps: which sampling steps to record (0 is the first, the noisiest), None for all. A step may take several
            calls, such as one for the negative prompt; a bare transformer's calls are a step each.
        stop_early: abandon the forward pass after the last recorded layer; the with block ends there.
        family: how the model is read, where not as its class says: `families.UNET_SELF` reads a U-Net's self-attention.

    The transformer is as it was after the with block, also after an exception. Without edits its output is
    bit-for-bit the one it has without a probe. A probe can be opened again; each opening starts a new record.
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
        self.readouts, self.edits = tuple(readouts), tuple(edits)
        self.layers = self._checked("layers", self.modules if layers is None else layers)
        self._edited = self._checked("edited layers", {layer for edit in self.edits for layer in edit.layers})
        self.layout, self.stop_early = layout, stop_early
        self.steps = None if steps is None else frozenset(steps)
        self._last = max((*self.layers, *self._edited), default=0)
        self._calls: list[CallRecord] = []
        self._finite = FiniteWatch()
        self._counter = StepCounter(self.pipe)
        self._watch: PromptWatch | None = None
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
        self._calls, self._finite, self._counter = [], FiniteWatch(), StepCounter(self.pipe)
        chosen = sorted({*self.layers, *self._edited})
        with ExitStack() as stack:
            stack.enter_context(eager_and_native([self.modules[layer] for layer in chosen]))
            if self.pipe is not None and hasattr(self.pipe, "encode_prompt"):
                self._watch = stack.enter_context(PromptWatch(self.pipe, self.family))
            before = self.transformer.register_forward_pre_hook(self._begin_call, with_kwargs=True)
            stack.callback(before.remove)
            interceptor = Interceptor({layer: self.modules[layer] for layer in chosen}, self._handle)
            stack.callback(interceptor.close)
            interceptor.open()
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        exit_, self._exit, self._watch = self._exit, None, None
        if exit_ is not None:
            exit_.close()
        return isinstance(error, StopForward) and error.args == (id(self),)

    def _begin_call(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = named_inputs(module, args, kwargs)
        layout = self.layout or self.family.layout(module, inputs)
        batch = len(inputs[self.family.image_argument])
        timesteps, sigmas = self._times(inputs)
        step = self._counter.next(timesteps, 0 if self._watch is None else self._watch.generation)
        text, source = self._text(inputs, batch, layout), self.family.token_order(inputs, layout)
        self._calls.append(CallRecord(step, layout, batch, timesteps, sigmas, text, source=source))

    @property
    def running(self) -> CallRecord | None:
        """The last call of the transformer that has begun: its sampling step, and what its text positions hold."""
        return self._calls[-1] if self._calls else None

    def _times(self, inputs: Inputs) -> tuple[np.ndarray | None, np.ndarray | None]:
        timestep = inputs.get(self.family.timestep_argument)
        if timestep is None:
            return None, None
        levels = self.family.sigmas(self.transformer, torch.as_tensor(timestep))
        levels = levels.flatten(1).amax(1) if levels.ndim > 1 else levels.reshape(-1)  # a level per token: the noisiest
        sigmas = levels.cpu().numpy()
        return 1000 * sigmas, sigmas

    def _text(self, inputs: Inputs, batch: int, layout: TokenLayout) -> TextTokens | None:
        if self._watch is None:
            return None
        return self._watch.text(inputs.get(self.family.text_argument), batch, layout.text)

    def _handle(self, layer: int, called: AttentionCall, output: Tensor | None) -> Tensor | None:
        if not self._calls:
            raise ValueError(
                "Probe: an attention layer ran outside the transformer's forward; probe the transformer itself"
            )
        call = self._calls[-1]
        rows = call.next_rows(layer, len(called.query))
        attention = self._attention(call, called, layer, rows)
        if attention is None:
            return output
        call.seen[layer] = rows.stop
        if self.readouts and layer in self.layers:
            self._finite.note(attention)
        if self._records(layer, call.step):
            self._finite.check()
            if not any(known.fields for known in self._calls):
                self._check_memory(attention, call.batch)
            fields, attention = self._read(attention)
            kept = {name: Field(f.dims, f.values.float().cpu()) for name, f in fields.items()}
            call.add(layer, kept, attention.layout, attention.method)
        for edit in self.edits:
            if layer in edit.layers:
                output = self._edited_output(edit, attention, output)
        if self.stop_early and layer == self._last and rows.stop >= call.batch:
            raise StopForward(id(self))
        return output

    def _attention(self, call: CallRecord, called: AttentionCall, layer: int, rows: slice) -> JointAttention | None:
        """The call as the layout describes it, None if it is none to read."""
        whole = len(called.query) == call.batch
        if call.source is not None:
            called = arranged(called, call.source[rows])
        layout = self.family.call_layout(call.layout, called.query.shape[-2], called.key.shape[-2])
        if layout is None and self.layout is None:
            return None
        text = call.text if whole or call.text is None else call.text.rows(rows)
        return JointAttention(called, layout or call.layout, layer, call.step, text)

    def _read(self, attention: JointAttention) -> tuple[Fields, JointAttention]:
        """The readouts' fields, in smaller chunks where the GPU's memory does not do; and the call as it was read."""
        while True:
            try:
                return read(self.readouts, attention), attention
            except torch.OutOfMemoryError:
                smaller = attention.in_smaller_chunks()
                if smaller is None:
                    raise
                attention = smaller
                empty_cuda_cache()

    def stored_bytes(self, layout: TokenLayout, heads: int, batch: int) -> int:
        """What the record will hold if every layer has this layout and these heads; of one call if ``steps`` is None."""
        numbers = sum(readout.stored_numbers(layout, heads) for readout in self.readouts)
        return 4 * numbers * batch * len(self.layers) * (1 if self.steps is None else len(self.steps))

    def _check_memory(self, attention: JointAttention, batch: int) -> None:
        kept = self.stored_bytes(attention.layout, attention.heads, batch)
        if not kept:  # the readouts do not say, or keep nothing
            return
        calls = "one step" if self.steps is None else f"{len(self.steps)} step{'s' * (len(self.steps) > 1)}"
        what = f"{len(self.layers)} layer{'s' * (len(self.layers) > 1)}, {calls}, batch {batch}"
        check_room(what, kept, 2 * kept, "record fewer layers or steps, the mean over heads, or a smaller batch")

    def _edited_output(self, edit: Edit, attention: JointAttention, output: Tensor | None) -> Tensor:
        call = attention.call
        if not isinstance(call, ArrangedCall):
            return edit.apply(attention, call.attended.output if output is None else output)
        before = call.attended.output if output is None else take(output, call.source)
        return call.restored(edit.apply(attention, before))

    def _records(self, layer: int, step: int) -> bool:
        return bool(self.readouts) and layer in self.layers and (self.steps is None or step in self.steps)

    @property
    def unguided(self) -> bool:
        """Whether no recorded call is known to carry a negative prompt's rows beside the prompt's."""
        return all(call.text is None or bool(call.text.conditional.all()) for call in self._calls)

    def dataset(self, cfg_branch: CFGBranch = "both") -> xr.Dataset:
        """What was recorded, with named dimensions ``(call, batch, layer, ...)``.

        ``cfg_branch`` keeps the rows of the prompt ("conditional") or of the negative prompt ("unconditional") of
        classifier-free guidance, and no calls of the other branch.
        """
        attrs = {"family": self.family.name, "transformer": type(self.transformer).__name__, "edits": repr(self.edits)}
        recorded = [call for call in self._calls if call.fields]
        return to_dataset(recorded, self.layers, cfg_branch, attrs)
