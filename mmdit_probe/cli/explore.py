"""mmdit-probe explore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mmdit_probe.configs import ExploreConfig, GenerationConfig

from . import options as common


def explore(
    record: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECORD.nc", help="A record with I2T maps: of --record, of analyze or maps, or a probe's own."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The prompt; one of the built-in scenes' for tiny-sd3 if not given.")
    ] = None,
    image: common.ImageLike = None,
    longest: common.Longest = None,
    model: common.Model = "tiny-sd3",
    layers: Annotated[
        str,
        typer.Option(
            help="Layers whose maps are kept: all, numbers such as 3,7, or auto (all of a small grid, else 6)."
        ),
    ] = "auto",
    timesteps: Annotated[
        str,
        typer.Option(
            help="Timesteps to keep, counted from the clean end: all, numbers, or auto (all of a small grid, else 8,28)."
        ),
    ] = "auto",
    head_groups: Annotated[
        int, typer.Option(min=1, help="Groups of heads at most, beside the mean over all heads.")
    ] = ExploreConfig.head_groups,
    megabytes: Annotated[
        float, typer.Option(min=0.1, help="Size of the page at most; fewer groups of heads are kept if need be.")
    ] = ExploreConfig.megabytes,
    record_image: Annotated[
        Path | None, typer.Option(help="The image of RECORD.nc, where neither it nor image.png beside it holds it.")
    ] = None,
    steps: common.Steps = GenerationConfig.steps,
    guidance_scale: common.GuidanceScale = None,
    max_sequence_length: common.MaxSequenceLength = None,
    height: common.Height = None,
    width: common.Width = None,
    seed: common.Seed = GenerationConfig.seed,
    dtype: common.Dtype = "fp32",
    device: common.Device = "cpu",
    revision: common.Revision = None,
    offload: common.Offload = "none",
    quantize: common.Quantize = "none",
    lora: common.Lora = None,
    keep: Annotated[
        Path | None,
        typer.Option("--record", help="Also write the record (NetCDF), from which the page can be made again."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page to write.")] = common.RESULTS / "explore" / "explore.html",
    as_json: common.AsJson = False,
) -> None:
    """A page to look around in: which words each pixel listens to, and where each word is looked at.

    By layer, timestep and group of heads, with attention budget and value norms beside. The image is generated from
    --prompt, given by --image, or that of RECORD.nc.

    Writes one HTML file that holds everything: open it in a browser, mail it, put it on a web page. It needs no server
    and no network.
    """
    from mmdit_probe.explorer import make_page

    common.lock_output(out.parent)
    if record is not None:
        contents, shown = _read(record, record_image, _chosen("--layers", layers), _clashes(prompt, image, keep))
        files: list[Path] = []
    else:
        if record_image is not None:
            raise ValueError("--record-image goes with RECORD.nc; give --image FILE to read an image through the model")
        config = ExploreConfig(
            _prompt(model, prompt, image),
            _chosen("--layers", layers),
            _chosen("--timesteps", timesteps, steps),
            head_groups,
            megabytes,
            generation=GenerationConfig(steps, guidance_scale, max_sequence_length, height, width, seed),
        )
        source = common.Source(model, dtype, device, revision, offload, lora, quantize)
        contents, shown, files = _measure(source, config, image, longest, layers == "all", keep, as_json)
    with common.Bar("maps", as_json) as bar:
        page = make_page(contents, shown, megabytes, bar.update)
    written, size = [page.save(out), *files], round(page.megabytes, 3)
    common.finish([_reading(contents, page)], written, as_json, megabytes=size, **_kept(contents, page))


def _clashes(prompt: str | None, image: Path | None, keep: Path | None) -> list[str]:
    given = {"--prompt": prompt, "--image": image, "--record": keep}
    return [name for name, value in given.items() if value is not None]


def _prompt(model: str, prompt: str | None, image: Path | None) -> str:
    if prompt is None and image is not None:
        return ""
    return common.chosen_prompts(model, None if prompt is None else [prompt], None)[0]


def _chosen(option: str, text: str, steps: int = 0) -> tuple[int, ...] | None:
    """Numbers; None for auto and for all layers, every timestep for all timesteps."""
    word = text.strip().lower()
    if word == "auto" or (word == "all" and option == "--layers"):
        return None
    return tuple(range(steps, 0, -1)) if word == "all" else common.numbers(option, text)


def _read(file: Path, image: Path | None, layers: tuple[int, ...] | None, clashes: list[str]) -> tuple[Any, Any]:
    from mmdit_probe.explorer import contents_of
    from mmdit_probe.explorer.records import image_of
    from mmdit_probe.storage.records import load_record

    if clashes:
        raise ValueError(f"give RECORD.nc or {' and '.join(clashes)}, not both")
    found = load_record(file)
    return contents_of(found, layers), image_of(found, file, image)


def _measure(
    source: common.Source,
    config: ExploreConfig,
    image: Path | None,
    longest: int | None,
    every_layer: bool,
    keep: Path | None,
    quiet: bool,
) -> tuple[Any, Any, list[Path]]:
    from dataclasses import replace

    from mmdit_probe.explorer import contents_of, measure_exploration
    from mmdit_probe.explorer.records import with_image
    from mmdit_probe.probe.probe import Probe
    from mmdit_probe.storage.records import save_record

    pipe = source.load()
    common.check_prompts_fit(pipe, [config.prompt], config.generation.max_sequence_length)
    if every_layer:
        config = replace(config, layers=tuple(Probe(pipe, []).modules))
    with _steps_shown(pipe, config.generation.steps if image is None else None, quiet):
        recording = measure_exploration(pipe, config, common.input_image(image, longest, pipe))
    record = recording.record.assign_attrs(model=source.label)
    kept = type(recording)(record, recording.image)
    files = [] if keep is None else [save_record(with_image(kept), keep)]
    return contents_of(record), recording.image, files


@contextmanager
def _steps_shown(pipe: Any, steps: int | None, quiet: bool) -> Iterator[None]:
    """A bar of the transformer's calls."""
    from mmdit_probe.families import denoiser_of

    with common.Bar("steps", quiet) as bar:
        done = 0

        def count(*_: object) -> None:
            nonlocal done
            done += 1
            bar.update(done, max(done, steps or done))

        handle = denoiser_of(pipe).register_forward_hook(count)
        try:
            yield
        finally:
            handle.remove()


def _kept(contents: Any, page: Any) -> dict[str, Any]:
    maps = contents.maps
    return {
        "layers": maps["layer"].values.tolist(),
        "timesteps": maps["timestep"].values.tolist(),
        "head_groups": page.groups,
        "tokens": len(contents.tokens),
    }


def _reading(contents: Any, page: Any) -> str:
    sizes = contents.maps.sizes
    heads = "the mean over heads" if page.groups == 1 else f"the mean over heads and {page.groups} groups of them"
    if page.groups == sum(contents.sizes) > 1:
        heads = f"the mean over heads and each of the {page.groups} heads"
    dropped = "" if page.groups == len(contents.sizes) else f" ({len(contents.sizes)} groups would have been larger)"
    layers, timesteps = (f"{sizes[name]} {name}{'s' if sizes[name] > 1 else ''}" for name in ("layer", "timestep"))
    return (
        f"{sizes['row']} x {sizes['col']} pixels, {sizes['token']} text tokens, {layers}, {timesteps}, {heads}{dropped}: "
        f"{page.megabytes:.1f} MB."
    )
