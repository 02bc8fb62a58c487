"""Edits of one layer, one after the other: each works on the probabilities that those before it have left."""

import math

import pytest
import torch
from naive import full_matrix
from test_sockets import WORDS, columns, full_values, run, scores_of
from test_sockets import attention as attention

from mmdit_probe import (
    Bias,
    BlurGrid,
    BlurText,
    HeadScale,
    JointAttention,
    Knockout,
    RemoveKeys,
    Scale,
    SelfAttend,
    Uniform,
)
from mmdit_probe.attention.kernels import AttentionCall
from mmdit_probe.edits.blur import blur_matrix

ORDERED = {
    "Bias": Bias(0, "red", 1.5),
    "Scale": Scale(0, 1.7, words=["red"]),
    "Knockout word": Knockout(0, words=["red"]),
    "Knockout word, not renormalized": Knockout(0, words=["red"], renormalize=False),
    "Knockout I2I": Knockout(0, "I2I"),
    "Uniform": Uniform(0),
    "BlurText": BlurText(0, padding="symmetric"),
    "BlurGrid": BlurGrid(0, 1.0),
    "SelfAttend": SelfAttend(0, 0.4),
    "RemoveKeys": RemoveKeys(0, keys=[0, 5, 6]),
    "HeadScale": HeadScale(0, None, -0.5),
}
"""Edits of the image queries; each by its matrix in `edited_matrix`."""
CHANGING_TEXT = {"Bias", "Scale", "Uniform", "BlurText", "BlurGrid"}
"""Those that change probabilities on text keys by themselves."""


def edited_matrix(name, edit, matrix, scores, attention):
    """What an edit makes of the rows of the image queries, (batch, heads, image, keys) with any sum; ``scores`` change along."""
    layout, word = attention.layout, columns(attention, 1)
    text, image = layout.text_keys, layout.image_keys
    total = matrix.sum(-1, keepdim=True)
    gain = torch.zeros_like(matrix)
    if name == "Bias":
        gain[..., word] = 1.5
    elif name == "Scale":
        gain[..., word] = 0.7 * ((matrix[..., word] / total).log() + scores)
    elif name.startswith("Knockout word"):
        gain[..., word] = -math.inf
    elif name == "Knockout I2I":
        gain[..., image] = -math.inf
    elif name == "RemoveKeys":
        gain[..., list(edit.keys)] = -math.inf
    else:
        changed = matrix.clone()
        if name == "Uniform":
            seen = attention.seen_keys[:, None, None, text]
            mean = (matrix[..., text] * seen).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
            changed[..., text] = torch.where(seen, mean, matrix[..., text])
        elif name == "BlurText":
            for row, keys in enumerate(attention.seen_keys[:, text]):
                blur = torch.from_numpy(blur_matrix(int(keys.sum()), 9.0, 5, "symmetric"))
                part = changed[row][..., text]
                part[..., keys] = part[..., keys] @ blur
        elif name == "BlurGrid":
            rows, cols = (torch.from_numpy(blur_matrix(n, 1.0, 7, "symmetric")) for n in layout.grid)
            maps = matrix[..., text].unflatten(2, layout.grid)
            changed[..., text] = torch.einsum("bhrct,rs,cd->bhsdt", maps, rows, cols).flatten(2, 3)
        elif name == "SelfAttend":
            changed *= 0.6
            changed[..., image] += 0.4 * torch.eye(layout.image, dtype=torch.float64)
        else:
            changed *= -0.5
        return changed, scores
    changed = matrix * gain.exp()
    if "not renormalized" in name:
        return changed, scores
    left = changed.sum(-1, keepdim=True) / total
    return changed / left, scores + left.log()


@pytest.mark.parametrize("second", ORDERED)
@pytest.mark.parametrize("first", ORDERED)
def test_any_two_edits_compose_as_their_matrices_do(attention, first, second):
    layout, matrix = attention.layout, full_matrix(attention.call)
    rows, lse = (of[:, :, layout.image_queries] for of in (matrix, attention.lse.double()[..., None]))
    for name in (first, second):
        rows, lse = edited_matrix(name, ORDERED[name], rows, lse, attention)
    assert rows.isfinite().all()
    matrix *= math.prod(-0.5 for name in (first, second) if name == "HeadScale")  # of all queries
    matrix[:, :, layout.image_queries] = rows
    ours = run(attention, ORDERED[first], ORDERED[second]).double()
    two_edges = second == "Knockout I2I" and attention.layout.reference and first in CHANGING_TEXT
    atol = 2e-4 if two_edges else 1e-5  # what is left of 1 - p is not computed anew where another edge has been changed
    torch.testing.assert_close(ours, matrix @ full_values(attention), atol=atol, rtol=0)


@pytest.mark.parametrize("edit", [Bias(0, WORDS, -25.0), Scale(0, 0.2)], ids=["bias", "scale"])
def test_text_that_holds_nearly_all_can_lose_it(attention, edit):
    """What other keys have is then 1 - p, all rounding, times e to the fall: it is computed anew by their scores."""
    layout, call = attention.layout, attention.call
    query, key = call.query.clone(), call.key.clone()
    query[..., 0], key[..., 0] = 5.0, 0.0
    key[:, :, layout.text_keys, 0] = torch.linspace(10, 14, layout.text)
    steep = JointAttention(AttentionCall(query, key, call.value, call.arguments), layout, text=attention.text)
    scores = scores_of(steep) + steep.lse.double()[..., None]
    held = scores[:, :, layout.image_queries, layout.text_keys]
    assert (full_matrix(steep.call)[:, :, layout.image_queries, layout.text_keys].sum(-1) > 1 - 1e-5).all()
    held += -25.0 if isinstance(edit, Bias) else (edit.factor - 1) * held.nan_to_num(neginf=0)
    torch.testing.assert_close(run(steep, edit).double(), scores.softmax(-1) @ full_values(steep), atol=1e-4, rtol=0)
