"""Images in the folder layout that the evaluators of T2I-CompBench++ read: samples/PROMPT_000000.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..configs import SamplingConfig
from ..families import Pipeline
from ..storage.files import read_text
from ..storage.images import save_image
from ..studies.image_grid import generate_batch
from ..utils.progress import Progress
from ..utils.text import checked_text

FIRST_SEED = 42
LONGEST_NAME = 240
"""Most bytes of a prompt, which becomes a file name with a number and a suffix; file systems allow 255."""


def read_compbench(path: Path) -> tuple[str, ...]:
    """Read a prompt file of T2I-CompBench++: one prompt a line; of tab-separated columns the first.

    `ValueError` if the file can't be read or has no prompt, or if a prompt can't be part of a file name.
    """
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise ValueError(f"compbench: {path} can't be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"compbench: {path} can't be read as text ({type(error).__name__})") from error
    prompts = tuple(checked_text("prompt", line.split("\t")[0].strip()) for line in lines if line.strip())
    if not prompts:
        raise ValueError(f"compbench: {path} holds no prompt; write one a line")
    for prompt in prompts:
        if "_" in prompt or "/" in prompt or "\0" in prompt or len(prompt.encode()) > LONGEST_NAME or prompt[0] == ".":
            raise ValueError(
                f"compbench: {prompt[:60]!r} can't be the name of an image, from which the evaluators read it "
                f"(no _ or /, no leading dot, at most {LONGEST_NAME} bytes)"
            )
    return prompts


def sample_file(folder: Path, prompt: str, number: int) -> Path:
    """The file of an image; ``number`` counts the images of all prompts."""
    return folder / "samples" / f"{prompt}_{number:06d}.png"


def sample_names(prompts: Sequence[str], each: int) -> list[str]:
    """The files of all images, relative to the output folder, in the order of their numbers."""
    top = Path()
    return [
        sample_file(top, prompt, row * each + column).as_posix()
        for row, prompt in enumerate(prompts)
        for column in range(each)
    ]


def export_samples(
    pipe: Pipeline,
    prompts: Sequence[str],
    folder: Path,
    generation: SamplingConfig,
    *,
    each: int = 10,
    batch: int = 8,
    progress: Progress | None = None,
) -> list[Path]:
    """Generate ``each`` images of every prompt, with seeds 42, 43, ...; files that exist already are kept.

    The n-th images of all prompts start from the same noise, as in T2I-CompBench's own script.
    """
    jobs = [
        (column, row, sample_file(folder, prompt, row * each + column))
        for column in range(each)
        for row, prompt in enumerate(prompts)
    ]
    todo = [job for job in jobs if not job[2].exists()]
    done = len(jobs) - len(todo)
    for column in range(each):
        rows = [(row, file) for number, row, file in todo if number == column]
        for start in range(0, len(rows), batch):
            chosen = rows[start : start + batch]
            made = generate_batch(pipe, [prompts[row] for row, _ in chosen], FIRST_SEED + column, generation)
            for image, (_, file) in zip(made, chosen, strict=True):
                save_image(image, file)
            done += len(chosen)
            if progress is not None:
                progress(done, len(jobs))
    return [file for _, _, file in jobs]
