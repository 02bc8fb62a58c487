"""mmdit-probe magnet caption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import options as common


def caption(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)],
    model: Annotated[
        str,
        typer.Option(
            help="An image-to-text model of transformers, a folder or a hub id such as "
            "Salesforce/blip-image-captioning-large or Qwen/Qwen2-VL-7B-Instruct."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option(help="What to ask; chat models: 'Describe this image in two sentences.'")
    ] = None,
    longest: Annotated[int, typer.Option(min=1, help="Tokens of a caption at most.")] = 60,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
    device: common.Device = "cpu",
    dtype: common.Dtype = "fp32",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the model brings (CogVLM does); off by default.")
    ] = False,
    out: Annotated[Path, typer.Option(help="JSON file; captions that it holds already are kept.")] = common.RESULTS
    / "captions.json",
    as_json: common.AsJson = False,
) -> None:
    """Write captions of images for `magnet train --captions`, with any image-to-text model.

    Writes an object from image file to caption, after every batch; started again, it goes on.
    """
    from mmdit_probe.magnet.captioner import Captioner, caption_files
    from mmdit_probe.segmentation.image_files import image_files

    files = image_files(images)
    common.lock_output(out.parent)
    captioner = Captioner(model, prompt, longest=longest, device=device, dtype=dtype, remote_code=trust_remote_code)
    with common.Bar("images", as_json) as bar:
        captions = caption_files(captioner, files, out, batch, bar.update)
    words = sum(len(text.split()) for text in captions.values()) / len(captions)
    common.finish([f"{len(captions)} captions, {words:.0f} words on average"], [out], as_json)
