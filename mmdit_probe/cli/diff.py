"""mmdit-probe diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import RESULTS, OutputConfig
from .session import begin, content, finish, planned_run


def diff(
    first: Annotated[Path, typer.Argument(metavar="A.nc", help="A record, such as results/analyze/analyze.nc.")],
    second: Annotated[Path, typer.Argument(metavar="B.nc", help="Another one.")],
    output: OutputConfig = OutputConfig(out=RESULTS / "diff"),
) -> None:
    """How two records differ: two prompts, two models, or one model with and without a fine-tune.

    Compares region mass, value norms and every other number per layer that both hold, at the same timesteps and layers;
    means over heads and prompts, B minus A.

    Writes diff.pdf / .png and diff.csv.
    """
    from mmdit_probe.figures.differences import difference_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.storage.records import load_record
    from mmdit_probe.studies.diff import MEASURES, compare, described, summary, what_differs

    from .pages import steps_of

    a, b = load_record(first), load_record(second)
    table, differing = compare(a, b), what_differs(a, b)
    begin(planned_run(output.out, "diff", "none", **content(first, second)))
    units = {name: measure.unit for name, measure in MEASURES.items()}
    names = {name: measure.name for name, measure in MEASURES.items()}
    steps = steps_of(a) if steps_of(a) == steps_of(b) else None
    line = f"{described(a, 'A')}; {described(b, 'B')}; B minus A, averages over heads and prompts; what does not differ is left out"
    files = [
        *save_figure(difference_figure(table, units, names, steps), output.out / "diff", line),
        write_text(output.out / "diff.csv", table.to_csv(index=False)),
    ]
    finish(output, [*differing, *summary(table)], files, table=table)
