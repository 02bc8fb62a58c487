"""What the CLIP systems share: text and patch embeddings, sliding windows, DINO's features, and cosines by pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from ..storage.images import resized
from .prompt_words import BACKGROUND

MEDIA = ("photo", "image", "close-up photo", "cropped photo", "drawing", "painting", "sketch", "rendering")
KINDS = ("", "good ", "bad ", "bright ", "dark ", "blurry ", "small ", "large ")
TEMPLATES = tuple(
    f"a {medium} of {article} {kind}{{}}." for medium in MEDIA for article in ["a", "the"] for kind in KINDS
)
"""Sentences around a class name; their embeddings are averaged."""
LONGEST = 2048
"""The longer side of a resized image in px, at most."""
DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of one image.

    Attributes:
        size: the image's height and width in px.
        side: of a window, in px.
        corners: (y, x) of each window's top left corner.
    """

    size: tuple[int, int]
    side: int
    corners: tuple[tuple[int, int], ...]

    def cut(self, values: Tensor) -> Tensor:
        """(windows, ..., side, side) from (..., height, width)."""
        return torch.stack([values[..., y : y + self.side, x : x + self.side] for y, x in self.corners])

    def joined(self, parts: Float[Tensor, "windows classes side side"]) -> Float[Tensor, "classes height width"]:
        """At each pixel the mean of the windows that cover it."""
        total, count = parts.new_zeros(parts.shape[1], *self.size), parts.new_zeros(self.size)
        for (y, x), part in zip(self.corners, parts, strict=True):
            total[:, y : y + self.side, x : x + self.side] += part
            count[y : y + self.side, x : x + self.side] += 1
        return total / count


def windows_of(image: np.ndarray, shorter: int, crop: int, stride: int) -> tuple[np.ndarray, Windows]:
    """The image resized to a shorter side of ``shorter`` px, and windows that cover every pixel.

    The longer side is at most `LONGEST` px, unless the shorter one would be less than ``crop``. Windows have a side of
    ``crop`` px and lie ``stride`` px apart.
    """
    if not 0 < stride <= crop:
        raise ValueError(f"windows: the stride must be in 1 to crop ({crop}), got {stride}")
    scale = max(min(shorter / min(image.shape[:2]), LONGEST / max(image.shape[:2])), crop / min(image.shape[:2]))
    height, width = (max(crop, int(length * scale + 0.5)) for length in image.shape[:2])
    size = height, width
    starts = ([*range(0, length - crop, stride), length - crop] for length in size)
    return resized(image, size), Windows(size, crop, tuple(product(*starts)))


def pixels(image: np.ndarray, mean: Sequence[float], std: Sequence[float], like: nn.Module) -> Tensor:
    """(3, height, width), normalized by ``mean`` and ``std``, on the device and in the dtype of the module ``like``."""
    weight = next(like.parameters())
    values = rearrange(torch.from_numpy(image.copy()), "h w c -> c h w").to(weight.device).float() / 255
    shift, scale = torch.tensor(mean).to(values), torch.tensor(std).to(values)
    return ((values - shift[:, None, None]) / scale[:, None, None]).to(weight.dtype)


class DenseCLIP:
    """A transformers CLIPModel read patch by patch.

    Args:
        model: a CLIPModel.
        processor: its CLIPProcessor, for the tokenizer and the pixels' mean and standard deviation.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.tokenizer = model, processor.tokenizer
        images = getattr(processor, "image_processor", None)
        self.mean = getattr(images, "image_mean", None) or CLIP_MEAN
        self.std = getattr(images, "image_std", None) or CLIP_STD
        self.vision = model.vision_model
        self.patch = int(self.vision.config.patch_size)
        self._texts: dict[str, Tensor] = {}

    @torch.no_grad()
    def text(self, names: Sequence[str]) -> Float[Tensor, "classes embedding"]:
        """Unit embeddings of class names: the normalized mean of the unit embeddings of the sentences in `TEMPLATES`."""
        for name in names:
            if name not in self._texts:
                self._texts[name] = self._text([template.format(name) for template in TEMPLATES])
        return torch.stack([self._texts[name] for name in names])

    def _text(self, sentences: list[str]) -> Tensor:
        given = self.tokenizer(sentences, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        states = self.model.text_model(**given).pooler_output
        each = functional.normalize(self.model.text_projection(states), dim=-1)
        return functional.normalize(each.mean(0), dim=-1)

    @torch.no_grad()
    def layers(self, images: Float[Tensor, "windows 3 side side"]) -> list[Tensor]:
        """(windows, 1 + patches, width) before the first block and after each block."""
        states = self.vision.pre_layrnorm(self.vision.embeddings(images, interpolate_pos_encoding=True))
        found = [states]
        for block in self.vision.encoder.layers:
            made = block(found[-1], attention_mask=None)
            found.append(made[0] if isinstance(made, tuple) else made)
        return found

    @torch.no_grad()
    def region_layers(
        self, image: Float[Tensor, "1 3 side side"], regions: Bool[Tensor, "regions patches"]
    ) -> tuple[list[Tensor], Float[Tensor, "regions width"]]:
        """The states of one window, as `layers` gives them, and each region's own class token after the last block.

        A region's class token starts as the image's. In every block it attends to the image's class token and to the region's
        patches; nothing attends to it.
        """
        plain = self.vision.pre_layrnorm(self.vision.embeddings(image, interpolate_pos_encoding=True))
        count, length = len(regions), plain.shape[1]
        allowed = torch.ones(count + length, count + length, dtype=torch.bool, device=plain.device)
        allowed[:, :count] = False
        allowed[:count, count + 1 :] = regions
        mask = plain.new_zeros(allowed.shape).masked_fill(~allowed, -torch.inf)[None, None]
        found = [torch.cat([plain[:, :1].expand(-1, count, -1), plain], 1)]
        for block in self.vision.encoder.layers:
            made = block(found[-1], attention_mask=mask)
            found.append(made[0] if isinstance(made, tuple) else made)
        return [states[:, count:] for states in found], found[-1][0, :count]

    @property
    def last(self) -> Any:
        """The last block."""
        return self.vision.encoder.layers[-1]

    def values(self, states: Tensor) -> Tensor:
        """The last block's values for its input ``states``, heads side by side."""
        return self.last.self_attn.v_proj(self.last.layer_norm1(states))

    def normed(self, mixed: Tensor) -> Tensor:
        """Mixed values after the last block's output projection and the final norm, without residual and MLP."""
        return self.vision.post_layernorm(self.last.self_attn.out_proj(mixed))

    def embedded(self, mixed: Tensor) -> Tensor:
        """Embeddings of mixed values: `normed`, and the final projection."""
        return self.model.visual_projection(self.normed(mixed)).float()


@torch.no_grad()
def dino_features(
    model: Any, images: Tensor, kind: Literal["last", "query-key"]
) -> Float[Tensor, "windows rows cols width"]:
    """Patch features of a transformers ViTModel: "last" is the last layer's output, "query-key" the last block's Q + K."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            seen[name] = output

        return hook

    hooks = [_last_called(model, names).register_forward_hook(keep(names[0])) for names in (_QUERY, _KEY)]
    try:
        states = model(images, interpolate_pos_encoding=True).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    features = (seen[_QUERY[0]] + seen[_KEY[0]]) if kind == "query-key" else states
    patch = model.config.patch_size
    grid = [side // patch for side in images.shape[-2:]]
    return features[:, 1:].float().unflatten(1, grid)


_QUERY, _KEY = ("query", "q_proj"), ("key", "k_proj")
"""Names of the projections in the first and in later releases of transformers 5."""


def _last_called(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """The last block's module with one of these names."""
    return [module for name, module in model.named_modules() if name.split(".")[-1] in names][-1]


def on_grid(
    values: Float[Tensor, "windows patches width"], grid: Sequence[int], own: Sequence[int] | None = None
) -> Tensor:
    """(windows, points, width): values of a grid of patches ``own``, square if None, interpolated bilinearly to another."""
    rows = round(values.shape[1] ** 0.5) if own is None else own[0]
    maps = rearrange(values, "w (r c) d -> w d r c", r=rows)
    finer = functional.interpolate(maps.float(), size=list(grid), mode="bilinear", align_corners=False)
    return rearrange(finer, "w d r c -> w (r c) d").to(values)


def class_cosines(
    embeddings: Float[Tensor, "windows points embedding"],
    grid: Sequence[int],
    text: Tensor,
    windows: Windows,
    size: tuple[int, int],
) -> Float[Tensor, "classes height width"]:
    """Cosine of every pixel of an image of ``size`` with every class, averaged over windows."""
    cosines = rearrange(functional.normalize(embeddings, dim=-1) @ text.float().T, "w (r c) k -> w k r c", r=grid[0])
    upsampled = functional.interpolate(cosines, size=windows.side, mode="bilinear", align_corners=False)
    whole = windows.joined(upsampled)
    return functional.interpolate(whole[None], size=size, mode="bilinear", align_corners=False)[0]


def name_variants(classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """The words to embed and the class number of each: a name's parts between commas or slashes are synonyms."""
    words, owners = [], []
    for number, name in enumerate(classes):
        for word in name.replace("/", ",").split(","):
            if word.strip():
                words.append(word.strip())
                owners.append(number)
    return words, owners


def probabilities(
    cosines: Float[Tensor, "words height width"],
    owners: Sequence[int],
    classes: Sequence[str],
    scale: float,
    least: float,
) -> Float[Tensor, "classes height width"]:
    """Softmax over words of the cosines times ``scale``, then the maximum over each class's words.

    ``owners`` holds the class number of each word. A class called background gets 1 wherever no other class reaches
    ``least``.
    """
    probs = (scale * cosines).softmax(0)
    owner = torch.tensor(list(owners), device=cosines.device)
    best = torch.stack([probs[owner == number].amax(0) for number in range(len(classes))])
    if BACKGROUND in classes and len(classes) > 1:
        place = list(classes).index(BACKGROUND)
        others = torch.cat([best[:place], best[place + 1 :]]).amax(0)
        best[place] = torch.where(others < least, torch.ones_like(others), best[place])
    return best
