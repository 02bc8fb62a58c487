"""ValueNorms: how large the value vectors of image and text are."""

from __future__ import annotations

import torch

from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from .base import Readout
from .fields import Axis, Field, Fields

STREAMS = ("image", "text", "prompt")
"""Those of every model; the reference images follow, "reference 1" and so on."""


class ValueNorms(Readout):
    """``value_norm`` (batch, head, stream): mean L2 norm of the value vectors (Seg4Diff, Fig. 4).

    Streams are image, text (all text positions) and prompt (words alone; NaN if it is unknown which positions are
    words), and "reference 1", "reference 2" ... of each reference image if there are any. The image is NaN in plain
    cross-attention, where all values are text.

    >>> from mmdit_probe import Probe, ValueNorms, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [ValueNorms()], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> probe.dataset("conditional")["value_norm"]["stream"].values.tolist()
    ['image', 'text', 'prompt']
    """

    def measure(self, attention: JointAttention) -> Fields:
        norms = attention.value.float().norm(dim=-1)
        layout, text = attention.layout, attention.text
        image, words = norms[..., layout.image_keys].mean(-1), norms[..., layout.text_keys]
        prompt = torch.full_like(image, torch.nan)
        if text is not None:
            chosen = torch.from_numpy(text.is_prompt).to(words.device)[:, None]
            prompt = (words * chosen).sum(-1) / chosen.sum(-1)  # an empty prompt has no words: 0 / 0 = NaN
        references = [norms[..., keys].mean(-1) for keys in layout.reference_keys]
        values = torch.stack([image, words.mean(-1), prompt, *references], -1)
        labels = (*STREAMS, *(f"reference {number}" for number in range(1, 1 + len(references))))
        axis = Axis("stream", labels, "tokens whose values are averaged; prompt: words alone")
        name = "mean L2 norm of the value vectors, in the model's own units"
        return {"value_norm": Field(("batch", "head", "stream"), values, name, axes=(axis,))}

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return heads * (len(STREAMS) + len(layout.reference_keys))
