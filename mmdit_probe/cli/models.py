"""mmdit-probe models."""

from __future__ import annotations

import json

import typer

from . import options as common


def models(as_json: common.AsJson = False) -> None:
    """The embedded model and the families of transformers that can be probed.

    Each can be watched while it generates. Of most it is known which token stands at which text position (words: --words,
    find-expert, prompt norms), of some how an image is given to them (images: segment, group, evaluate, --image).
    """
    from mmdit_probe.families import FAMILIES
    from mmdit_probe.pipelines.loading import EMBEDDED, embedded_folder

    defaults = json.loads((embedded_folder() / "probe_defaults.json").read_text())
    rows = [
        {
            "family": f.name,
            "transformer": f.transformer,
            "models": f.models,
            "expert_layer": f.expert,
            "of_layers": f.depth,
            "words": f.knows_words,
            "images": f.image_input is not None,
        }
        for f in FAMILIES
    ]
    if as_json:
        typer.echo(json.dumps({"embedded": {"name": EMBEDDED, **defaults}, "families": rows}, indent=1))
        return
    typer.echo(f"Embedded:\n  {EMBEDDED}  expert layer {defaults['expert_layer']} ({defaults['why']})\n")
    typer.echo("Families (--model FOLDER or hub id):")
    widths = [max(len(str(row[key])) for row in rows) for key in ("family", "models")]
    for row in rows:
        marks = "  ".join(f"{name if row[name] else '':<{len(name)}}" for name in ("words", "images"))
        expert = "" if row["expert_layer"] is None else f"  expert layer {row['expert_layer']} of {row['of_layers']}"
        typer.echo(
            f"  {row['family']:<{widths[0]}}  {row['models']:<{widths[1]}}  {marks}  {row['transformer']}{expert}"
        )
