"""How well the tiny CLIP tells scenes apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import CLIPModel, CLIPProcessor

from ..datasets.scenes import scenes


@torch.no_grad()
def retrieval_accuracy(folder: Path, count: int = 300) -> dict[str, float]:
    """WorkerShare of ``count`` test images whose own full sentence scores highest among all, and the reverse."""
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
