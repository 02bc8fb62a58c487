"""Pictures per second of masks from attention: ``python -m benchmarks.masks``.

On tiny-sd3 and held-out scenes, one picture at a time and in batches. Stopping after the expert layer is compared with
running the whole forward pass, and with materialising every layer's softmax; in turn, round by round.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mmdit_probe import OpenVocabularySegmenter, load_pipeline
from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import held_out_scenes
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.forward import add_noise, forward_once
from mmdit_probe.segmentation.evaluation import run_evaluation
from mmdit_probe.segmentation.evaluation_tables import tabulate

from .cost import in_turn

CLASSES = ("grass", "sand", "circle", "star")


class MaterialiseAll(TorchFunctionMode):
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


def of_segment(pipe, batch: int, rounds: int) -> list[dict[str, object]]:
    """Seconds of one batch of pictures, stopped early, run whole, and materialised."""
    pictures = [scene("test", number).image for number in range(batch)]
    stopped, whole = OpenVocabularySegmenter(pipe), OpenVocabularySegmenter(pipe)
    whole.reader.probe.stop_early = False
    reader, prompts = stopped.reader, (" ".join(CLASSES),) * batch

    def materialise() -> None:
        latents, sigma = reader.latents(pictures), reader.sigmas[0]
        with MaterialiseAll():
            forward_once(pipe, add_noise(latents, sigma, 0), sigma, reader.features(prompts))

    variants = {
        "segment": lambda: stopped.batch(pictures, CLASSES),
        "segment, whole forward pass": lambda: whole.batch(pictures, CLASSES),
        "materialise every layer, no masks made": materialise,
    }
    return rates(in_turn(variants, rounds), batch, f"batch {batch}")


def of_evaluate(pipe, pictures: int) -> list[dict[str, object]]:
    """Seconds of an evaluation, of the expert layer and of all layers."""
    scenes, expert = held_out_scenes(pictures), OpenVocabularySegmenter(pipe).layer

    def evaluate(layers) -> None:
        with TemporaryDirectory() as out:
            tabulate(run_evaluation(pipe, scenes, EvaluateConfig(layers=layers, batch=50), out, "tiny-sd3"))

    variants = {"evaluate, expert layer": lambda: evaluate((expert,)), "evaluate, all layers": lambda: evaluate(None)}
    return rates(in_turn(variants, 3), pictures, f"{pictures} pictures")


def rates(times: pd.DataFrame, pictures: int, kind: str) -> list[dict[str, object]]:
    """Median, least and greatest pictures per second, and the median ratio of its times to the first variant's."""
    first = times.columns[0]
    return [
        {
            "what": name,
            "kind": kind,
            "pictures per second": pictures / median(times[name]),
            "least": pictures / times[name].max(),
            "most": pictures / times[name].min(),
            "time ratio": median(times[name] / times[first]),
        }
        for name in times.columns
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    pipe = load_pipeline()
    rows = [row for batch in (1, 16) for row in of_segment(pipe, batch, given.rounds)] + of_evaluate(
        pipe, given.pictures
    )
    table = pd.DataFrame(rows)
    print(json.dumps(rows) if given.json else table.to_string(index=False, float_format="%.2f", na_rep=""))


if __name__ == "__main__":
    main()
