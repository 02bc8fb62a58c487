"""Metrics of generated images: CLIP-T, CLIP-I, CLIPScore, DINO, and the share of a scene prompt's facts that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel, CLIPModel, CLIPProcessor

from ..configs import EMBEDDED_MODELS
from ..pipelines.loading import embedded_folder
from ..pipelines.pretrained import load_pretrained
from ..utils.memory import run_in_batches
from .scene_reader import SceneReader

Images = Sequence[np.ndarray] | np.ndarray
ImageMetric = Callable[[Images, Images, Sequence[str]], np.ndarray]
"""``metric(images, references, prompts)`` gives one number per image; a metric ignores the arguments it does not need."""
EMBEDDED_CLIP = "tiny-clip"
AT_ONCE = 64
"""Images or prompts embedded together; fewer if the GPU runs out of memory."""


class Clip:
    """A CLIP model: the embedded one ("tiny-clip"), a folder, or a hub id such as openai/clip-vit-base-patch16."""

    def __init__(self, model: str = EMBEDDED_CLIP, device: str = "cpu") -> None:
        source = str(embedded_folder().parent / EMBEDDED_CLIP) if model == EMBEDDED_CLIP else model
        self.model, self.processor = (load_pretrained("CLIP", kind, source) for kind in (CLIPModel, CLIPProcessor))
        self.model = self.model.float().eval().to(device)

    def embed_images(self, images: Images) -> Tensor:
        """(images, width) unit embeddings."""
        return _embedded(self._embed_images, images)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(texts, width) unit embeddings; texts are truncated to the tokenizer's length."""
        return _embedded(self._embed_texts, texts)

    def _embed_images(self, images: Images) -> Tensor:
        pixels = self.processor.image_processor(images=list(images), return_tensors="pt").to(self.model.device)
        pooled = self.model.vision_model(**pixels).pooler_output
        return self.model.visual_projection(pooled)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self.processor.tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
        pooled = self.model.text_model(**tokens.to(self.model.device)).pooler_output
        return self.model.text_projection(pooled)

    def text_similarity(self, images: Images, references: Images, prompts: Sequence[str]) -> np.ndarray:
        """CLIP-T: (images,) cosine of each image and its prompt, in [-1, 1]."""
        return _cosine(self.embed_images(images), self.embed_texts(prompts))

    def image_similarity(self, images: Images, references: Images, prompts: Sequence[str]) -> np.ndarray:
        """CLIP-I: (images,) cosine of each image and its reference image, in [-1, 1]."""
        return _cosine(self.embed_images(images), self.embed_images(references))

    def clip_score(self, images: Images, references: Images, prompts: Sequence[str]) -> np.ndarray:
        """CLIPScore: (images,) 100 times CLIP-T, with negative values set to 0, in [0, 100]."""
        return 100 * self.text_similarity(images, references, prompts).clip(min=0)


class Dino:
    """A DINO model: a folder, or a hub id such as facebook/dino-vits16."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        self.model, self.processor = (load_pretrained("DINO", kind, model) for kind in (AutoModel, AutoImageProcessor))
        self.model = self.model.float().eval().to(device)

    def image_similarity(self, images: Images, references: Images, prompts: Sequence[str]) -> np.ndarray:
        """DINO: (images,) cosine of the class tokens of each image and its reference image, in [-1, 1]."""
        return _cosine(_embedded(self._embed, images), _embedded(self._embed, references))

    def _embed(self, images: Images) -> Tensor:
        pixels = self.processor(images=list(images), return_tensors="pt").to(self.model.device)
        return self.model(**pixels).last_hidden_state[:, 0]


@torch.no_grad()
def _embedded(embed: Callable[[Any], Tensor], items: Sequence[Any] | np.ndarray) -> Tensor:
    """(n, width) unit embeddings, made a few items at a time."""
    embeddings, _ = run_in_batches(lambda part: list(embed(part)), list(items), AT_ONCE)
    return functional.normalize(torch.stack(embeddings), dim=-1)


def _cosine(a: Tensor, b: Tensor) -> np.ndarray:
    return (a * b).sum(-1).cpu().numpy()


def make_metrics(
    model: str, clip: str | None, dino: str | None, device: str = "cpu", *, clip_score: bool = False
) -> dict[str, ImageMetric]:
    """The available metrics by name: ``clip_t`` and ``clip_i`` always, ``dino`` if a DINO is named, ``scene`` for embedded models.

    Args:
        model: the model that generates the images; the embedded ones bring their own CLIP and are measured by `SceneReader` too.
        clip: hub id or folder of a CLIP; None is the embedded one, for embedded models only.
        dino: hub id or folder of a DINO, None for no DINO metric.
        device: where the metrics' models run.
        clip_score: add ``clip_score``, CLIPScore, which is CLIP-T on another scale.
    """
    if clip is None and model not in EMBEDDED_MODELS:
        raise ValueError(
            "metrics: name a CLIP, such as --clip openai/clip-vit-base-patch16; the embedded CLIP knows scenes only"
        )
    clip_model = Clip(clip or EMBEDDED_CLIP, device)
    metrics: dict[str, ImageMetric] = {
        "clip_t": clip_model.text_similarity,
        "clip_i": clip_model.image_similarity,
    }
    if clip_score:
        metrics["clip_score"] = clip_model.clip_score
    if dino is not None:
        metrics["dino"] = Dino(dino, device).image_similarity
    if model in EMBEDDED_MODELS:
        reader = SceneReader.load()
        metrics["scene"] = lambda images, references, prompts: reader.fact_share(images, prompts)
    return metrics
