"""Every system whose steps work on an MM-DiT's attention, on one backbone and the same scenes.

Thresholds that depend on the backbone are chosen on validation scenes, which no reported number comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from ..configs import EvaluateConfig
from ..configs.baselines import DiffCutConfig, DiffSegConfig, RefineConfig
from ..datasets.labeled import LabeledImages
from ..datasets.registry import held_out_scenes
from ..evaluation.run import Counter, run_evaluation
from ..evaluation.tables import Evaluation, tabulate
from ..evaluation.trivial import TRIVIAL
from ..pipelines.defaults import expert_layer
from ..storage.digests import model_fingerprint
from .counters import RegionCounter, joint_config, refined_counter
from .registry import REFINERS

RIVALS: dict[str, Any] = {"diffseg": DiffSegConfig(), "diffcut": DiffCutConfig()}
NAMES = {"seg4diff": "Seg4Diff", "diffseg": "DiffSeg on MM-DiT", "diffcut": "DiffCut on MM-DiT"}
RELEASED = {"seg4diff": EvaluateConfig.threshold, "diffseg": DiffSegConfig.threshold, "diffcut": DiffCutConfig.tau}


@dataclass(frozen=True)
class ComparisonConfig:
    """``scenes`` of the test split are scored, thresholds chosen on ``validation`` others; ``timestep`` counts from the
    clean end, of 28. ``thresholds`` are tried for each method without words, ``entropies`` with ``iterations`` for iSeg.
    """

    scenes: int = 300
    validation: int = 100
    timestep: int = 2
    batch: int = 50
    seed: int = 0
    entropies: tuple[float, ...] = (0.015, 0.2, 0.5, 1.0)
    iterations: tuple[int, ...] = (1, 2, 4, 8)
    thresholds: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "seg4diff": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
            "diffseg": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.4),
            "diffcut": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        }
    )


class Comparison:
    """Scores one pipeline, and a copy with a LoRA, in all the ways; runs continue in ``out``.

    ``say`` is told what is being scored.
    """

    def __init__(
        self,
        pipe: Any,
        model: str,
        config: ComparisonConfig,
        out: Path,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.pipe, self.model, self.config, self.out, self.say = pipe, model, config, out, say
        self.layer = expert_layer(pipe)

    def tuning(self) -> pd.DataFrame:
        """``method``, its ``threshold``, or ``entropy`` and ``iterations``, and ``miou`` on the validation scenes.

        In percent; regions by the paper's matching.
        """
        scenes, config = held_out_scenes(self.config.validation, "val"), self.config
        rows: list[dict[str, Any]] = []
        for method, thresholds in config.thresholds.items():
            for threshold in thresholds:
                found = self._unsupervised(method, threshold, scenes)
                rows.append({"method": method, "threshold": threshold, "miou": 100 * found.views["miou"].iloc[0]})
        for entropy, iterations in product(config.entropies, config.iterations):
            baseline = RefineConfig(entropy=entropy, iterations=iterations)
            found = self._named(self.pipe, self.model, "iseg", scenes, baseline)
            own = {"method": "iseg", "entropy": entropy, "iterations": iterations}
            rows.append({**own, "miou": 100 * found.views["miou"].iloc[0]})
        return pd.DataFrame(rows)

    def table(self, tuning: pd.DataFrame, magnet: Any = None, lora: str | None = None) -> pd.DataFrame:
        """``task``, ``system``, ``threshold``, ``miou`` and ``pacc`` (percent), ``per_second``.

        ``magnet`` is the pipeline with ``lora``. Regions are scored by the paper's matching.
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
        for refine in ("none", *REFINERS):
            name = "Seg4Diff" + ("" if refine == "none" else f" + {refine}")
            yield _row("open-vocabulary", name, None, self._named(self.pipe, self.model, refine, scenes), scenes)
        entropy, iterations = float(best.loc["iseg", "entropy"]), int(best.loc["iseg", "iterations"])
        found = self._named(self.pipe, self.model, "iseg", scenes, RefineConfig(entropy=entropy, iterations=iterations))
        name = f"Seg4Diff + iseg (tuned: entropy {entropy:g}, {iterations} iterations)"
        yield _row("open-vocabulary", name, None, found, scenes)
        if magnet is not None:
            found = self._named(magnet, f"{self.model}, LoRA {lora}", "none", scenes)
            yield _row("open-vocabulary", "Seg4Diff + MAGNET", None, found, scenes)

    def _without_words(
        self, scenes: LabeledImages, best: pd.DataFrame, magnet: Any, lora: str | None
    ) -> Iterator[dict[str, Any]]:
        chosen = best["threshold"]
        for method, name in NAMES.items():
            for threshold, how in ((RELEASED[method], "released"), (float(chosen[method]), "tuned")):
                found = self._unsupervised(method, threshold, scenes)
                yield _row("unsupervised", f"{name} ({how})", threshold, found, scenes)
        if magnet is not None:
            found = self._unsupervised("seg4diff", float(chosen["seg4diff"]), scenes, magnet, f", LoRA {lora}")
            yield _row("unsupervised", "Seg4Diff + MAGNET (tuned)", float(chosen["seg4diff"]), found, scenes)
        for baseline in TRIVIAL:
            rows = found.trivial[(found.trivial["baseline"] == baseline) & (found.trivial["matching"] == "paper")]
            row = rows.iloc[0]
            yield {"task": "unsupervised", "system": baseline, "miou": 100 * row["miou"], "pacc": 100 * row["pacc"]}

    def _config(self, **options: Any) -> EvaluateConfig:
        own = self.config
        return EvaluateConfig(
            layers=(self.layer,), timesteps=(own.timestep,), batch=own.batch, seed=own.seed, **options
        )

    def _named(
        self, pipe: Any, model: str, refine: str, scenes: LabeledImages, baseline: RefineConfig | None = None
    ) -> Evaluation:
        config, name = self._config(refine=refine), refine
        if baseline is not None:
            name = f"{refine}-{baseline.entropy:g}-{baseline.iterations}"
        counter = refined_counter(pipe, config, baseline or RefineConfig()) if refine in REFINERS else None
        return self._run(pipe, config, scenes, counter, model, name)

    def _unsupervised(
        self, method: str, threshold: float, scenes: LabeledImages, pipe: Any = None, lora: str = ""
    ) -> Evaluation:
        pipe = self.pipe if pipe is None else pipe
        config = self._config(task="unsupervised", method=method, threshold=threshold, baselines=True)
        counter = None
        if method in RIVALS:
            counter = RegionCounter(pipe, config, joint_config(RIVALS[method], threshold))
        return self._run(pipe, config, scenes, counter, self.model + lora, f"{method}-{threshold:g}")

    def _run(
        self,
        pipe: Any,
        config: EvaluateConfig,
        scenes: LabeledImages,
        counter: Counter | None,
        model: str,
        name: str,
    ) -> Evaluation:
        folder = f"{scenes.name}-{name}{'-lora' if 'LoRA' in model else ''}"
        self.say(folder)
        limited = replace(config, limit=len(scenes.samples))
        return tabulate(run_evaluation(pipe, scenes, limited, self.out / folder, model, counter=counter))


def _row(task: str, name: str, threshold: float | None, found: Evaluation, scenes: LabeledImages) -> dict[str, Any]:
    view = found.views.iloc[0]
    return {
        "task": task,
        "system": name,
        "threshold": threshold,
        "miou": 100 * view["miou"],
        "pacc": 100 * view["pacc"],
        "per_second": len(scenes.samples) / found.seconds,
    }
