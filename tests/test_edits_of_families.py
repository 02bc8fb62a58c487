"""Edits against full matrices in the calls that models really make: packed, reordered, folded, grouped, cross, in bf16."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from naive import full_matrix
from scipy.ndimage import correlate1d
from test_edits import SCIPY_MODE
from test_families import CASES, layer_0
from test_sockets import run

from mmdit_probe import Bias, BlurGrid, BlurText, GroupKeys, HeadScale, Knockout, RemoveKeys, Scale, SelfAttend, Uniform
from mmdit_probe.attention.folded import UnfoldedCall
from mmdit_probe.attention.kernels import AttentionCall
from mmdit_probe.attention.layout import Region
from mmdit_probe.attention.reordered import PresentedCall, ReorderedCall
from mmdit_probe.attention.text_tokens import Kind, TextTokens

NAMES = (
    *("lumina2-ragged", "z-image-ragged", "mochi", "omnigen-reference", "cosmos3-frames", "minimax-h3-frames"),
    *("qwen21-reference", "flux-kontext", "prx", "krea2", "pixart", "wan-i2v", "unet", "animatediff"),
)
CHOSEN = [case for case in CASES if case.name in NAMES]
EDITS = {
    "Knockout": Knockout(0, batch="all"),
    "Knockout, kept as it is": Knockout(0, renormalize=False, batch="all"),
    "Knockout T2I": Knockout(0, "T2I", batch="all"),
    "Uniform": Uniform(0, batch="all"),
    "Scale": Scale(0, 1.5, batch="all"),
    "BlurText": BlurText(0, 1.0, 3, "symmetric", batch="all"),
    "BlurGrid": BlurGrid(0, 1.0, 3, batch="all"),
    "Bias": Bias(0, "second", 2.0, where=(0, 0, 0.5, 1), batch="all"),
    "SelfAttend": SelfAttend(0, 0.3, batch="all"),
    "RemoveKeys": RemoveKeys(0, keys=[0, 3], sinks=1, batch="all"),
    "HeadScale": HeadScale(0, [0], -2, batch="all"),
    "GroupKeys": GroupKeys(0, "text", 0.5, 1.7, batch="all"),
}


def with_words(attention):
    """The call with text positions that are known, of which the second is a word by itself."""
    size = attention.batch, attention.layout.text
    words = np.full(size, "other", object)
    words[:, 1] = "second"
    true, kinds = np.ones(size, bool), np.full(size, Kind.WORD, object)
    encoders, conditional = np.full(size[1], "t5", object), np.ones(size[0])
    return replace(attention, text=TextTokens(words, kinds, encoders, conditional, true, true))


def twin(name, attention):
    """The edited full matrix, and the values, in the layout's order."""
    layout, call = attention.layout, attention.call
    matrix, image, text = full_matrix(call), layout.image_queries, layout.text_keys
    values = attention.value.double().repeat_interleave(attention.heads // attention.value.shape[1], 1)
    seen, part = attention.seen_keys[:, None, None, text], matrix[:, :, image, text]
    scores = (matrix.log() + attention.lse[..., None].double())[:, :, image]
    taps = np.exp(-0.5 * np.arange(-1, 2) ** 2)
    if name == "GroupKeys":
        key, own = call.key.double(), attention.seen_keys[:, None, text, None]
        mean = (key[:, :, text] * own).sum(2, keepdim=True) / own.sum(2, keepdim=True)
        key[:, :, text] = 0.5 * mean + 1.7 * (key[:, :, text] - mean)
        changed = AttentionCall(call.query.double(), key, call.value, call.arguments)
        return full_matrix(changed), values
    if name == "HeadScale":
        matrix[:, 0] *= -2
    elif name == "Knockout T2I":
        rows = layout.text_queries
        matrix[:, :, rows, layout.image_keys] = 0
        matrix[:, :, rows] /= matrix[:, :, rows].sum(-1, keepdim=True).clamp(min=1e-300)
    elif name == "Knockout, kept as it is":
        matrix[:, :, image, text] = 0
    elif name == "Uniform":
        mean = (part * seen).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
        matrix[:, :, image, text] = torch.where(seen, mean, part)
    elif name == "BlurText":
        for row, keys in enumerate(seen.flatten(1)):  # masked keys are no part of the axis
            blurred = correlate1d(part[row][..., keys].numpy(), taps / taps.sum(), mode=SCIPY_MODE["symmetric"])
            part[row][..., keys] = torch.from_numpy(blurred)
    elif name == "BlurGrid":
        maps = part.unflatten(2, layout.grid).numpy()
        for axis in (-3, -2):
            maps = correlate1d(maps, taps / taps.sum(), axis=axis, mode="reflect")
        matrix[:, :, image, text] = torch.from_numpy(maps).flatten(2, -2)
    elif name == "SelfAttend":
        mixed = 0.7 * matrix[:, :, image]
        mixed[..., layout.image_keys] += 0.3 * torch.eye(layout.image, dtype=torch.float64)
        matrix[:, :, image] = mixed
    else:
        if name == "Knockout":
            scores[..., text] = -math.inf
        elif name == "Scale":
            scores[..., text] = torch.where(scores[..., text] > -math.inf, 1.5 * scores[..., text], -math.inf)
        elif name == "Bias":
            left = (torch.arange(layout.image) % layout.grid[-1]) < layout.grid[-1] / 2
            share = (torch.arange(layout.grid[-1]) + 1 <= layout.grid[-1] / 2).double()
            if layout.grid[-1] % 2:
                share[layout.grid[-1] // 2] = 0.5
            inside = share[torch.arange(layout.image) % layout.grid[-1]]
            assert bool(left.any())
            scores[..., text.start + 1] += 2 * inside
        else:
            scores[..., [0, 3]] = -math.inf
            top = matrix[:, :, image].mean(2).argmax(-1)
            scores.scatter_(-1, top[:, :, None, None].expand(-1, -1, layout.image, -1), -math.inf)
        matrix[:, :, image] = scores.softmax(-1).nan_to_num(0)
    return matrix, values


def presented(attention, output):
    return attention.call.presented(output) if isinstance(attention.call, PresentedCall) else output


def check(case, dtype=None, **tolerance):
    torch.manual_seed(0)
    attention = with_words(layer_0(case, case.inputs()))
    if dtype is not None:
        call = attention.call
        tensors = (tensor.to(dtype) for tensor in (call.query, call.key, call.value))
        mask = call.arguments.attn_mask
        mask = mask if mask is None or mask.dtype == torch.bool else mask.to(dtype)
        attention = replace(attention, call=AttentionCall(*tensors, replace(call.arguments, attn_mask=mask)))
    present = attention.call.present if isinstance(attention.call, ReorderedCall) else None
    for name, edit in EDITS.items():
        if name == "SelfAttend" and attention.layout.scope == "cross":
            continue
        if name == "Knockout T2I" and Region.T2I not in attention.layout.regions:
            continue
        if name == "GroupKeys" and isinstance(attention.call, UnfoldedCall):
            with pytest.raises(ValueError, match="its queries, keys, values and mask can't be changed"):
                run(attention, edit)
            continue
        ours = run(attention, edit)
        matrix, values = twin(name, attention)
        made, expected = presented(attention, ours), matrix @ values
        assert made.dtype == attention.query.dtype
        for row in range(attention.batch):
            rows = slice(None) if present is None else present[row]
            torch.testing.assert_close(
                made[row, :, rows].double(),
                expected[row, :, rows],
                msg=lambda said, name=name: f"{name}: {said}",
                **tolerance,
            )


@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")
@pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")
@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_each_edit_equals_its_full_matrix(case):
    check(case, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("name", ["prx", "krea2", "pixart", "flux-kontext"])
def test_each_edit_equals_its_full_matrix_in_bf16(name):
    """What the kernel is given in bf16, and the output: all between is fp32."""
    (case,) = [case for case in CHOSEN if case.name == name]
    check(case, torch.bfloat16, atol=0.02, rtol=0.02)


def test_the_cases_are_of_every_kind():
    assert len(CHOSEN) == len(NAMES)
