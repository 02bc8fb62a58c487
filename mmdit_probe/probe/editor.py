"""Editor: applies edits to the inputs and the outputs of attention calls, and to the streams of blocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import groupby

import torch
from torch import Tensor

from ..attention.joint import JointAttention
from ..attention.kernels import AttentionCall
from ..attention.layout import TokenLayout
from ..attention.reordered import PresentedCall
from ..attention.scores import mask_block
from ..edits import BlockEdit, Edit
from ..edits.attention_block import Rows
from ..edits.base import apply_in_order
from ..edits.streams import Streams
from .calls import TransformerCall


class Editor:
    """Applies edits in order, each to the layers that it names; ``layers`` are all that there are."""

    def __init__(self, edits: Sequence[Edit], layers: Collection[int]) -> None:
        self.edits = edits
        self.layers = {n for edit in edits for n in (layers if edit.layers is None else edit.layers)}
        around = [edit for edit in edits if isinstance(edit, BlockEdit) and edit.is_around_blocks]
        self._around = around
        self.block_layers = {n for edit in around for n in (layers if edit.layers is None else edit.layers)}

    def check_branches(self, layer: int, call: TransformerCall, words: Callable[[], str]) -> None:
        """`ValueError` if an edit of the layer has to know which batch rows carry the prompt, and nobody does.

        ``words`` says why.
        """
        needed = any(edit.covers(layer) and edit.batch == "conditional" for edit in self.edits)
        if needed and call.in_run and call.branches is None:
            raise ValueError(
                f"edit: which batch rows carry the prompt can't be told in this call of the pipeline (words are {words()}); "
                "give the edit batch='all' or row numbers"
            )

    def prepared(self, attention: JointAttention, output: Tensor | None) -> tuple[JointAttention, Tensor | None]:
        """A call as the kernel is to see it, and its output.

        ``output`` is the one so far, None if it is still the call's own. `ValueError` if another probe has edited the output
        of a call that is to be changed.
        """
        attention, changed = _prepared(self._of(attention.layer), attention)
        if changed is not None and output is not None:
            raise ValueError(
                "edit: an outer probe has changed this layer's output already, which an edit before the kernel would "
                "undo; give both edits to one probe"
            )
        return attention, output if changed is None else changed

    def edited(self, attention: JointAttention, output: Tensor | None) -> Tensor | None:
        """The output of a `prepared` call after all edits; ``output`` is the one so far, None if it is the call's own."""
        edits = [edit for edit in self._of(attention.layer) if edit.acts_at(attention.step) and _changes_output(edit)]
        return _apply(edits, attention, output) if edits else output

    def _of(self, layer: int) -> list[Edit]:
        return [edit for edit in self.edits if edit.covers(layer)]

    def entered(self, streams: Streams) -> Streams:
        """What a block is to be given."""
        for edit in self._acting(streams):
            streams = _in_rows(edit, streams, edit.enter(streams))
        return streams

    def left(self, given: Streams, made: Streams) -> Streams:
        """What a block is to give on."""
        for edit in self._acting(made):
            made = _in_rows(edit, made, edit.leave(given, made))
        return made

    def _acting(self, streams: Streams) -> list[BlockEdit]:
        here = [edit for edit in self._around if edit.covers(streams.layer) and edit.acts_at(streams.step)]
        return [edit for edit in here if edit.chosen_rows(len(streams.image), streams.conditional).any()]


def own_call(attention: JointAttention) -> AttentionCall:
    """The attention's call with its tokens in the model's own order."""
    return attention.call.original if isinstance(attention.call, PresentedCall) else attention.call


def _apply(edits: list[Edit], attention: JointAttention, output: Tensor | None) -> Tensor | None:
    """Edits of the output, in the layout's order of tokens; the output stays in the call's own."""
    call, rows = attention.call, Rows(attention)
    plain = call.attended.output
    before = plain if output is None else call.presented(output) if isinstance(call, PresentedCall) else output
    after = before

    def kind(edit: Edit) -> TokenLayout | None:
        """What an edit works on in blocks, which it shares with those of the same; None if it has its own way."""
        return edit.viewed(attention).layout if type(edit).apply is Edit.apply else None

    for layout, run in groupby(edits, kind):
        if layout is not None:
            after = apply_in_order(list(run), attention, after, rows)
        else:
            for edit in run:
                after = edit.apply(attention, after)
    if after is before:
        return output
    return call.restored(after) if isinstance(call, PresentedCall) else after


def _changes_output(edit: Edit) -> bool:
    return (
        type(edit).change is not Edit.change or type(edit).apply is not Edit.apply or type(edit).before is Edit.before
    )


def _prepared(edits: Sequence[Edit], attention: JointAttention) -> tuple[JointAttention, Tensor | None]:
    """The call after all edits before the kernel, and its output if it has changed.

    Batch rows and heads where no such edit applies keep the output of the call as it was, bit for bit, also where another
    kernel runs because of a mask.
    """
    call, reach = attention, None
    for edit in edits:
        if type(edit).before is Edit.before or not edit.acts_at(attention.step):
            continue
        chosen = edit.chosen(call)
        changed = edit.before(call) if chosen.any() else call
        if changed is not call:
            call = _in_heads(chosen, call, changed)
            reach = chosen if reach is None else reach | chosen
    if reach is None:
        return attention, None
    output = call.call.attended.output
    if not reach.all():
        output = torch.where(reach[..., None, None], output, attention.call.attended.output)
    return call, call.call.restored(output) if isinstance(call.call, PresentedCall) else output


def _in_heads(chosen: Tensor, call: JointAttention, changed: JointAttention) -> JointAttention:
    """What has changed of a call, in the chosen (batch, heads) alone."""
    if chosen.all():
        return changed
    where = chosen[..., None, None]
    new: dict[str, Tensor] = {}
    if changed.query is not call.query:
        new["query"] = torch.where(where, changed.query, call.query)
    if changed.key is not call.key or changed.value is not call.value:
        new |= _keys_and_values(where, call, changed)
    if changed.call.arguments.attn_mask is not call.call.arguments.attn_mask:
        everything = slice(0, call.layout.queries), slice(0, call.layout.keys)
        mask, before = mask_block(changed.call, *everything), mask_block(call.call, *everything)
        if mask is not None:
            same_heads = bool((chosen == chosen[:, :1]).all()) and before is None
            mask, where = (mask[:, :1], where[:, :1]) if same_heads and _one_for_all(changed) else (mask, where)
            new["mask"] = torch.where(where, mask, mask.new_zeros(()) if before is None else before)
    return call.changed(**new)


def _one_for_all(call: JointAttention) -> bool:
    """Whether the call's mask is the same for all heads."""
    mask = call.call.arguments.attn_mask
    return mask is not None and (mask.dim() < 3 or mask.shape[-3] == 1)


def _keys_and_values(where: Tensor, call: JointAttention, changed: JointAttention) -> dict[str, Tensor]:
    """Keys and values changed in some heads; of grouped heads those that all of a group's queries share stay one."""
    pairs = ((changed.key, call.key), (changed.value, call.value))
    fewest = max(tensor.shape[1] for pair in pairs for tensor in pair)
    grouped = where.unflatten(1, (fewest, -1))
    if bool((grouped == grouped[:, :, :1]).all()):
        where = grouped[:, :, 0]
    else:
        fewest = call.heads
    wide = [[one.repeat_interleave(fewest // one.shape[1], 1) for one in pair] for pair in pairs]
    key, value = (torch.where(where, new, old) for new, old in wide)
    return {"key": key, "value": value}


def _in_rows(edit: Edit, before: Streams, after: Streams) -> Streams:
    """What an edit makes of streams, in the batch rows where it applies alone."""
    rows = edit.chosen_rows(len(before.image), before.conditional)
    if after is before or rows.all():
        return after
    where = torch.from_numpy(rows).to(before.image.device)[:, None, None]
    text = after.text
    if text is not None and before.text is not None:
        text = torch.where(where, text, before.text)
    return before.changed(image=torch.where(where, after.image, before.image), text=text)
