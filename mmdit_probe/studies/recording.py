"""One record per image, the same whether the image is generated or given, and runs over many prompts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from ..configs import GenerationConfig
from ..families import Pipeline
from ..pipelines.forward import encode_images, encode_prompts, forward_noisy, noise_level
from ..pipelines.generation import generation_arguments, steps_at
from ..pipelines.modular_call import call_pipeline
from ..pipelines.vocabulary import unknown_words
from ..probe.coordinates import coordinate
from ..probe.probe import Probe
from ..probe.stacking import CFGBranch
from ..readouts.base import Readout
from ..storage.runs import RunFolder, Unit
from ..utils.html import facts, grid, image_tag
from ..utils.memory import check_room
from ..utils.progress import Progress


@dataclass(frozen=True, eq=False)
class Recording:
    """What the readouts saw of one image, and the image, (height, width, 3) uint8 RGB; empty if nobody
    asked for it.

    ``record`` has the dims (timestep, layer, ...) and the coordinates ``sigma`` and ``step``.
    """

    record: xr.Dataset
    image: np.ndarray

    def _repr_html_(self) -> str:
        """The image, where it comes from, and what was read, as notebooks show it."""
        attrs = self.record.attrs
        known = {name: attrs[name] for name in ("prompt", "model", "source", "seed", "steps") if name in attrs}
        read = {name: " x ".join(f"{d} {n}" for d, n in v.sizes.items()) for name, v in self.record.data_vars.items()}
        shown = image_tag(self.image, str(attrs.get("prompt", ""))) if self.image.size else ""
        return grid([[shown, facts({**known, **{str(name): sizes for name, sizes in read.items()}})]])


def record_generated(
    pipe: Pipeline,
    prompt: str,
    readouts: Sequence[Readout],
    timesteps: tuple[int, ...],
    generation: GenerationConfig,
    layers: Collection[int] | None = None,
    decode: bool = False,
) -> Recording:
    """Generate an image and read the prompt's half of classifier-free guidance at ``timesteps``.

    ``decode`` False leaves the image in latent space and out of the result.
    """
    steps = steps_at(timesteps, generation.steps)
    with Probe(pipe, readouts, steps=steps, layers=layers) as probe:
        form = "np" if decode else "latent"
        output = call_pipeline(pipe, prompt, output_type=form, **generation_arguments(pipe, generation))
    check_steps(pipe, probe, generation.steps)
    record = by_timestep(probe, steps, timesteps, steps)
    image = _image(output) if decode else np.empty((0, 0, 3), np.uint8)
    return Recording(record.assign_attrs(_origin(pipe, prompt, generation, "generated")), image)


def record_image(
    pipe: Pipeline,
    image: np.ndarray,
    prompt: str,
    readouts: Sequence[Readout],
    timesteps: tuple[int, ...],
    generation: GenerationConfig,
    layers: Collection[int] | None = None,
) -> Recording:
    """Encode an image, mix it with the noise of each timestep and run the transformer once for each.

    ``image`` is (height, width, 3) uint8 RGB, both sides divisible by the model's token size. No guidance: there is
    one forward pass, with the prompt.
    """
    arguments = generation_arguments(pipe, generation)
    steps = steps_at(timesteps, generation.steps)
    latents = encode_images(pipe, [image])
    with Probe(pipe, readouts, layers=layers) as probe:
        prompts = encode_prompts(pipe, [prompt], arguments.get("max_sequence_length", 0))
        for timestep in timesteps:
            sigma = noise_level(pipe, timestep, generation.steps, image.shape[:2])
            forward_noisy(pipe, latents, sigma, prompts, generation.seed)
    record = by_timestep(probe, range(len(timesteps)), timesteps, steps)
    return Recording(record.assign_attrs(_origin(pipe, prompt, generation, "image")), image)


def _image(output: Any) -> np.ndarray:
    """The first image of a pipeline's output, or the middle frame of its first video, as uint8."""
    frames = getattr(output, "frames", None)
    made = output.images[0] if frames is None else frames[0][len(frames[0]) // 2]
    return np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8)


def by_timestep(
    probe: Probe, seen: Sequence[int], timesteps: Sequence[int], steps: Sequence[int], row: int = -1
) -> xr.Dataset:
    """What a probe saw of the prompt at some of its steps, with the dims (timestep, layer, ...).

    ``seen`` are the steps as the probe counted them, ``steps`` the positions in the sampling loop that they stand for;
    ``row`` is the batch row, of those in `prompt_branch`.
    """
    # where the rows are not known, pipelines put the negative prompt's before the prompt's
    record = one_call_a_step(probe.dataset(prompt_branch(probe)).isel(batch=row))
    known = record["step"].values.tolist()
    missing = [step for step in seen if step not in known]
    if missing:
        raise ValueError(
            f"timesteps: the probed transformer took no part in the sampling steps {missing}; it did in {sorted(known)}"
        )
    chosen = record.isel(call=[known.index(step) for step in seen])
    if not any("token" in variable.dims for variable in chosen.data_vars.values()):
        chosen = chosen.drop_dims("token", errors="ignore")  # prompts, which differ in length, are joined later
    times = {"timestep": list(timesteps), "step": list(steps)}
    chosen = chosen.assign_coords({name: coordinate(name, "call", values) for name, values in times.items()})
    return chosen.swap_dims(call="timestep")


def prompt_branch(probe: Probe) -> CFGBranch:
    """The branch whose rows carry the prompt: all of them, where no negative prompt is known."""
    return "both" if probe.unguided else "conditional"


def one_call_a_step(record: xr.Dataset) -> xr.Dataset:
    """Of a batch row's record, the call of each sampling step that carries the prompt.

    Of the prompt's calls the last, from where second-order schedulers go on; where it is not known which they are, the
    first, which the negative prompt's follow.
    """
    carries = "conditional" in record.coords
    if carries and record["conditional"].dims == ("call",):
        record = record.isel(call=np.flatnonzero(record["conditional"].values))
    calls: dict[int, int] = {}
    for call, step in enumerate(record["step"].values.tolist()):
        calls[step] = call if carries else calls.get(step, call)
    return record.isel(call=list(calls.values()))


def check_steps(pipe: Pipeline, probe: Probe, wanted: int) -> None:
    """`ValueError` if the pipeline took more sampling steps than it was asked for."""
    taken = 0 if probe.running is None else probe.running.step + 1
    if taken > wanted:
        raise ValueError(
            f"timesteps: {type(pipe).__name__} took {taken} sampling steps where {wanted} were asked for, so that they "
            f"can't be counted from the clean end; use another scheduler"
        )


def _origin(pipe: Pipeline, prompt: str, generation: GenerationConfig, source: str) -> dict[str, Any]:
    origin = {"prompt": prompt, "source": source, "seed": generation.seed, "steps": generation.steps}
    return {**origin, "unknown_words": ", ".join(unknown_words(pipe, [prompt]))}


def check_sampling(study: str, config: Any) -> None:
    """`ValueError` if there is no prompt or an empty one, before a run takes its folder."""
    if not config.prompts:
        raise ValueError(f"{study}: there is no prompt; give at least one")
    if not all(prompt.strip() for prompt in config.prompts):
        raise ValueError(f"{study}: the prompt is empty; give it at least one word")


def prompt_units(measure: Callable[[str], xr.Dataset], prompts: Sequence[str]) -> list[Unit]:
    """A unit of work for each prompt."""
    return [Unit(f"prompt-{number:04d}", partial(measure, prompt)) for number, prompt in enumerate(prompts)]


def run_prompts(
    measure: Callable[[str], xr.Dataset],
    prompts: Sequence[str],
    folder: RunFolder,
    progress: Progress | None = None,
) -> xr.Dataset:
    """``measure`` each prompt, save each record in ``folder`` when it is done, and join them along ``prompt``.

    A run that was interrupted continues; `ValueError` if the folder holds a run with other settings.
    """
    measured: list[xr.Dataset] = []
    with folder.open() as run:
        for item in run.finished(prompt_units(measure, prompts), progress):
            if not measured:
                kept = item.nbytes * len(prompts)
                check_room(f"{len(prompts)} records", kept, 2 * kept, "take fewer prompts at a time")
            measured.append(item)
    joined = xr.concat(measured, "prompt", combine_attrs="override", coords="minimal", compat="override")
    joined.attrs.pop("prompt", None)
    words = (word for item in measured for word in str(item.attrs.get("unknown_words", "")).split(", ") if word)
    joined.attrs["unknown_words"] = ", ".join(dict.fromkeys(words))
    return joined.assign_coords(prompt=list(prompts))
