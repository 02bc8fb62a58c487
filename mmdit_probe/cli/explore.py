"""mmdit-probe explore."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mmdit_probe.configs import ExploreConfig, ImageConfig, ModelConfig, PromptConfig
from mmdit_probe.configs.setting import OUTPUT, Setting

from .layers import check_layers, resolve_layers
from .options import RESULTS, OutputConfig
from .session import (
    Bar,
    begin,
    check_image,
    check_prompts_fit,
    chosen_prompts,
    content,
    finish,
    input_image,
    label,
    load,
    planned_run,
)
from .steps_bar import steps_shown


@dataclass(frozen=True, kw_only=True)
class PageConfig(OutputConfig):
    """Where the page goes, and its record if one is wanted."""

    out: Annotated[Path, Setting("The page to write.", OUTPUT)] = RESULTS / "explore" / "explore.html"
    save_record: Annotated[
        Path | None,
        Setting("Also write the record (NetCDF), from which the page can be made again.", OUTPUT, default="no record"),
    ] = None


def explore(
    config: ExploreConfig,
    image: ImageConfig,
    model: ModelConfig,
    record: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECORD.nc", help="A record with I2T maps: of --save-record, analyze or maps, or a probe's own."
        ),
    ] = None,
    output: PageConfig = PageConfig(),
) -> None:
    """A page to look around in: which words each pixel listens to, and where each word is looked at.

    By layer, timestep and group of heads, with attention budget and value norms. The image is generated from --prompt, read
    through the model from --image, or that of RECORD.nc (--image is then the image that the record was made of, if neither it
    nor image.png next to it holds it).

    Writes one HTML file that holds everything: open it in a browser, mail it, put it on a web page. It needs no server
    and no network.
    """
    from mmdit_probe.explorer import make_page

    if record is not None:
        _check_read(config, image, output)
        contents, shown = _read(record, config, image)
        files: list[Path] = []
        begin(planned_run(output.out.parent, "explore", "none", config, **content(record, image.image)))
    else:
        contents, shown, files = _measure(config, image, model, output)
    with Bar("maps") as bar:
        page = make_page(contents, shown, config.megabytes, bar.update)
    written, size = [page.save(output.out), *files], round(page.megabytes, 3)
    finish(output, [_summary(contents, page)], written, megabytes=size, **_kept(contents, page))


def _check_read(config: ExploreConfig, image: ImageConfig, output: PageConfig) -> None:
    """`ValueError` if something is asked for that a record does not answer."""
    given = {"--prompt": config.prompt, "--save-record": output.save_record, "--longest": image.longest}
    clashes = [name for name, value in given.items() if value is not None]
    if clashes:
        raise ValueError(f"give RECORD.nc or {' and '.join(clashes)}, not both")
    if isinstance(config.layers, str) and config.layers != "all":
        raise ValueError(f"--layers: a record answers numbers or all, not {config.layers}")


def _read(file: Path, config: ExploreConfig, image: ImageConfig) -> tuple[Any, Any]:
    """The contents of a record, and its image."""
    from mmdit_probe.explorer import contents_of
    from mmdit_probe.explorer.records import image_of
    from mmdit_probe.storage.records import load_record

    found = load_record(file)
    layers = config.layers if isinstance(config.layers, tuple) else None
    return contents_of(found, layers), image_of(found, file, image.image)


def _measure(
    config: ExploreConfig, image: ImageConfig, model: ModelConfig, output: PageConfig
) -> tuple[Any, Any, list[Path]]:
    """The contents of a new recording, its image, and the record's file if it is kept."""
    from mmdit_probe.explorer import contents_of, measure_exploration
    from mmdit_probe.explorer.records import with_image
    from mmdit_probe.storage.records import save_record

    config = replace(config, prompt=_prompt(config, image, model))
    check_image(image)
    check_layers(config.layers, model)
    own = {"longest": image.longest, **content(image.image)}
    run = planned_run(output.out.parent, "explore", label(model), config, **own)
    pipe = load(model)
    check_prompts_fit(pipe, [config.prompt or ""], config.generation.max_sequence_length)
    if config.layers is not None:
        config = replace(config, layers=resolve_layers(pipe, config.layers))
    begin(run)
    with steps_shown(pipe, config, is_given=image.image is not None):
        recording = measure_exploration(pipe, config, input_image(image, pipe))
    record = recording.record.assign_attrs(model=label(model))
    kept = type(recording)(record, recording.image)
    files = [] if output.save_record is None else [save_record(with_image(kept), output.save_record)]
    return contents_of(record), recording.image, files


def _prompt(config: ExploreConfig, image: ImageConfig, model: ModelConfig) -> str:
    """The prompt given; with an image none is needed, else a scene's is taken for the embedded model."""
    if config.prompt is None and image.image is not None:
        return ""
    return chosen_prompts(PromptConfig(prompt=() if config.prompt is None else (config.prompt,)), model)[0]


def _kept(contents: Any, page: Any) -> dict[str, Any]:
    maps = contents.maps
    return {
        "layers": maps["layer"].values.tolist(),
        "timesteps": maps["timestep"].values.tolist(),
        "head_groups": page.groups,
        "tokens": len(contents.tokens),
    }


def _summary(contents: Any, page: Any) -> str:
    sizes = contents.maps.sizes
    heads = "the mean over heads" if page.groups == 1 else f"the mean over heads and {page.groups} groups of them"
    if page.groups == sum(contents.sizes) > 1:
        heads = f"the mean over heads and each of the {page.groups} heads"
    dropped = "" if page.groups == len(contents.sizes) else f" ({len(contents.sizes)} groups would have been larger)"
    layers, timesteps = (f"{sizes[name]} {name}{'s' if sizes[name] > 1 else ''}" for name in ("layer", "timestep"))
    return (
        f"{sizes['row']} x {sizes['col']} image tokens, {sizes['token']} text tokens, {layers}, {timesteps}, "
        f"{heads}{dropped}: {page.megabytes:.1f} MB."
    )
