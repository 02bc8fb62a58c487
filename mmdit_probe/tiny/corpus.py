"""The training scenes as arrays, drawn once and saved in the work folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..datasets.scenes import SIZE, scene

_CHUNK = 500


@dataclass(frozen=True)
class Corpus:
    """``images`` (n, 64, 64, 3) uint8, and ``captions`` (n, variants) of text."""

    images: np.ndarray
    captions: np.ndarray


def _draw(task: tuple[int, int, int]) -> tuple[np.ndarray, list[list[str]]]:
    start, stop, variants = task
    drawn = [scene("train", index) for index in range(start, stop)]
    return np.stack([s.image for s in drawn]), [[s.caption(v) for v in range(variants)] for s in drawn]


def make_corpus(count: int, variants: int, work: Path) -> Corpus:
    """The first ``count`` training scenes, read from ``work`` if they have been drawn before."""
    image_file, caption_file = work / f"scenes_{count}.npy", work / f"captions_{count}x{variants}.npy"
    if not caption_file.exists():
        tasks = [(start, min(start + _CHUNK, count), variants) for start in range(0, count, _CHUNK)]
        images = np.lib.format.open_memmap(image_file, "w+", np.uint8, (count, SIZE, SIZE, 3))
        captions: list[list[str]] = []
        with Pool(os.cpu_count()) as pool:
            drawn = tqdm(pool.imap(_draw, tasks), "drawing scenes", len(tasks), unit="chunk")
            for task, (chunk, texts) in zip(tasks, drawn, strict=True):
                images[task[0] : task[1]] = chunk
                captions += texts
        images.flush()
        np.save(caption_file, np.asarray(captions))
    return Corpus(np.load(image_file, mmap_mode="r"), np.load(caption_file))
