"""What the scripts of the paper's figures share: their options, the model, the prompts, and where results go."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from mmdit_probe import load_pipeline
from mmdit_probe.configs import EMBEDDED, EMBEDDED_MODELS
from mmdit_probe.datasets.prompts import read_prompts, scene_prompts
from mmdit_probe.evaluation.paper_tables import Row, seg4diff_row
from mmdit_probe.figures.style import caption, save_figure
from mmdit_probe.pipelines.defaults import expert_layer
from mmdit_probe.storage.digests import model_label
from mmdit_probe.storage.files import write_text
from mmdit_probe.utils.distributed import ShareDone, leave_to_first, own_device, share_of_part, sharing, worker_share

Value = TypeVar("Value")


@dataclass(frozen=True)
class Analysis:
    """One call of a script: what the user chose, and where its results go.

    ``quick`` asks for the fewest prompts, steps and images that show that the script works; its numbers mean nothing.
    """

    name: str
    model: str
    quick: bool
    out: Path
    prompts_file: Path | None
    clip: str | None
    device: str
    dtype: str
    batch: int | None
    lora: tuple[str, ...]

    def pipe(self, lora: str | None = None) -> Any:
        """The model's pipeline."""
        return load_pipeline(self.model, device=self.device, dtype=self.dtype, lora=lora)

    @property
    def label(self) -> str:
        """What numbers depend on: a folder of finished parts is continued only with the same."""
        return model_label(self.model, self.dtype)

    @property
    def loras(self) -> dict[str, str]:
        """The LoRAs of --lora by name; `ValueError` if one has no name or no path."""
        found = {}
        for given in self.lora:
            name, equals, path = given.partition("=")
            if not name or not equals or not path:
                raise ValueError(f"--lora: expected NAME=PATH, such as magnet=out/lora.safetensors; got {given!r}")
            found[name] = path
        return found

    def loras_of(self, *names: str) -> list[str | None]:
        """The LoRAs of these names, None for one that was not given; `ValueError` if another was."""
        if unknown := sorted(set(self.loras) - set(names)):
            raise ValueError(f"--lora: names are {', '.join(names)} here, got {', '.join(unknown)}")
        return [self.loras.get(name) for name in names]

    def at_once(self, embedded: int, larger: int) -> int:
        """Images or prompts of one forward pass: --batch, or the script's own for the embedded or a larger model."""
        return self.batch or (embedded if self.model in EMBEDDED_MODELS else larger)

    def prompts(self, count: int) -> tuple[str, ...]:
        """The first prompts of --prompts, or of held-out scenes for the embedded model."""
        count = min(count, 2) if self.quick else count
        if self.prompts_file is not None:
            return read_prompts(self.prompts_file)[:count]
        if self.model not in EMBEDDED_MODELS:
            raise ValueError(
                "give --prompts FILE, a text file with one prompt a line: the embedded models alone know scenes"
            )
        return scene_prompts(count)

    def fewer(self, usual: Value, quick: Value) -> Value:
        """The usual setting, or the one of --quick."""
        return quick if self.quick else usual

    def folder(self, part: str = "") -> Path:
        """Where finished parts are kept, so that an interrupted run continues."""
        return self.out / "parts" / f"{self.name}{'-quick' if self.quick else ''}{part}"

    def figure(self, figure: Figure, name: str, *notes: str, prompts: Sequence[str] = ()) -> None:
        """Save a figure as PDF and PNG; under it stand the model, the prompt or how many there are, and ``notes``.

        Of several processes the first one does.
        """
        if not worker_share().first:
            return
        for path in save_figure(figure, self.out / name, caption(self.model, prompts, *notes)):
            print(path)

    def table(self, table: pd.DataFrame, name: str) -> None:
        """Save a table as CSV; of several processes the first one does."""
        if worker_share().first:
            print(write_text(self.out / f"{name}.csv", table.to_csv(index=False)))


def of_images(dataset: str, images: Any) -> str:
    """The line's note on the images that masks were scored on."""
    return f"{dataset}, n = {len(images.samples)} images, mIoU over the classes of the ground truth"


def expert_of(pipe: Any) -> int:
    """The layer with the best masks."""
    return expert_layer(pipe)


def with_model(analysis: Analysis, rows: dict[str, Row]) -> dict[str, Row]:
    """A table's rows and one more for --model; with --quick that one alone."""
    place = {"device": analysis.device, "dtype": analysis.dtype}
    own = {f"Seg4Diff {Path(analysis.model).name}": seg4diff_row(load_pipeline, analysis.model, **place)}
    return analysis.fewer({**rows, **own}, own)


def main(run: Callable[[Analysis], Sequence[str] | None], doc: str | None, lora: bool = False) -> None:
    """Read the command line, run the script, print what it found; a user's mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help="tiny-sd3, tiny-flux, a diffusers folder, or a hub id")
    parser.add_argument("--quick", action="store_true", help="only to see that it works; the numbers mean nothing")
    parser.add_argument("--out", type=Path, default=None, help="results/, or results/quick/ with --quick")
    parser.add_argument("--prompts", type=Path, default=None, help="text file with one prompt a line")
    parser.add_argument("--clip", default=None, help="CLIP for scores; tiny-sd3 brings its own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument(
        "--batch", type=int, default=None, help="images of one forward pass; the script's own if not given"
    )
    parser.add_argument(
        "--part", default=None, help="compute one part of the run, such as 3/8; the same call without it collects them"
    )
    if lora:
        parser.add_argument(
            "--lora", action="append", default=[], metavar="NAME=PATH", help="may be given several times"
        )
    given = parser.parse_args()
    if given.batch is not None and given.batch < 1:
        parser.error(f"--batch must be at least 1, got {given.batch}")
    out = given.out or Path("results/quick" if given.quick else "results")
    loras = tuple(given.lora) if lora else ()
    analysis = Analysis(
        Path(sys.argv[0]).stem,
        given.model,
        given.quick,
        out,
        given.prompts,
        given.clip,
        own_device(given.device),
        given.dtype,
        given.batch,
        loras,
    )
    try:
        with sharing(share_of_part(given.part)):
            lines = run(analysis) or ()
            leave_to_first()
        print("\n".join(lines))
    except ShareDone as done:
        if done.share.is_part:
            print(done, file=sys.stderr)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
