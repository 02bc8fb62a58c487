"""What a sweep over layers spares by keeping the blocks before the edited one: ``python -m benchmarks.prefix``.

tiny-sd3, one prompt, of the sweeps with three seeds: the blur of `find-expert` at one step, and `perturb --layers all` with few and
many steps. Prints blocks that were computed and process seconds, the better of two turns, with and without; fails if a number or an
image differs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from mmdit_probe import load_pipeline
from mmdit_probe.configs import ExpertConfig, GenerationConfig, PerturbConfig, SamplingConfig
from mmdit_probe.datasets.prompts import scene_prompts
from mmdit_probe.families import layers_of
from mmdit_probe.probe.prefix import SharedPrefix
from mmdit_probe.studies.expert_layer import find_expert
from mmdit_probe.studies.perturbation import run_perturbation


def blurred(pipe: Any) -> np.ndarray:
    """The four signs of every layer."""
    config = ExpertConfig(prompts=scene_prompts(1), generation=GenerationConfig(max_sequence_length=0))
    return find_expert(pipe, config).by_prompt.to_numpy()


def swept(pipe: Any, steps: int) -> np.ndarray:
    """The images of every layer."""
    config = PerturbConfig(
        prompts=scene_prompts(1),
        layers=tuple(range(len(layers_of(pipe)))),
        generation=SamplingConfig(steps=steps, max_sequence_length=0),
    )
    with TemporaryDirectory() as out:
        return np.stack(list(run_perturbation(pipe, config, Path(out), "tiny-sd3").images.values()))


def measure(pipe: Any, run: Callable[[], np.ndarray]) -> tuple[np.ndarray, int, float]:
    """What it gives, how many blocks it computed, and its process seconds."""
    count, seconds = 0, []

    def note(*_: Any) -> None:
        nonlocal count
        count += 1

    hooks = [module.register_forward_hook(note) for module in layers_of(pipe)]
    for _ in range(2):
        count, start = 0, time.process_time()
        made = run()
        seconds.append(time.process_time() - start)
    for hook in hooks:
        hook.remove()
    return made, count, min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="*", default=[4, 28], help="sampling steps of the sweeps")
    pipe, options = load_pipeline("tiny-sd3"), parser.parse_args()
    runs = {"find-expert, one prompt of 28 steps": lambda: blurred(pipe)}
    runs |= {f"perturb --layers all, {steps} steps": partial(swept, pipe, steps) for steps in options.steps}
    for name, run in runs.items():
        found = []
        for way in (patch.object(SharedPrefix, "before", lambda *_: nullcontext()), nullcontext()):
            with way:
                found.append(measure(pipe, run))
        (plain, every, whole), (made, blocks, seconds) = found
        if not np.array_equal(plain, made):
            raise SystemExit(f"{name}: other numbers")
        print(f"{name}: {blocks} of {every} blocks ({blocks / every:.3f}), {seconds:.2f} of {whole:.2f} s", flush=True)


if __name__ == "__main__":
    main()
