"""mmdit-probe models."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mmdit_probe.configs import EMBEDDED_MODELS
from mmdit_probe.configs.setting import OUTPUT

from .terminal import say


def models(
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the result as JSON on standard output, messages on standard error.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> None:
    """The embedded model and the families of transformers that can be probed.

    Each can be watched while it generates. For most it is known which token stands at which text position (words: --words,
    find-expert, prompt norms), for some how an image is given to them (images: segment, group, evaluate, --image). Some make
    videos (frames), some attend to reference images (references). Other classes of diffusers are refused; --json says why.
    Families whose class an older diffusers does not have are marked.
    """
    from mmdit_probe.families import FAMILIES, OUT_OF_SCOPE, installed
    from mmdit_probe.pipelines.loading import embedded_folder

    embedded = [
        {"name": name, **json.loads((embedded_folder(name) / "probe_defaults.json").read_text(encoding="utf-8"))}
        for name in EMBEDDED_MODELS
    ]
    rows = [
        {
            "family": family.name,
            "transformer": family.transformer,
            "models": family.models,
            "expert_layer": family.expert,
            "of_layers": family.depth,
            "words": family.knows_words,
            "images": family.image_input is not None,
            "frames": family.frames,
            "references": family.references,
            "installed": installed(family),
        }
        for family in FAMILIES
    ]
    if as_json:
        say(json.dumps({"embedded": embedded, "families": rows, "out_of_scope": OUT_OF_SCOPE}, indent=1))
        return
    say("Embedded:")
    for model in embedded:
        say(f"  {model['name']}  expert layer {model['expert_layer']} ({model['why']})")
    say("")
    say("Families (--model FOLDER or hub id):")
    widths = [max(len(str(row[key])) for row in rows) for key in ("family", "models")]
    for row in rows:
        marks = "  ".join(
            f"{name if row[name] else '':<{len(name)}}" for name in ("words", "images", "frames", "references")
        )
        expert = "" if row["expert_layer"] is None else f"  expert layer {row['expert_layer']} of {row['of_layers']}"
        expert += "" if row["installed"] else "  needs a newer diffusers"
        say(f"  {row['family']:<{widths[0]}}  {row['models']:<{widths[1]}}  {marks}  {row['transformer']}{expert}")
