"""How often the tiny CLIP finds a scene's sentence, and a sentence's scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import CLIPModel, CLIPProcessor

from ..datasets.scenes import scenes


@torch.no_grad()
def retrieval_accuracy(folder: Path, count: int = 300) -> dict[str, float]:
    """Share of ``count`` test images whose own sentence is ranked first ("images"), and the reverse ("sentences"), in [0, 1]."""
    model, processor = CLIPModel.from_pretrained(folder).float().eval(), CLIPProcessor.from_pretrained(folder)
    chosen = list(scenes("test", count))
    texts = [scene.sentence() for scene in chosen]
    inputs = processor(
        text=texts, images=[s.image for s in chosen], padding="max_length", truncation=True, return_tensors="pt"
    )
    logits = model(**inputs).logits_per_image.numpy()
    names = np.array(texts)
    return {
        "images": float((names[logits.argmax(1)] == names).mean()),
        "sentences": float((names[logits.argmax(0)] == names).mean()),
        "count": count,
    }
