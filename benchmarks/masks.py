"""Images per second of masks from attention: ``python -m benchmarks.masks``.

On tiny-sd3 and held-out scenes, one image at a time and in batches. Stopping after the expert layer is compared with
running the whole forward pass, and with materializing every layer's softmax and slicing it; in turn, round by round.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pandas as pd
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mmdit_probe import OpenVocabularySegmenter, TokenLayout, load_pipeline
from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import held_out_scenes
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.evaluation import run as evaluation
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import tabulate
from mmdit_probe.pipelines.forward import add_noise, forward_once
from mmdit_probe.pipelines.image_size import native_size, token_pixels
from mmdit_probe.segmentation.map_reader import MapReader

from .cost import in_turn

CLASSES = ("grass", "sand", "circle", "star")


class MaterializeAll(TorchFunctionMode):
    """Every layer's full softmax, kept, as is usual."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        self.kept.append((query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1))
        return self.kept[-1] @ value


class Whole(MapReader):
    """Does not stop early."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.probe.stop_early = False


class Materializing(MapReader):
    """The whole forward pass, every layer's softmax in memory, the I2T maps cut out of it."""

    def _one(self, latents, sigma, features) -> torch.Tensor:
        noisy = torch.cat([add_noise(row[None], sigma, self.seed) for row in latents])
        with MaterializeAll() as every:
            forward_once(self.pipe, noisy, sigma, features)
        side = native_size(self.pipe) // token_pixels(self.pipe)
        layout = TokenLayout((side, side), features.text.kinds.shape[1])
        maps = [every.kept[layer][:, :, layout.image_queries, layout.text_keys].mean(1) for layer in self.layers]
        return torch.stack(maps, 1).unflatten(2, layout.grid)[None]


READERS = {"stopped early": MapReader, "whole forward pass": Whole, "materialized": Materializing}


def of_segment(pipe, batch: int, rounds: int) -> list[dict[str, object]]:
    """Seconds of one batch of images by each way of reading; `ValueError` if their masks differ."""
    images = [scene("test", number).image for number in range(batch)]

    def with_reader(kind: type[MapReader]) -> Callable[[], object]:
        segmenter = OpenVocabularySegmenter(pipe)
        own = segmenter.reader
        segmenter.reader = kind(pipe, own.probe.readouts[0], own.layers, own.timesteps)
        return lambda: segmenter.batch(images, CLASSES)

    variants = {f"segment, {name}": with_reader(kind) for name, kind in READERS.items()}
    first, *others = ([one.labels for one in variant()] for variant in variants.values())
    if any((labels != made).mean() > 0.001 for other in others for labels, made in zip(first, other, strict=True)):
        raise ValueError("the ways of reading give other masks")
    return rates(in_turn(variants, rounds), batch, f"batch {batch}")


def of_evaluate(pipe, images: int) -> list[dict[str, object]]:
    """Seconds of an evaluation of the expert layer by each way of reading, and of all layers at once."""
    scenes, expert = held_out_scenes(images), OpenVocabularySegmenter(pipe).layer

    def evaluate(layers: tuple[int, ...] | None, kind: type[MapReader]) -> None:
        with TemporaryDirectory() as out, patch.object(evaluation, "MapReader", kind):
            tabulate(run_evaluation(pipe, scenes, EvaluateConfig(layers=layers, batch=50), out, "tiny-sd3"))

    variants = {f"evaluate, {name}": lambda kind=kind: evaluate((expert,), kind) for name, kind in READERS.items()}
    variants["evaluate, all layers"] = lambda: evaluate(None, MapReader)
    return rates(in_turn(variants, 5), images, f"{images} images")


def rates(times: pd.DataFrame, images: int, kind: str) -> list[dict[str, object]]:
    """Median, least and greatest images per second, and the median ratio of its times to the first variant's."""
    first = times.columns[0]
    return [
        {
            "what": name,
            "kind": kind,
            "images per second": images / median(times[name]),
            "least": images / times[name].max(),
            "most": images / times[name].min(),
            "time ratio": median(times[name] / times[first]),
        }
        for name in times.columns
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    pipe = load_pipeline()
    rows = [row for batch in (1, 16) for row in of_segment(pipe, batch, given.rounds)] + of_evaluate(pipe, given.images)
    table = pd.DataFrame(rows)
    print(json.dumps(rows) if given.json else table.to_string(index=False, float_format="%.2f", na_rep=""))


if __name__ == "__main__":
    main()
