"""Every system whose steps work on an MM-DiT's attention, on one backbone and the same scenes.

Thresholds that depend on the backbone are chosen on validation scenes; the reported numbers come from test scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

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

NAMES: dict[Method, str] = {
    "seg4diff": "Seg4Diff",
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
    """

    def __init__(
        self,
        pipe: Pipeline,
        model: str,
        config: ComparisonConfig,
        out: Path,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.pipe, self.model, self.config, self.out, self.say = pipe, model, config, out, say
        self.layer = expert_layer(pipe)

    def tuning(self) -> pd.DataFrame:
        """mIoU on the validation scenes: ``method``, ``threshold`` or ``entropy`` and ``iterations``, and ``miou`` in [0, 1].

        Regions are matched as in the paper.
        """
        scenes, config = held_out_scenes(self.config.validation, "val"), self.config
        tried: list[dict[str, Any]] = []
        for method, thresholds in config.thresholds.items():
            for threshold in thresholds:
                found = self._unsupervised(method, threshold, scenes)
                tried.append({"method": method, "threshold": threshold, "miou": found.settings["miou"].iloc[0]})
        for entropy, iterations in product(config.entropies, config.iterations):
            selection = Selection(refine="iseg", refine_entropy=entropy, refine_steps=iterations)
            found = self._named(self.pipe, self.model, selection, scenes)
            own = {"method": "iseg", "entropy": entropy, "iterations": iterations}
            tried.append({**own, "miou": found.settings["miou"].iloc[0]})
        return pd.DataFrame(tried)

    def table(self, tuning: pd.DataFrame, magnet: Any = None, lora: str | None = None) -> pd.DataFrame:
        """The methods on the test scenes, regions matched as in the paper.

        Args:
            tuning: the table of `tuning`; each method's best row is taken.
            magnet: the pipeline with ``lora``, None to leave it out.
            lora: the LoRA's file or hub id.

        Returns:
            One row for each system: ``task``, ``system``, ``threshold``, ``miou`` and ``pacc`` in [0, 1], and ``per_second``,
            images per second.
        """
        lora = lora and model_fingerprint(lora)
        scenes = held_out_scenes(self.config.scenes)
        best = tuning.loc[tuning.groupby("method")["miou"].idxmax()].set_index("method")
        return pd.DataFrame(
            [*self._by_names(scenes, best, magnet, lora), *self._without_words(scenes, best, magnet, lora)]
        )

    def _by_names(
        self, scenes: LabeledImages, best: pd.DataFrame, magnet: Any, lora: str | None
    ) -> Iterator[dict[str, Any]]:
        refinements: Sequence[Refine] = ("none", *REFINERS)
        for refine in refinements:
            name = "Seg4Diff" + ("" if refine == "none" else f" + {refine}")
            found = self._named(self.pipe, self.model, Selection(refine=refine), scenes)
            yield _row("open-vocabulary", name, None, found, scenes)
        entropy, iterations = float(best.loc["iseg", "entropy"]), int(best.loc["iseg", "iterations"])
        tuned = Selection(refine="iseg", refine_entropy=entropy, refine_steps=iterations)
        found = self._named(self.pipe, self.model, tuned, scenes)
        name = f"Seg4Diff + iseg (tuned: entropy {entropy:g}, {iterations} iterations)"
        yield _row("open-vocabulary", name, None, found, scenes)
        if magnet is not None:
            found = self._named(magnet, f"{self.model}, LoRA {lora}", Selection(), scenes)
            yield _row("open-vocabulary", "Seg4Diff + MAGNET", None, found, scenes)

    def _without_words(
        self, scenes: LabeledImages, best: pd.DataFrame, magnet: Any, lora: str | None
    ) -> Iterator[dict[str, Any]]:
        chosen = best["threshold"]
        for method, name in NAMES.items():
            for threshold, how in ((released_threshold(method), "released"), (float(chosen[method]), "tuned")):
                found = self._unsupervised(method, threshold, scenes)
                yield _row("unsupervised", f"{name} ({how})", threshold, found, scenes)
        if magnet is not None:
            found = self._unsupervised("seg4diff", float(chosen["seg4diff"]), scenes, magnet, f", LoRA {lora}")
            yield _row("unsupervised", "Seg4Diff + MAGNET (tuned)", float(chosen["seg4diff"]), found, scenes)
        for baseline in TRIVIAL:
            by_matching = found.trivial[found.trivial["baseline"] == baseline].set_index("matching")
            own = by_matching.loc["paper"]
            yield {"task": "unsupervised", "system": baseline, "miou": own["miou"], "pacc": own["pacc"]}

    def _config(self, **options: Any) -> EvaluateConfig:
        own = self.config
        return EvaluateConfig(
            layers=(self.layer,), timesteps=(own.timestep,), batch=own.batch, seed=own.seed, **options
        )

    def _named(self, pipe: Pipeline, model: str, selection: Selection, scenes: LabeledImages) -> Evaluation:
        name: str = selection.refine
        if selection.refine_entropy is not None:
            name += f"-{selection.refine_entropy:g}-{selection.refine_steps}"
        return self._run(LoadedMethod(selection, pipe), self._config(), scenes, model, name)

    def _unsupervised(
        self, method: Method, threshold: float, scenes: LabeledImages, pipe: Pipeline | None = None, lora: str = ""
    ) -> Evaluation:
        loaded = LoadedMethod(Selection(method=method, threshold=threshold), self.pipe if pipe is None else pipe)
        config = self._config(task="unsupervised", trivial=True)
        return self._run(loaded, config, scenes, self.model + lora, f"{method}-{threshold:g}")

    def _run(
        self, loaded: LoadedMethod, config: EvaluateConfig, scenes: LabeledImages, model: str, name: str
    ) -> Evaluation:
        folder = f"{scenes.name}-{name}{'-lora' if 'LoRA' in model else ''}"
        self.say(folder)
        own = replace(loaded.selection.fill(config), limit=len(scenes.samples))
        return tabulate(run_evaluation(loaded.pipe, scenes, own, self.out / folder, model, counter=loaded.counter(own)))


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
