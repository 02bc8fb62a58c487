"""mmdit-probe diff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options as common


def diff(
    first: Annotated[Path, typer.Argument(metavar="A.nc", help="A record, such as results/analyze/analyze.nc.")],
    second: Annotated[Path, typer.Argument(metavar="B.nc", help="Another one.")],
    out: common.Out = common.RESULTS / "diff",
    as_json: common.AsJson = False,
) -> None:
    """How two records differ: two prompts, two models, or one model with and without a fine-tune.

    Compares region mass, value norms and every other number per layer that both hold, at the same timesteps and layers;
    means over heads and prompts, B minus A.

    Writes diff.pdf / .png and diff.csv.
    """
    from mmdit_probe.figures.differences import difference_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.records import load_record
    from mmdit_probe.storage.runs import write_text
    from mmdit_probe.studies.diff import MEASURES, compare, summary, what_differs

    a, b = load_record(first), load_record(second)
    table, differing = compare(a, b), what_differs(a, b)
    common.lock_output(out)
    files = [
        *save_figure(difference_figure(table, {name: m.unit for name, m in MEASURES.items()}), out / "diff"),
        write_text(out / "diff.csv", table.to_csv(index=False)),
    ]
    lines = [*differing, *summary(table)]
    common.finish(lines, files, as_json, table=json.loads(table.to_json(orient="records")))
