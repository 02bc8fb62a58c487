"""mmdit-probe magnet import-official."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import options as common


def import_official(
    file: Annotated[Path, typer.Argument(help="A released lora_weights.pth.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Output folder; give it to --lora.")] = common.RESULTS / "magnet-official",
    as_json: common.AsJson = False,
) -> None:
    """Turn a released MAGNET file into a LoRA that every command takes by --lora.

    Only tensors are read from the file; nothing in it is executed. Writes pytorch_lora_weights.safetensors.
    """
    if not file.is_file():
        raise ValueError(f"import-official: no file {file}")
    from mmdit_probe.magnet.official import import_official as convert

    common.lock_output(out)
    written = convert(file, out)
    common.finish([f"try it: mmdit-probe segment photo.jpg --classes 'dog,grass' --lora {out}"], [written], as_json)
