"""Probe: the context manager that records, and on request changes, a transformer's joint attention."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import xarray as xr
from torch import Tensor, nn

from ..attention.intercept import Interceptor, StopForward, in_backward, runs_apart
from ..attention.kernels import AttentionCall
from ..attention.layout import TokenLayout
from ..attention.text_tokens import TextTokens
from ..edits import Edit
from ..families import Again, Family, answering_hooks, denoiser_of, eager_and_native, family_of, replayed_blocks
from ..pipelines.loading import pipeline_of
from ..readouts.base import Readout
from ..readouts.fields import Fields
from .block_hooks import BlockHooks, blocks_of
from .blocks import BlockWatch
from .calls import TransformerCall
from .context import CallContext
from .dataset import to_dataset
from .editor import Editor, own_call
from .proof import LayoutProof
from .recorder import Recorder
from .stacking import CFGBranch, Chosen, choose, skipped, stack, why_nothing


class Probe:
    """Records readouts and applies edits in every call of a transformer inside the with block.

    Only calls of the thread that opens the probe count: other threads may use the same transformer meanwhile.

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
        transformer: a pipeline, or its transformer or U-Net, also in the wrappers of PEFT, data parallelism, accelerate
            or `torch.compile`. Prompts are known of every pipeline that holds the transformer and runs in the with block.
        readouts: what to record; may be empty if only edits are wanted.
        layers: layer numbers to record, None for all.
        edits: changes to make, in order.
        layout: the token layout, if it can't be read from the call.
        steps: sampling steps to record (0 is the first and noisiest), None for all. A step may take several calls, such
            as one for the negative prompt; each call of a transformer without a pipeline is a step.
        stop_early: abandon the forward pass after the last recorded layer; the with block ends there.
        family: how to read the model, if not as its class: `families.UNET_SELF` reads a U-Net's self-attention.
        verify: check the token layout at the first call, by what the model does with other words and another image; costs three
            times the first layer. Always done for a transformer of an unknown class without ``layout``.

    Raises:
        ValueError: the transformer is not supported, or a layer does not exist; at the first call, the layout is not confirmed.

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
        verify: bool = False,
    ) -> None:
        self.pipe = pipeline_of(transformer)
        self.transformer: nn.Module = denoiser_of(transformer)
        self.family = family or family_of(self.transformer)
        self.modules = dict(enumerate(self.family.layers(self.transformer)))
        self.context = CallContext(self.transformer, self.family, self.pipe, layout)
        guessed = self.family.guessed and layout is None
        self._proof = LayoutProof(self.transformer, self.modules, self.family) if verify or guessed else None
        self.readouts, self.edits = tuple(readouts), tuple(edits)
        self.layers = self._checked("layers", self.modules if layers is None else layers)
        self.steps = None if steps is None else frozenset(steps)
        self.stop_early = stop_early
        self._editor = Editor(self.edits, self.modules)
        self._watched = sorted({*self.layers, *self._checked("edited layers", self._editor.layers)})
        blocks = blocks_of(self.transformer, self.modules, self._editor.block_layers)
        self._block_hooks = BlockHooks(blocks, self._editor, self._block_call)
        self._recorder = Recorder(self.readouts, self.layers, self.steps)
        self._replaying: TransformerCall | None = None
        self._blocks = BlockWatch(self.transformer, self.family, self.modules, self.layers, self.readouts, self.pipe)
        self._calls: list[TransformerCall] = []
        self._aside = False  # while the transformer runs for something else than a denoising step
        self._exit: ExitStack | None = None
        self._thread, self._elsewhere = threading.get_ident(), False
        self._heard: set[int] = set()  # layers that have called torch's attention

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
        self._thread, self._elsewhere, self._heard, self._aside = threading.get_ident(), False, set(), False
        with ExitStack() as stack:
            self._blocks.encode()  # before the pipeline's prompts are watched
            stack.enter_context(eager_and_native(list(modules.values())))
            stack.enter_context(replayed_blocks(self.transformer, self._replay))
            self.context.open(stack)
            before = self.transformer.register_forward_pre_hook(self._begin_call, with_kwargs=True)
            stack.callback(before.remove)
            after = self.transformer.register_forward_hook(self._end_call)
            stack.callback(after.remove)
            self._block_hooks.open(stack)
            self._blocks.open(stack)  # last, to see what edits make of the streams
            self._interceptor = Interceptor(modules, self._handle, self._note_silence)
            stack.callback(self._interceptor.close)
            self._interceptor.open()
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        exit_, self._exit = self._exit, None
        if exit_ is not None:
            exit_.close()
        return isinstance(error, StopForward) and error.args == (id(self),)

    def _begin_call(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        """``kwargs`` is None while a thread closes its probe."""
        if threading.get_ident() != self._thread:
            self._elsewhere = True
        elif not in_backward():  # else checkpointing runs the model again
            self._aside = not self.family.is_step(module, args, kwargs)
            if not self._aside:
                self._begin_step(args, kwargs)

    def _begin_step(self, args: Any, kwargs: Any) -> None:
        call = self.context.begin(args, kwargs)
        if self._proof is not None:
            self._proof.check(call.layout, call.view, args, kwargs or {})
        self._calls.append(call)
        self._blocks.layout = call.layout

    def _end_call(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == self._thread and not in_backward():
            if self.running is not None:
                self.running.complete = True
            self._aside = False

    def _handle(self, layer: int, called: AttentionCall, output: Tensor | None) -> tuple[AttentionCall, Tensor | None]:
        if self._aside:
            return called, output
        if not self._calls:
            raise ValueError(
                "Probe: an attention layer ran outside the transformer's forward; probe the transformer itself"
            )
        call = self._calls[-1]
        self._heard.add(layer)
        if in_backward():
            return self._edited_again(self._only_call(), layer, called, output)
        attention = call.attention(layer, called, self.context.attention_layout)
        if attention is None:
            call.silent.setdefault(layer, "its attention call does not fit the token layout")
            return called, output
        if self._proof is not None:
            self._proof.follow(call, layer)
        self._editor.check_branches(layer, call, lambda: self.context.words([call]))
        attention, output = self._editor.prepared(attention, output)
        attention = self._recorder.record(call, self._blocks.surrounded(attention))
        output = self._editor.edited(attention, output)
        if self.stop_early and layer == self._watched[-1] and call.is_done(layer):
            raise StopForward(id(self))
        return own_call(attention), output

    def _block_call(self) -> TransformerCall | None:
        """The call whose blocks run now; None in other threads, and while blocks run for something else."""
        if threading.get_ident() != self._thread or self.running is None or runs_apart():
            return None
        return (self._replaying or self._only_call()) if in_backward() else self.running

    def _note_silence(self, layer: int, module: nn.Module, by: str) -> None:
        """A layer ran without an attention call: a hook or mode answered, or it is read in a way that can't be probed."""
        by = by or answering_hooks(self.transformer, module)
        processor = type(getattr(module, "processor", module)).__name__
        if not by and layer not in self._heard:
            raise ValueError(
                f"Probe: layer {layer} ran its attention through {processor}, which does not call "
                f"torch's scaled_dot_product_attention; switch to diffusers' default processor "
                f"(transformer.set_attn_processor / set_attention_backend('native')) and open the probe again"
            )
        if self.running is not None and not in_backward():
            self.running.silent[layer] = by or processor

    def _replay(self) -> Again:
        """How the block that runs now is run again by checkpointing: with the edits of this call, and unrecorded."""
        call = self._calls[-1]
        return lambda: self._replayed(replace(call, _rows_done={}))

    @contextmanager
    def _replayed(self, call: TransformerCall) -> Iterator[None]:
        modules = {layer: self.modules[layer] for layer in self._watched}
        again = Interceptor(modules, partial(self._edited_again, call), lambda *_: None)
        paused, self._interceptor.paused = self._interceptor.paused, True
        again.open()
        before, self._replaying = self._replaying, call
        try:
            yield
        finally:
            self._replaying = before
            again.close()
            self._interceptor.paused = paused

    def _edited_again(
        self, call: TransformerCall, layer: int, called: AttentionCall, output: Tensor | None
    ) -> tuple[AttentionCall, Tensor | None]:
        attention = call.attention(layer, called, self.context.attention_layout)
        if attention is None:
            return called, output
        attention, output = self._editor.prepared(attention, output)
        output = self._editor.edited(attention, output)
        return own_call(attention), output

    def _only_call(self) -> TransformerCall:
        """The call that a backward pass runs again without saying which it is."""
        if len(self._calls) > 1 and self.edits:
            raise ValueError(
                f"edit: checkpointing runs the model again in the backward pass, and which of {len(self._calls)} calls it is "
                f"can't be told; open a probe for each, or use transformer.enable_gradient_checkpointing()"
            )
        return replace(self._calls[-1], _rows_done={})

    @property
    def running(self) -> TransformerCall | None:
        """The transformer's latest call: its sampling step, and what its text positions hold; None outside of steps."""
        return self._calls[-1] if self._calls and not self._aside else None

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
        return stack(self._chosen(cfg_branch), self.layers)

    def _chosen(self, cfg_branch: CFGBranch) -> list[Chosen]:
        wanted = [call for call in self._calls if self.steps is None or call.step in self.steps]
        if not any(call.fields for call in wanted):
            raise ValueError(f"Probe: nothing was recorded; {why_nothing(wanted, self._elsewhere)}")
        return choose(wanted, cfg_branch, self.context.words(self._calls))

    def text(self, cfg_branch: CFGBranch = "both") -> TextTokens | None:
        """What the text positions of the latest recorded call hold, (batch, text), of the rows in `dataset`; None if unknown."""
        call, rows = self._chosen(cfg_branch)[-1]
        return None if call.text is None else call.text.rows(rows)

    def dataset(self, cfg_branch: CFGBranch = "both") -> xr.Dataset:
        """What was recorded, with the dimensions ``(call, batch, layer, ...)``.

        ``cfg_branch`` keeps the batch rows of the prompt ("conditional") or of the negative prompt ("unconditional") of
        classifier-free guidance, and drops calls that have none. The attribute ``words`` is "known", or says why it is
        unknown what the text positions hold. Layers that a call skipped, because their output was cached or they were left
        out, are NaN; the attribute ``skipped`` says which they are and what answered in their place.

        Raises:
            ValueError: nothing was recorded; calls or layers differ in size; or it is unknown which batch rows carry
                the prompt.
        """
        words, kind = self.context.words(self._calls), type(self.transformer).__name__
        chosen = self._chosen(cfg_branch)
        attrs = {"family": self.family.name, "transformer": kind, "edits": repr(self.edits), "words": words}
        attrs["skipped"] = skipped([call for call, _ in chosen], self.layers)
        return to_dataset(chosen, self.layers, attrs)
