"""Nodes that run a diffusers pipeline and show where the words of its prompt are looked at.

They read pipelines that `Load Pipeline` loads with diffusers. ComfyUI's own MODEL, CLIP and VAE objects hold other classes, whose
attention mmdit-probe does not read; they can't be connected. Nothing of ComfyUI is imported until a node runs in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from mmdit_probe.tracing import Seen

CATEGORY = "mmdit-probe"
PIPELINE, SEEN = "MMDIT_PROBE_PIPELINE", "MMDIT_PROBE_SEEN"
"""The types of the sockets: a diffusers pipeline, and what was seen of a batch of images (a tuple of `Seen`)."""
_LARGEST_SEED = 2**32 - 1
_SIDE = {"default": 0, "min": 0, "max": 8192, "step": 8}
_LAYERS = (
    "STRING",
    {
        "default": "",
        "tooltip": "Layers whose maps are kept, such as 3-8,12, or all; empty: chosen by the image's size.",
    },
)
_TIMESTEPS = (
    "STRING",
    {
        "default": "",
        "tooltip": "Timesteps that are kept, counted from the clean end, such as 8,28, or all; empty: by the image's size.",
    },
)
_STEPS = ("INT", {"default": 28, "min": 1, "max": 1000, "tooltip": "Sampling steps."})
_SEED = ("INT", {"default": 0, "min": 0, "max": _LARGEST_SEED, "control_after_generate": True})


class LoadPipeline:
    """Loads a diffusers pipeline: the embedded tiny-sd3, a folder or a hub id."""

    CATEGORY = CATEGORY
    DESCRIPTION = "A diffusers pipeline. ComfyUI's own MODEL objects are not read by these nodes."
    RETURN_TYPES = (PIPELINE,)
    RETURN_NAMES = ("pipeline",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The node's sockets and widgets."""
        return {
            "required": {
                "model": (
                    "STRING",
                    {
                        "default": "tiny-sd3",
                        "tooltip": "tiny-sd3 (embedded), a diffusers folder, or a hub id such as "
                        "stabilityai/stable-diffusion-3-medium-diffusers.",
                    },
                ),
                "dtype": (["fp32", "bf16", "fp16"], {"tooltip": "Number format of the weights."}),
                "device": ("STRING", {"default": "cpu", "tooltip": "cpu, cuda, cuda:1 or mps."}),
                "offload": (["none", "model", "sequential"], {"tooltip": "CPU offload, with device cuda."}),
            },
            "optional": {
                "lora": ("STRING", {"default": "", "tooltip": "A LoRA: a .safetensors file, a folder or a hub id."}),
            },
        }

    def load(self, model: str, dtype: str, device: str, offload: str, lora: str = "") -> tuple[Any]:
        """Load it; `ValueError` in one line if it can't be."""
        from mmdit_probe import load_pipeline

        with torch.inference_mode(False):  # weights that are made inside of it could not be changed by a later LoRA
            pipe = load_pipeline(model.strip(), dtype=dtype, device=device, offload=offload, lora=lora.strip() or None)
        return (pipe,)


class Generate:
    """Generates images from a prompt and reads them."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Generates images and reads what each part of them attends to. The images are those made without reading."
    )
    RETURN_TYPES = ("IMAGE", SEEN)
    RETURN_NAMES = ("images", "seen")
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The node's sockets and widgets."""
        return {
            "required": {
                "pipeline": (PIPELINE,),
                "prompt": ("STRING", {"default": "a red circle on grass", "multiline": True}),
                "steps": _STEPS,
                "seed": _SEED,
                "images": ("INT", {"default": 1, "min": 1, "max": 64, "tooltip": "How many, from this seed on."}),
            },
            "optional": {
                "guidance_scale": (
                    "FLOAT",
                    {"default": -1.0, "min": -1.0, "max": 100.0, "step": 0.1, "tooltip": "-1: the model's own."},
                ),
                "width": ("INT", {**_SIDE, "tooltip": "In px; 0: the model's own."}),
                "height": ("INT", {**_SIDE, "tooltip": "In px; 0: the model's own."}),
                "layers": _LAYERS,
                "timesteps": _TIMESTEPS,
            },
        }

    def generate(
        self,
        pipeline: Any,
        prompt: str,
        steps: int,
        seed: int,
        images: int,
        guidance_scale: float = -1.0,
        width: int = 0,
        height: int = 0,
        layers: str = "",
        timesteps: str = "",
    ) -> tuple[torch.Tensor, tuple[Seen, ...]]:
        """Images (batch, height, width, 3) in [0, 1], one for each seed from ``seed`` on, and what was seen of each."""
        from mmdit_probe.configs import GenerationConfig
        from mmdit_probe.pipelines.defaults import text_length
        from mmdit_probe.pipelines.prompts import check_length
        from mmdit_probe.tracing import read_generated
        from mmdit_probe.utils.text import checked_text

        prompt = checked_text("prompt", prompt)
        check_length(pipeline, [prompt], text_length(pipeline))
        config = GenerationConfig(
            steps=steps,
            seed=seed,
            guidance_scale=None if guidance_scale < 0 else guidance_scale,
            width=width or None,
            height=height or None,
        )
        where = kept(layers, timesteps)
        with shown(pipeline, images * steps):
            found = tuple(
                read_generated(pipeline, prompt, generation=replace(config, seed=one), **where)
                for one in range(seed, seed + images)
            )
        return batch_of([_picture(seen) for seen in found]), found


class ReadImage:
    """Reads images that exist, with one forward pass at each timestep."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Mixes each image with noise, passes it through the model once a timestep, and reads where the words are."
    )
    RETURN_TYPES = (SEEN,)
    RETURN_NAMES = ("seen",)
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The node's sockets and widgets."""
        return {
            "required": {
                "pipeline": (PIPELINE,),
                "images": ("IMAGE",),
                "prompt": ("STRING", {"default": "", "multiline": True, "tooltip": "What the images show."}),
                "steps": _STEPS,
                "seed": _SEED,
            },
            "optional": {"layers": _LAYERS, "timesteps": _TIMESTEPS},
        }

    def read(
        self,
        pipeline: Any,
        images: torch.Tensor,
        prompt: str,
        steps: int,
        seed: int,
        layers: str = "",
        timesteps: str = "",
    ) -> tuple[tuple[Seen, ...]]:
        """What was seen of each of the images (batch, height, width, 3) in [0, 1]."""
        from mmdit_probe import read_image
        from mmdit_probe.configs import GenerationConfig

        generation, where = GenerationConfig(steps=steps, seed=seed), kept(layers, timesteps)
        with shown(pipeline, 0):
            return (
                tuple(read_image(pipeline, image, prompt, generation=generation, **where) for image in pixels(images)),
            )


class Overlay:
    """Where a word is: its map over the images, as a mask, and in numbers."""

    CATEGORY = CATEGORY
    DESCRIPTION = "The map of a word over the images; as a mask, 1 is the map's largest value."
    RETURN_TYPES = ("IMAGE", "MASK", "STRING")
    RETURN_NAMES = ("overlays", "masks", "numbers")
    FUNCTION = "overlay"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The node's sockets and widgets."""
        return {
            "required": {
                "seen": (SEEN,),
                "word": ("STRING", {"default": "circle", "tooltip": "Of the prompt; circle#2 is the second circle."}),
                "layer": ("INT", {"default": -1, "min": -1, "max": 1000, "tooltip": "-1: the expert layer, if known."}),
                "timestep": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0: the chosen one, 8 of 28."}),
                "smooth": ("BOOLEAN", {"default": True, "tooltip": "Between tokens; else each is a block."}),
            }
        }

    def overlay(
        self, seen: Sequence[Seen], word: str, layer: int, timestep: int, smooth: bool
    ) -> tuple[torch.Tensor, torch.Tensor, str]:
        """Overlays (batch, height, width, 3), masks (batch, height, width), both in [0, 1], and a line for each image.

        `ValueError` if the word is not in the prompt, or the layer or timestep was not kept.
        """
        words = [one.word(word.strip(), layer=None if layer < 0 else layer, timestep=timestep or None) for one in seen]
        overlays = [np.asarray(found.overlay(smooth=smooth)) for found in words]
        masks = [
            _mask(found.map.values, picture.shape[:2], smooth) for found, picture in zip(words, overlays, strict=True)
        ]
        return batch_of(overlays), torch.stack(masks), "\n".join(found.describe() for found in words)


class Pages:
    """Writes the explorer page and the report of each image."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Writes an explorer page and a report for each image: single HTML files that need no server."
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("explorer", "report")
    FUNCTION = "write"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The node's sockets and widgets."""
        return {
            "required": {
                "seen": (SEEN,),
                "prefix": (
                    "STRING",
                    {
                        "default": "mmdit-probe/image",
                        "tooltip": "Folder and beginning of the files' names, in the output folder.",
                    },
                ),
            }
        }

    def write(self, seen: Sequence[Seen], prefix: str) -> dict[str, Any]:
        """Paths of the explorer pages and of the reports, one a line; numbers go on where the folder's files end.

        `ValueError` if the prefix leads out of ComfyUI's output folder.
        """
        explorers, reports = [], []
        for one, stem in zip(seen, free_stems(prefix, output_folder()), strict=False):
            explorers.append(str(one.explore().save(f"{stem}_explore.html")))
            reports.append(str(one.report().save(f"{stem}_report.html")))
        result = ("\n".join(explorers), "\n".join(reports))
        return {"ui": {"text": list(result)}, "result": result}


def kept(layers: str, timesteps: str) -> dict[str, Any]:
    """Layers and timesteps as `trace` takes them, of what was typed; None where nothing was."""
    from mmdit_probe.cli.parsing import layers_or_word, timesteps_or_all

    return {
        "layers": layers_or_word(layers) if layers.strip() else None,
        "timesteps": timesteps_or_all(timesteps) if timesteps.strip() else None,
    }


def shown(pipeline: Any, total: int) -> AbstractContextManager[None]:
    """ComfyUI's progress bar, which is also where its user can interrupt; nothing outside of ComfyUI."""
    if "comfy" not in sys.modules:
        return nullcontext()
    from comfy.utils import ProgressBar

    from mmdit_probe.pipelines.call_count import counted_calls

    bar = ProgressBar(max(total, 1))
    return counted_calls(pipeline, lambda done, of: bar.update_absolute(done, of), total)


def output_folder() -> Path:
    """ComfyUI's folder of outputs, outside of it the current one."""
    if "folder_paths" not in sys.modules:
        return Path.cwd()
    import folder_paths

    return Path(folder_paths.get_output_directory())


def free_stems(prefix: str, folder: Path) -> Iterator[Path]:
    """Beginnings of file names that no file has yet: prefix_00001, prefix_00002 and so on."""
    stem = (folder / prefix).resolve()
    if not stem.is_relative_to(folder.resolve()) or stem == folder.resolve():
        raise ValueError(f"prefix: expected a name inside of the output folder, got {prefix!r}")
    taken = [file.name.removeprefix(f"{stem.name}_").split("_")[0] for file in stem.parent.glob(f"{stem.name}_*.html")]
    number = max((int(digits) for digits in taken if digits.isdecimal()), default=0)
    while True:
        number += 1
        yield stem.with_name(f"{stem.name}_{number:05}")


def _picture(seen: Seen) -> np.ndarray:
    if seen.image is None:
        raise ValueError("generate: the pipeline made no image that can be shown")
    return seen.image


def batch_of(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """ComfyUI's IMAGE, (batch, height, width, 3) in [0, 1], of (height, width, 3) uint8 RGB."""
    return torch.stack([torch.from_numpy(picture.astype(np.float32) / 255) for picture in pictures])


def pixels(images: torch.Tensor) -> list[np.ndarray]:
    """(height, width, 3) uint8 RGB of each image of ComfyUI's IMAGE; a fourth channel is left out."""
    values = images[..., :3].detach().float().cpu().clamp(0, 1)
    return list((255 * values).round().to(torch.uint8).numpy())


def _mask(grid: np.ndarray, size: tuple[int, int], smooth: bool) -> torch.Tensor:
    """A map, (height, width), as a share of its largest value."""
    from mmdit_probe.figures.overlay import heat

    return torch.from_numpy(heat(grid, size[::-1], smooth)[1].astype(np.float32))


NODE_CLASS_MAPPINGS: dict[str, Callable[[], Any]] = {
    "MMDiTProbeLoadPipeline": LoadPipeline,
    "MMDiTProbeGenerate": Generate,
    "MMDiTProbeReadImage": ReadImage,
    "MMDiTProbeOverlay": Overlay,
    "MMDiTProbePages": Pages,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "MMDiTProbeLoadPipeline": "Load Diffusers Pipeline (mmdit-probe)",
    "MMDiTProbeGenerate": "Generate and Read (mmdit-probe)",
    "MMDiTProbeReadImage": "Read Images (mmdit-probe)",
    "MMDiTProbeOverlay": "Where a Word Is (mmdit-probe)",
    "MMDiTProbePages": "Explorer Page and Report (mmdit-probe)",
}
