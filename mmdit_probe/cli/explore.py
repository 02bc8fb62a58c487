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
        list[Path] | None,
        typer.Argument(
            metavar="[RECORD.nc] [OTHER.nc]",
            help="A record with I2T maps, of --save-record, analyze or maps, or a probe's own; a second one is shown beside it.",
        ),
    ] = None,
    output: PageConfig = PageConfig(),
) -> None:
    """A page to look around in: which words each pixel listens to, and where each word is looked at.

    By layer, timestep and group of heads, with attention budget and value norms. The image is generated from --prompt, read
    through the model from --image, or that of RECORD.nc (--image is then the image that the record was made of, if neither it
    nor image.png next to it holds it). Beside I2T the page shows T2I, T2T, I2I, attention sinks and reference images.

    Two records, of two prompts, two models or one model with two LoRAs, stand side by side: what is chosen in one is chosen in
    the other, with their numbers and the difference above them.

    Writes one HTML file that holds everything: open it in a browser, mail it, put it on a web page. It needs no server
    and no network.
    """
    from mmdit_probe.explorer import make_page, page_of_two

    if record:
        _check_read(record, config, image, output)
        layers = config.layers if isinstance(config.layers, tuple) else None
        sides = [_read(file, image) for file in record]
        files: list[Path] = []
        contents = [side.contents(layers) for side in sides]
        begin(planned_run(output.out.parent, "explore", "none", config, **content(*record, image.image)))
    else:
        side, files = _measure(config, image, model, output)
        layers, sides, contents = None, [side], [side.contents()]
    with Bar("maps") as bar:
        if len(sides) == 2:
            page = page_of_two(sides, config.megabytes, layers, bar.update)
        else:
            page = make_page(contents[0], sides[0].image, config.megabytes, bar.update, _references(config))
    written, size = [page.save(output.out), *files], round(page.megabytes, 3)
    kept = _kept(contents[0], page) if len(sides) == 1 else {"sides": [_kept(each, page) for each in contents]}
    finish(output, _summary(contents, page), written, megabytes=size, **kept)


def _references(config: ExploreConfig) -> list[Any]:
    """The pictures of the reference images that the image was made with, or of those that a record has maps of."""
    from mmdit_probe.storage.images import read_rgb

    return [read_rgb(Path(file)) for file in config.generation.reference]


def _check_read(records: list[Path], config: ExploreConfig, image: ImageConfig, output: PageConfig) -> None:
    """`ValueError` if something is asked for that records do not answer."""
    if len(records) > 2:
        raise ValueError(f"give one record, or two to see side by side, got {len(records)}")
    given = {"--prompt": config.prompt, "--save-record": output.save_record, "--longest": image.longest}
    clashes = [name for name, value in given.items() if value is not None]
    if clashes:
        raise ValueError(f"give RECORD.nc or {' and '.join(clashes)}, not both")
    if config.generation.reference and len(records) == 2:
        raise ValueError("--reference is the picture of one record's reference; leave it out with two")
    if isinstance(config.layers, str) and config.layers != "all":
        raise ValueError(f"--layers: a record answers numbers or all, not {config.layers}")


def _read(file: Path, image: ImageConfig) -> Any:
    """A record and its image."""
    from mmdit_probe.explorer import Side
    from mmdit_probe.explorer.records import image_of
    from mmdit_probe.storage.records import load_record

    found = load_record(file)
    return Side(found, image_of(found, file, image.image))


def _measure(
    config: ExploreConfig, image: ImageConfig, model: ModelConfig, output: PageConfig
) -> tuple[Any, list[Path]]:
    """A new recording with its image, and the record's file if it is kept."""
    from mmdit_probe.explorer import Side, measure_exploration
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
    return Side(record, recording.image), files


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


def _summary(contents: list[Any], page: Any) -> list[str]:
    if len(contents) == 1:
        return [f"{_described(contents[0], page)}: {page.megabytes:.1f} MB."]
    lines = [f"{side}: {_described(each, page)}." for side, each in zip("AB", contents, strict=True)]
    return [*lines, f"Side by side: {page.megabytes:.1f} MB."]


def _described(contents: Any, page: Any) -> str:
    sizes, all_groups = contents.maps.sizes, len(contents.sizes)
    groups = min(page.groups, all_groups)
    heads = "the mean over heads" if groups == 1 else f"the mean over heads and {groups} groups of them"
    if groups == sum(contents.sizes) > 1:
        heads = f"the mean over heads and each of the {groups} heads"
    dropped = "" if groups == all_groups else f" ({all_groups} groups would have been larger)"
    layers, timesteps = (f"{sizes[name]} {name}{'s' if sizes[name] > 1 else ''}" for name in ("layer", "timestep"))
    return (
        f"{sizes['row']} x {sizes['col']} image tokens, {sizes['token']} text tokens, {layers}, {timesteps}, "
        f"{heads}{dropped}"
    )
