"""mmdit-probe report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mmdit_probe.configs import ImageConfig, ModelConfig, PromptConfig, ReportConfig
from mmdit_probe.configs.setting import OUTPUT, Setting
from mmdit_probe.utils.text import checked_words

from .layers import check_layers, resolve_layers
from .options import RESULTS, OutputConfig
from .session import (
    begin,
    check_image,
    check_prompts_fit,
    chosen_prompts,
    content,
    figure_line,
    finish,
    label,
    load,
    planned_run,
)
from .steps_bar import steps_shown

if TYPE_CHECKING:
    from mmdit_probe.tracing import Report, Seen


@dataclass(frozen=True, kw_only=True)
class ReportOutput(OutputConfig):
    """Where the report goes, and whether its figures go beside it."""

    out: Annotated[Path, Setting("The page to write.", OUTPUT)] = RESULTS / "report" / "report.html"
    figures: Annotated[bool, Setting("Also write the report's figures beside it, as PDF and PNG.", OUTPUT)] = False


def report(config: ReportConfig, image: ImageConfig, model: ModelConfig, output: ReportOutput = ReportOutput()) -> None:
    """Everything about one image on one page: where its words are, budget, value norms, heads, components, how to read each.

    The image is generated from --prompt, or read through the model from --image; what is drawn is your image at its own size.
    Layers and timesteps are chosen by the image's size if none are given, and the page says which and why.

    Writes one HTML file that holds everything: it needs no server and no network. With --figures also each of its figures.
    """
    words = checked_words(config.words) if config.words else ()
    config = replace(config, words=words, prompt=_prompt(config, words, image, model))
    check_image(image)
    check_layers(config.layers, model)
    run = planned_run(output.out.parent, "report", label(model), config, longest=image.longest, **content(image.image))
    pipe = load(model)
    check_prompts_fit(pipe, [config.prompt or ""], config.generation.max_sequence_length)
    if config.layers is not None:
        config = replace(config, layers=resolve_layers(pipe, config.layers))
    begin(run)
    with steps_shown(pipe, config, is_given=image.image is not None):
        seen = _seen(pipe, config, image)
    page = _described(seen, label(model)).report()
    figures = _figures(page, output, figure_line(model, [config.prompt or ""])) if output.figures else []
    files = [page.save(output.out), *figures]
    finish(
        output, [*page.short, f"One page of {page.megabytes:.1f} MB."], files, words=seen.words, chosen=list(seen.why)
    )


def _prompt(config: ReportConfig, words: tuple[str, ...], image: ImageConfig, model: ModelConfig) -> str:
    """The prompt given; of an image the words joined, else a scene's for the embedded model."""
    if config.prompt is None and image.image is not None:
        if not words:
            raise ValueError("give --prompt or --words: what the image shows")
        return " ".join(words)
    return chosen_prompts(PromptConfig(prompt=() if config.prompt is None else (config.prompt,)), model)[0]


def _seen(pipe: Any, config: ReportConfig, image: ImageConfig) -> Seen:
    """What was read of the image that is generated, or of the given one."""
    from mmdit_probe.tracing import read_generated, read_image

    prompt = config.prompt or ""
    where: dict[str, Any] = {"layers": config.layers, "timesteps": config.timesteps, "head_groups": config.head_groups}
    if image.image is None:
        return read_generated(pipe, prompt, config.words, generation=config.generation, **where)
    return read_image(
        pipe,
        image.image,
        config.words or prompt,
        prompt=prompt,
        longest=image.longest,
        generation=config.generation,
        **where,
    )


def _described(seen: Seen, model: str) -> Seen:
    """The same, with the model's name in its records."""
    return replace(seen, record=seen.record.assign_attrs(model=model))


def _figures(page: Report, output: ReportOutput, line: str) -> list[Path]:
    from mmdit_probe.figures.style import save_figure

    return [
        file
        for section in page.sections
        for name, draw in section.draws.items()
        for file in save_figure(draw(), output.out.parent / name, line)
    ]
