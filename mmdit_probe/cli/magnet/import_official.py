"""mmdit-probe magnet import-official."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import RESULTS, OutputConfig
from ..session import begin, content, finish, planned_run


def import_official(
    file: Annotated[Path, typer.Argument(help="A released lora_weights.pth.", show_default=False)],
    output: OutputConfig = OutputConfig(out=RESULTS / "magnet-official"),
) -> None:
    """Turn a released MAGNET file into a LoRA that every command takes by --lora.

    Only tensors are read from the file; nothing in it is executed. Writes pytorch_lora_weights.safetensors.
    """
    if not file.is_file():
        raise ValueError(f"import-official: no file {file}")
    from mmdit_probe.magnet.official import import_official as convert

    begin(planned_run(output.out, "import-official", "none", **content(file)))
    written = convert(file, output.out)
    finish(output, [f"try it: mmdit-probe segment photo.jpg --classes 'dog,grass' --lora {output.out}"], [written])
