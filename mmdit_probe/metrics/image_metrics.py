"""Scores of generated images: CLIP-T, CLIP-I, CLIPScore, DINO, and the exact score of scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel, CLIPModel, CLIPProcessor

from ..pipelines.loading import EMBEDDED, embedded_folder
from ..pipelines.pretrained import load_pretrained
from ..utils.memory import run_in_batches
from .scene_reader import SceneReader

Images = Sequence[np.ndarray] | np.ndarray
Score = Callable[[Images, Images, Sequence[str]], np.ndarray]
"""``score(images, references, prompts)`` gives one number an image; a score ignores what it does not need."""
EMBEDDED_CLIP = "tiny-clip"
AT_ONCE = 64
"""Images or prompts that are embedded together; fewer where the GPU runs out of memory."""


class Clip:
    """A CLIP model: the embedded one ("tiny-clip"), a folder, or a hub id such as openai/clip-vit-base-patch16."""

    def __init__(self, model: str = EMBEDDED_CLIP, device: str = "cpu") -> None:
        source = str(embedded_folder().parent / EMBEDDED_CLIP) if model == EMBEDDED_CLIP else model
        self.model, self.processor = (load_pretrained("CLIP", kind, source) for kind in (CLIPModel, CLIPProcessor))
        self.model = self.model.float().eval().to(device)

    def embed_images(self, images: Images) -> Tensor:
        """(n, width), of length 1."""
        return _embedded(self._embed_images, images)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(n, width), of length 1; longer texts are cut at the tokenizer's length."""
        return _embedded(self._embed_texts, texts)

    def _embed_images(self, images: Images) -> Tensor:
        pixels = self.processor.image_processor(images=list(images), return_tensors="pt").to(self.model.device)
        pooled = self.model.vision_model(**pixels).pooler_output
        return self.model.visual_projection(pooled)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self.processor.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        pooled = self.model.text_model(**tokens.to(self.model.device)).pooler_output
        return self.model.text_projection(pooled)

    def text_score(self, images: Images, references: Images, prompts: Sequence[str]) -> np.ndarray:
        """CLIP-T: cosine of image and prompt, in [-1, 1]."""
        return _cosine(self.embed_images(images), self.embed_texts(prompts))

    def image_score(self, images: Images, references: Images, prompts: Sequence[str]) -> np.ndarray:
        """CLIP-I: cosine of image and reference image, in [-1, 1]."""
        return _cosine(self.embed_images(images), self.embed_images(references))

    def clip_score(self, images: Images, references: Images, prompts: Sequence[str]) -> np.ndarray:
        """CLIPScore: 100 times CLIP-T, negative values as 0, in [0, 100]."""
        return 100 * self.text_score(images, references, prompts).clip(min=0)


class Dino:
    """A DINO model, a folder or a hub id such as facebook/dino-vits16."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        self.model, self.processor = (load_pretrained("DINO", kind, model) for kind in (AutoModel, AutoImageProcessor))
        self.model = self.model.float().eval().to(device)

    def image_score(self, images: Images, references: Images, prompts: Sequence[str]) -> np.ndarray:
        """DINO: cosine of the class tokens of image and reference image, in [-1, 1]."""
        return _cosine(_embedded(self._embed, images), _embedded(self._embed, references))

    def _embed(self, images: Images) -> Tensor:
        pixels = self.processor(images=list(images), return_tensors="pt").to(self.model.device)
        return self.model(**pixels).last_hidden_state[:, 0]


@torch.no_grad()
def _embedded(embed: Callable[[Any], Tensor], items: Sequence[Any] | np.ndarray) -> Tensor:
    """(n, width), of length 1: ``embed`` of a few items at a time."""
    rows, _ = run_in_batches(lambda part: list(embed(part)), items, AT_ONCE)  # type: ignore[arg-type]
    return functional.normalize(torch.stack(rows), dim=-1)


def _cosine(a: Tensor, b: Tensor) -> np.ndarray:
    return (a * b).sum(-1).cpu().numpy()


def make_metrics(
    model: str, clip: str | None, dino: str | None, device: str = "cpu", *, clip_score: bool = False
) -> dict[str, Score]:
    """The scores that can be had: CLIP ones always, DINO if a model is named, the scene score for the embedded model.

    ``clip_score`` adds CLIPScore, which is CLIP-T on another scale.
    """
    if clip is None and model != EMBEDDED:
        raise ValueError(
            "scores: name a CLIP, such as --clip openai/clip-vit-base-patch16; the embedded CLIP knows scenes only"
        )
    scorer = Clip(clip or EMBEDDED_CLIP, device)
    scores: dict[str, Score] = {"clip_t": scorer.text_score, "clip_i": scorer.image_score}
    if clip_score:
        scores["clip_score"] = scorer.clip_score
    if dino is not None:
        scores["dino"] = Dino(dino, device).image_score
    if model == EMBEDDED:
        reader = SceneReader.load()
        scores["scene"] = lambda images, references, prompts: reader.score(images, prompts)
    return scores
