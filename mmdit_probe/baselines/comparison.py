"""Every system whose steps work on an MM-DiT's attention, on one backbone and the same scenes.

Thresholds that depend on the backbone are chosen on validation scenes; the reported numbers come from test scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from ..configs import EvaluateConfig
from ..datasets.labeled import LabeledImages
from ..datasets.registry import held_out_scenes
from ..evaluation.run import run_evaluation
from ..evaluation.tables import Evaluation, tabulate
from ..evaluation.trivial import TRIVIAL
from ..families import Pipeline
from ..pipelines.defaults import expert_layer
from ..storage.digests import model_fingerprint
from .loaded import LoadedMethod
from .registry import REFINERS, SEG4DIFF, SYSTEMS, Method, Refine
from .selection import Selection

MAGNET: Final = "magnet"
"""Seg4Diff on the copy of the pipeline that was trained with MAGNET."""
Grouper = Method | Literal["magnet"]
NAMES: dict[Grouper, str] = {
    "seg4diff": "Seg4Diff",
    MAGNET: "Seg4Diff + MAGNET",
    "diffseg": "DiffSeg on MM-DiT",
    "diffcut": "DiffCut on MM-DiT",
}


def released_threshold(method: Method) -> float:
    """The threshold of a method's released code."""
    if method == SEG4DIFF:
        return EvaluateConfig.threshold
    system = SYSTEMS[method]
    return float(getattr(system.config, str(system.threshold)))


@dataclass(frozen=True)
class ComparisonConfig:
    """The settings of `Comparison`.

    Attributes:
        scenes: number of test scenes.
        validation: number of validation scenes, on which thresholds are chosen.
        timestep: counted from the clean end, of 28.
        batch: images of one forward pass.
        seed: of the noise.
        entropies: tried for iSeg, each with all ``iterations``.
        iterations: tried for iSeg, each with all ``entropies``.
        thresholds: tried for each method without words.
    """

    scenes: int = 300
    validation: int = 100
    timestep: int = 2
    batch: int = 50
    seed: int = 0
    entropies: tuple[float, ...] = (0.015, 0.2, 0.5, 1.0)
    iterations: tuple[int, ...] = (1, 2, 4, 8)
    thresholds: dict[Method, tuple[float, ...]] = field(
        default_factory=lambda: {
            "seg4diff": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
            "diffseg": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.4),
            "diffcut": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        }
    )


class Comparison:
    """Evaluates one pipeline, and optionally a copy with a LoRA, with each method.

    Args:
        pipe: a pipeline whose family takes images as input.
        model: what the numbers depend on in the model, in words.
        config: the settings.
        out: output folder; interrupted runs continue there.
        say: called with the name of each evaluation before it starts.
        magnet: a copy of the pipeline with ``lora``, None to leave its rows out.
        lora: the LoRA's file or hub id.
    """

    def __init__(
        self,
        pipe: Pipeline,
        model: str,
        config: ComparisonConfig,
        out: Path,
        say: Callable[[str], None] = lambda text: None,
        magnet: Pipeline | None = None,
        lora: str | None = None,
    ) -> None:
        self.pipe, self.model, self.config, self.out, self.say = pipe, model, config, out, say
        self.magnet, self.lora = magnet, lora
        self.layer = expert_layer(pipe)

    def tuning(self) -> pd.DataFrame:
        """mIoU on the validation scenes: ``method``, ``threshold`` or ``entropy`` and ``iterations``, and ``miou`` in [0, 1].

        Regions are matched as in the paper. The trained copy's rows are called `MAGNET`.
        """
        scenes, config = held_out_scenes(self.config.validation, "val"), self.config
        tried: list[dict[str, Any]] = []
        for grouper in self._groupers():
            for threshold in config.thresholds[_method(grouper)]:
                found = self._unsupervised(grouper, threshold, scenes)
                tried.append({"method": grouper, "threshold": threshold, "miou": found.settings["miou"].iloc[0]})
        for entropy, iterations in product(config.entropies, config.iterations):
            selection = Selection(refine="iseg", refine_entropy=entropy, refine_steps=iterations)
            found = self._named(selection, scenes)
            own = {"method": "iseg", "entropy": entropy, "iterations": iterations}
            tried.append({**own, "miou": found.settings["miou"].iloc[0]})
        return pd.DataFrame(tried)

    def table(self, tuning: pd.DataFrame) -> pd.DataFrame:
        """The methods on the test scenes, regions matched as in the paper.

        Args:
            tuning: the table of `tuning`; each method's best row is taken.

        Returns:
            One row for each system: ``task``, ``system``, ``threshold``, ``miou`` and ``pacc`` in [0, 1], and ``per_second``,
            images per second.
        """
        scenes = held_out_scenes(self.config.scenes)
        best = tuning.loc[tuning.groupby("method")["miou"].idxmax()].set_index("method")
        return pd.DataFrame([*self._by_names(scenes, best), *self._without_words(scenes, best["threshold"])])

    def _by_names(self, scenes: LabeledImages, best: pd.DataFrame) -> Iterator[dict[str, Any]]:
        refinements: Sequence[Refine] = ("none", *REFINERS)
        for refine in refinements:
            name = "Seg4Diff" + ("" if refine == "none" else f" + {refine}")
            yield _row("open-vocabulary", name, None, self._named(Selection(refine=refine), scenes), scenes)
        entropy, iterations = float(best.loc["iseg", "entropy"]), int(best.loc["iseg", "iterations"])
        found = self._named(Selection(refine="iseg", refine_entropy=entropy, refine_steps=iterations), scenes)
        name = f"Seg4Diff + iseg (tuned: entropy {entropy:g}, {iterations} iterations)"
        yield _row("open-vocabulary", name, None, found, scenes)
        if self.magnet is not None:
            found = self._named(Selection(), scenes, trained=True)
            yield _row("open-vocabulary", "Seg4Diff + MAGNET", None, found, scenes)

    def _without_words(self, scenes: LabeledImages, chosen: pd.Series) -> Iterator[dict[str, Any]]:
        for grouper in self._groupers():
            released, tuned = released_threshold(_method(grouper)), float(chosen[grouper])
            for threshold, how in ((released, "released"), (tuned, "tuned")):
                found = self._unsupervised(grouper, threshold, scenes)
                yield _row("unsupervised", f"{NAMES[grouper]} ({how})", threshold, found, scenes)
        for baseline in TRIVIAL:
            by_matching = found.trivial[found.trivial["baseline"] == baseline].set_index("matching")
            own = by_matching.loc["paper"]
            yield {"task": "unsupervised", "system": baseline, "miou": own["miou"], "pacc": own["pacc"]}

    def _config(self, **options: Any) -> EvaluateConfig:
        own = self.config
        return EvaluateConfig(
            layers=(self.layer,), timesteps=(own.timestep,), batch=own.batch, seed=own.seed, **options
        )

    def _named(self, selection: Selection, scenes: LabeledImages, trained: bool = False) -> Evaluation:
        name: str = selection.refine
        if selection.refine_entropy is not None:
            name += f"-{selection.refine_entropy:g}-{selection.refine_steps}"
        return self._run(selection, self._config(), scenes, name, trained)

    def _groupers(self) -> list[Grouper]:
        return [grouper for grouper in NAMES if grouper != MAGNET or self.magnet is not None]

    def _unsupervised(self, grouper: Grouper, threshold: float, scenes: LabeledImages) -> Evaluation:
        method = _method(grouper)
        selection, config = (
            Selection(method=method, threshold=threshold),
            self._config(task="unsupervised", trivial=True),
        )
        return self._run(selection, config, scenes, f"{method}-{threshold:g}", trained=grouper == MAGNET)

    def _run(
        self, selection: Selection, config: EvaluateConfig, scenes: LabeledImages, name: str, trained: bool
    ) -> Evaluation:
        folder = f"{scenes.name}-{name}{'-lora' if trained else ''}"
        self.say(folder)
        loaded = LoadedMethod(selection, self.magnet if trained else self.pipe)
        model = f"{self.model}, LoRA {model_fingerprint(str(self.lora))}" if trained else self.model
        own = replace(selection.fill(config), limit=len(scenes.samples))
        return tabulate(run_evaluation(loaded.pipe, scenes, own, self.out / folder, model, counter=loaded.counter(own)))


def _method(grouper: Grouper) -> Method:
    return SEG4DIFF if grouper == MAGNET else grouper


def _row(task: str, name: str, threshold: float | None, found: Evaluation, scenes: LabeledImages) -> dict[str, Any]:
    first = found.settings.iloc[0]
    return {
        "task": task,
        "system": name,
        "threshold": threshold,
        "miou": first["miou"],
        "pacc": first["pacc"],
        "per_second": len(scenes.samples) / found.seconds,
    }
