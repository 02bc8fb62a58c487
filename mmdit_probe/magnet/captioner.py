"""Captioning images with an image-to-text model of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..pipelines.loading import DTYPES, torch_device
from ..pipelines.pretrained import load_pretrained
from ..storage.files import read_text, write_text
from ..storage.images import read_rgb
from ..utils.progress import Progress


class Captioner:
    """An image-to-text model, such as BLIP, GIT, LLaVA or Qwen-VL.

    Args:
        model: a folder or a hub id.
        prompt: for chat models a question about the image, for others the beginning of the caption.
        max_new_tokens: the most tokens that a caption may have.
        device: where the model runs.
        dtype: number format of its weights.
        remote_code: run code that comes with the model.

    Raises:
        ValueError: the model can't be loaded.
    """

    def __init__(
        self,
        model: str,
        prompt: str | None = None,
        *,
        max_new_tokens: int = 60,
        device: str = "cpu",
        dtype: str = "fp32",
        remote_code: bool = False,
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.prompt, self.max_new_tokens, self.device = prompt, max_new_tokens, torch_device(device)
        options: dict[str, Any] = {"trust_remote_code": remote_code}
        self.processor = load_pretrained("caption model", AutoProcessor, model, **options)
        loaded = load_pretrained("caption model", AutoModelForImageTextToText, model, dtype=DTYPES[dtype], **options)
        self.model = loaded.eval().to(self.device)

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> list[str]:
        """A caption for each (height, width, 3) uint8 RGB image."""
        converted = [Image.fromarray(image) for image in images]
        text = self._asked()
        inputs = self.processor(
            images=converted, text=None if text is None else [text] * len(converted), return_tensors="pt", padding=True
        )
        inputs = inputs.to(self.device, self.model.dtype)
        made = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        given = inputs.get("input_ids")
        if given is not None and torch.equal(made[:, : given.shape[1]], given):
            made = made[:, given.shape[1] :]  # decoder-only models repeat the prompt
        return [" ".join(caption.split()) for caption in self.processor.batch_decode(made, skip_special_tokens=True)]

    def _asked(self) -> str | None:
        if not getattr(self.processor, "chat_template", None):
            return self.prompt
        asked = {"type": "text", "text": self.prompt or "Describe this image in two sentences."}
        chat = [{"role": "user", "content": [{"type": "image"}, asked]}]
        return self.processor.apply_chat_template(chat, add_generation_prompt=True)


def caption_files(
    captioner: Callable[[Sequence[np.ndarray]], list[str]],
    files: Mapping[str, Path],
    out: Path,
    batch: int = 8,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Caption image files into the JSON file ``out``, saved after every batch; captions it has already are kept.

    Returns the captions by file name. `ValueError` if ``out`` exists and is not such a file.
    """
    captions = _known(out)
    todo = [file for file in files.values() if file.name not in captions]
    for start in range(0, len(todo), batch):
        chosen = todo[start : start + batch]
        made = captioner([read_rgb(file) for file in chosen])
        captions.update(zip((file.name for file in chosen), made, strict=True))
        write_text(out, json.dumps(captions, indent=0, ensure_ascii=False))
        if progress is not None:
            progress(len(files) - len(todo) + start + len(chosen), len(files))
    return captions


def _known(out: Path) -> dict[str, str]:
    if not out.exists():
        return {}
    try:
        known = json.loads(read_text(out))
        if not all(isinstance(caption, str) for caption in known.values()):
            raise ValueError("no captions")
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"caption: {out} is not a caption file and can't be continued ({error}); choose another --out"
        ) from error
    return known
