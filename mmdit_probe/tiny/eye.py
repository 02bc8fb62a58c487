"""What the eye sees in images of the embedded model, and how well the scene reader and the tiny CLIP agree with it.

The labels were given image by image by one judge, a large vision-language model, with the prompt at hand and without the
reader's readings: a ground or a color counts as seen if it is plainly there, a shape if it would be taken for this one of the
eight without the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..datasets.scenes import GROUNDS
from ..metrics.bootstrap import bootstrap_weights
from ..metrics.image_metrics import Clip
from ..metrics.inference import Interval, drawn_interval
from ..metrics.scene_reader import Fact, SceneReader, prompt_facts
from ..storage.files import read_text

LABELS = "seen_by_eye.json"
KINDS = ("ground", "shape", "colored shape")


@dataclass(frozen=True)
class Seen:
    """One image's prompt and those of its facts that the judge sees in the image."""

    prompt: str
    facts: frozenset[Fact]


@dataclass(frozen=True)
class EyeLabels:
    """The labels of one run of images.

    Attributes:
        transformer: SHA-256 of the weights that made the images.
        seed: of each image's noise.
        images: what was seen, image by image.
    """

    transformer: str
    seed: int
    images: tuple[Seen, ...]


def stated_facts(prompt: str) -> dict[Fact, str]:
    """The prompt's facts and the kind of each: its grounds, its shapes, and its shapes in their colors.

    >>> stated_facts("a red star on grass")
    {('grass',): 'ground', ('star',): 'shape', ('red', 'star'): 'colored shape'}
    """
    found: dict[Fact, str] = {}
    for fact in sorted(prompt_facts(prompt), key=lambda fact: (fact[0] not in GROUNDS, fact)):
        if fact[0] in GROUNDS:
            found[fact] = "ground"
        else:
            found[(fact[-1],)] = "shape"
            if len(fact) == 2:
                found[fact] = "colored shape"
    return found


def read_labels(file: Path) -> EyeLabels:
    """Read the labels; `ValueError` if an image is said to show what its prompt does not state."""
    content = json.loads(read_text(file))
    images = []
    for prompt, names in content["images"]:
        by_name = {" ".join(fact): fact for fact in stated_facts(prompt)}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise ValueError(f"{file}: {unknown[0]!r} is no fact of {prompt!r}; these are: {', '.join(by_name)}")
        images.append(Seen(prompt, frozenset(by_name[name] for name in names)))
    return EyeLabels(content["transformer"], content["seed"], tuple(images))


def fact_table(images: Sequence[Seen], read: Sequence[frozenset[Fact]]) -> pd.DataFrame:
    """One row for each stated fact: ``image`` (its number), ``kind``, and whether ``eye`` and ``reader`` find it."""
    rows = [
        (number, kind, fact in seen.facts, fact in found)
        for number, (seen, found) in enumerate(zip(images, read, strict=True))
        for fact, kind in stated_facts(seen.prompt).items()
    ]
    return pd.DataFrame(rows, columns=["image", "kind", "eye", "reader"])


def _share_interval(table: pd.DataFrame, column: str, images: int) -> Interval:
    """The share of true values of ``column``, with the interval over whole images."""
    by_image = table.groupby("image")[column].agg(["sum", "size"]).reindex(range(images), fill_value=0)
    weights = bootstrap_weights(images)
    hits, sizes = (weights @ by_image[name].to_numpy(float) for name in ("sum", "size"))
    drawn = np.divide(hits, sizes, out=np.zeros_like(hits), where=sizes > 0)
    return drawn_interval(float(table[column].mean()), drawn, int((by_image["size"] > 0).sum()))


def reader_agreement(table: pd.DataFrame, images: int) -> dict[str, dict[str, Any]]:
    """By kind of fact, of a `fact_table`: shares in [0, 1] that the eye and the reader find, and that they agree on.

    ``missed`` counts facts that only the eye finds, ``imagined`` those that only the reader finds; ``low`` and ``high`` are
    the 95% interval of ``agree`` over images.
    """
    table = table.assign(agree=table["eye"] == table["reader"])
    found = {}
    for kind in KINDS:
        own = table[table["kind"] == kind]
        share = _share_interval(own, "agree", images)
        found[kind] = {
            "facts": len(own),
            "eye": float(own["eye"].mean()),
            "reader": float(own["reader"].mean()),
            "agree": share.mean,
            "low": share.low,
            "high": share.high,
            "missed": int((own["eye"] & ~own["reader"]).sum()),
            "imagined": int((own["reader"] & ~own["eye"]).sum()),
        }
    return found


def rank_agreement(scores: np.ndarray, shares: np.ndarray) -> Interval:
    """Spearman's correlation of a score of each image and the share of its facts that the eye sees, over images."""
    count = len(scores)
    drawn = []
    for weights in bootstrap_weights(count)[:1000]:
        chosen = np.repeat(np.arange(count), weights.astype(int))
        drawn.append(_spearman(scores[chosen], shares[chosen]))
    return drawn_interval(_spearman(scores, shares), np.array(drawn), count)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """NaN where one of them is constant."""
    ranks = [pd.Series(values).rank().to_numpy() for values in (a, b)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _without_nan(interval: Interval) -> dict[str, float | None]:
    """For a JSON file, in which what is not known is null."""
    return {key: None if np.isnan(value) else value for key, value in interval._asdict().items()}


def measure_instruments(labels: EyeLabels, images: np.ndarray, reader: SceneReader, clip: Clip) -> dict[str, Any]:
    """How the reader and the CLIP agree with the eye on ``images`` (n, 64, 64, 3) uint8, made for the labels' prompts.

    Besides `reader_agreement`: for images with shapes, ``clip_rank`` and ``reader_rank``, the rank correlations of CLIP-T and of
    the share of facts that the reader finds with the share that the eye sees.
    """
    prompts = [seen.prompt for seen in labels.images]
    read = reader.read(images)
    table = fact_table(labels.images, read)
    shares = table.groupby("image")[["eye", "reader"]].mean()
    shaped = np.flatnonzero(["shape" in stated_facts(prompt).values() for prompt in prompts])
    scores = {
        "clip_rank": clip.text_similarity(images, images, prompts)[shaped],
        "reader_rank": shares["reader"].to_numpy(float)[shaped],
    }
    seen = shares["eye"].to_numpy(float)[shaped]
    ranks: Mapping[str, Interval] = {name: rank_agreement(values, seen) for name, values in scores.items()}
    return {
        "images": len(prompts),
        "seed": labels.seed,
        "kinds": reader_agreement(table, len(prompts)),
        **{name: _without_nan(interval) for name, interval in ranks.items()},
    }
