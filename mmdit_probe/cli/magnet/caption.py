"""mmdit-probe magnet caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mmdit_probe.configs.generation import BATCH
from mmdit_probe.configs.model import Dtype
from mmdit_probe.configs.setting import MODEL, OUTPUT, Setting, Settings

from ..options import RESULTS, OutputConfig
from ..session import Bar, begin, finish, planned_run


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(Settings):
    """An image-to-text model, and what it is asked."""

    model: Annotated[
        str,
        Setting(
            "An image-to-text model of transformers, a folder or a hub id such as Salesforce/blip-image-captioning-large "
            "or Qwen/Qwen2-VL-7B-Instruct.",
            MODEL,
            required=True,
            is_place=True,
        ),
    ] = ""
    question: Annotated[
        str | None, Setting("What to ask.", default="chat models: 'Describe this image in two sentences.'")
    ] = None
    max_new_tokens: Annotated[int, Setting("Most tokens of a caption.", low=1)] = 60
    batch: Annotated[int, BATCH] = 8
    device: Annotated[str, Setting("cpu, cuda, cuda:1, or mps (untested).", MODEL)] = "cpu"
    dtype: Annotated[Dtype, Setting("Number format of the weights.", MODEL)] = "fp32"
    trust_remote_code: Annotated[
        bool, Setting("Run code that the model brings (CogVLM does); off by default.", MODEL)
    ] = False


@dataclass(frozen=True, kw_only=True)
class CaptionsFile(OutputConfig):
    """Where captions go."""

    out: Annotated[Path, Setting("JSON file; captions that it holds already are kept.", OUTPUT)] = (
        RESULTS / "captions" / "captions.json"
    )


def caption(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)],
    config: CaptionConfig,
    output: CaptionsFile = CaptionsFile(),
) -> None:
    """Write captions of images for `magnet train --captions`, with any image-to-text model.

    Writes an object from image file to caption, after every batch; started again, it goes on.
    """
    from mmdit_probe.magnet.captioner import Captioner, caption_files
    from mmdit_probe.segmentation.image_files import image_files
    from mmdit_probe.storage.digests import model_label

    files = image_files(images)
    run = planned_run(
        output.out.parent,
        "caption",
        model_label(config.model, config.dtype),
        question=config.question,
        max_new_tokens=config.max_new_tokens,
    )
    captioner = Captioner(
        config.model,
        config.question,
        max_new_tokens=config.max_new_tokens,
        device=config.device,
        dtype=config.dtype,
        remote_code=config.trust_remote_code,
    )
    begin(run)
    run.claim([output.out.name])
    with Bar("images") as bar:
        captions = caption_files(captioner, files, output.out, config.batch, bar.update)
    words = sum(len(text.split()) for text in captions.values()) / len(captions)
    finish(output, [f"{len(captions)} captions, {words:.0f} words on average"], [output.out])
