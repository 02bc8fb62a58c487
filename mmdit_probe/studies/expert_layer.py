"""Which layer grounds the words: a sign that needs no labels, others beside it, and masks where labels are known."""

from __future__ import annotations

import html
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from ..attention.text_tokens import Kind
from ..configs import ExpertConfig
from ..datasets.prompts import scene_prompts
from ..datasets.scenes import scenes
from ..edits import BlurText
from ..families import Pipeline, denoiser_of
from ..metrics.inference import Interval, best
from ..metrics.rank_correlation import rank_correlations
from ..metrics.verdicts import Form, counted, in_words, lead_lines
from ..metrics.word_grounding import coherence, selectivity, word_information
from ..pipelines.defaults import model_defaults
from ..pipelines.generation import generation_arguments, steps_at
from ..pipelines.modular_call import call_pipeline
from ..pipelines.vocabulary import unknown_words
from ..probe.prefix import SharedPrefix
from ..probe.probe import Probe
from ..readouts.maps import I2TMaps
from ..readouts.value_norms import ValueNorms
from ..storage.records import FORMAT
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .recording import prompt_units
from .scene_grounding import MEAN_OF_LAYERS, measure_layers

CHOOSES = "word_information"
"""The sign that chooses: of `SIGNS` it alone names the layer with the best masks in tiny-sd3 and in tiny-flux."""
SIGNS = {
    CHOOSES: "what attention to the words says of places",
    "value_norm_ratio": "text / image value norm",
    "coherence": "spatial coherence of the words' maps",
    "selectivity": "how few words share a position",
    "blur_sensitivity": "change by blurring the layer's words",
}
"""The label-free signs; each was proposed as higher for a layer that grounds words."""
_NATS = Form(3)


@dataclass(frozen=True, eq=False)
class Expert:
    """The layer that `find_expert` found.

    Attributes:
        layer: its number.
        why: one sentence that says why.
        table: one row for each layer with every sign, averaged over the ``n`` prompts.
        by_prompt: the signs of each layer and prompt, with the ``number`` of the prompt.
    """

    layer: int
    why: str
    table: pd.DataFrame
    by_prompt: pd.DataFrame = field(default_factory=pd.DataFrame)

    def _repr_html_(self) -> str:
        """The layer, why it was chosen, and the table, for notebooks."""
        return f"<p><b>Layer {self.layer}</b>, {html.escape(self.why)}</p>{self.table.round(3).to_html(index=False)}"


def find_expert(pipe: Pipeline, config: ExpertConfig | None = None, progress: Progress | None = None) -> Expert:
    """The layer whose attention to the words says most of places, averaged over prompts, and the other signs."""
    config = config or ExpertConfig(prompts=scene_prompts(4))
    frames = []
    for number, prompt in enumerate(config.prompts):
        frames.append(measure_signs(pipe, prompt, config))
        if progress is not None:
            progress(number + 1, len(config.prompts))
    return _chosen_of(pipe, config, frames)


def run_find_expert(
    pipe: Pipeline, config: ExpertConfig, out: Path, model: str, progress: Progress | None = None
) -> Expert:
    """`find_expert`, each prompt's signs written to ``out`` as they are done; a run that was interrupted continues."""

    def measure(prompt: str) -> xr.Dataset:
        signs = measure_signs(pipe, prompt, config).set_index("layer")
        return xr.Dataset.from_dataframe(signs).assign_attrs(format=FORMAT, prompt=prompt)

    with RunFolder.for_study(out, "find-expert", model, config).open() as run:
        items = list(run.finished(prompt_units(measure, config.prompts), progress))
    return _chosen_of(pipe, config, [item.to_dataframe().reset_index() for item in items])


def _chosen_of(pipe: Pipeline, config: ExpertConfig, signs: Sequence[pd.DataFrame]) -> Expert:
    numbered = [frame.assign(number=number) for number, frame in enumerate(signs)]
    found = chosen_expert(pd.concat(numbered, ignore_index=True))
    unknown = ", ".join(unknown_words(pipe, config.prompts))
    return replace(found, table=found.table.assign(unknown_words=unknown))


def chosen_expert(by_prompt: pd.DataFrame) -> Expert:
    """The layer with the most `word_information`; ``by_prompt`` has the signs of each ``layer`` and ``number`` of a prompt."""
    prompts = by_prompt["number"].nunique()
    grouped = by_prompt.groupby("layer")
    table = grouped[list(SIGNS)].mean()
    table = table.assign(n=prompts).reset_index()
    if "sigma" in by_prompt:
        table.insert(1, "sigma", grouped["sigma"].mean().to_numpy())
    top = table.loc[table[CHOOSES].idxmax()]
    why = (
        f"found by find-expert: its attention to the words says most of places, {_NATS(top[CHOOSES])} nats for an image token, "
        f"the largest of {len(table)} layers (average over {counted(prompts, 'prompt')})"
    )
    return Expert(int(top["layer"]), why, table, by_prompt)


def expert_lead(expert: Expert) -> list[str]:
    """Whether the expert leads the other layers by more than chance over prompts, and which layers the other signs name."""
    wide = expert.by_prompt.pivot(index="layer", columns="number", values=CHOOSES)
    if len(wide) < 2:
        return []
    names = [f"layer {layer}" for layer in wide.index]
    lead = lead_lines(best(wide.to_numpy()[:, :, None]), names, _NATS, "prompt", "layer")
    lines = [f"Layer {expert.layer}, in nats: {line}" for line in lead]
    table = expert.table.set_index("layer")
    named = {text: int(table[sign].idxmax()) for sign, text in SIGNS.items() if sign != CHOOSES}
    agree = sum(layer == expert.layer for layer in named.values())
    said = "; ".join(f"layer {layer} by {text}" for text, layer in named.items())
    return [*lines, f"Of the {len(named)} other signs {agree} name it too: {said}."]


def measure_signs(pipe: Pipeline, prompt: str, config: ExpertConfig) -> pd.DataFrame:
    """The signs of each layer on one generated image at one timestep.

    Returns:
        One row for each layer: ``word_information`` in nats, at least 0; ``value_norm_ratio``, above 0, the mean value norm of
        text over that of image tokens; ``coherence`` in [-1, 1]; ``selectivity`` in [0, 1]; ``blur_sensitivity``, at least 0,
        the relative change of the prediction when the layer's text is blurred.
    """
    (step,) = steps_at((config.chosen_timestep,), config.generation.steps)
    record, call = _generate(pipe, prompt, config, step)
    words = _word_maps(record)
    norms = record["value_norm"].mean(("batch", "head"))
    signs = pd.DataFrame(
        {
            "layer": record["layer"].values,
            CHOOSES: [word_information(maps) for maps in words],
            "value_norm_ratio": (norms.sel(stream="text") / norms.sel(stream="image")).values,
            "coherence": [coherence(maps) for maps in words],
            "selectivity": [selectivity(maps) for maps in words],
        }
    )
    sigma = float(record["sigma"]) if "sigma" in record.coords else float("nan")
    return signs.assign(sigma=sigma, blur_sensitivity=blur_sensitivity(pipe, call, signs["layer"].tolist()))


class Call(NamedTuple):
    """The transformer's arguments in one call, and the batch indices that carry the prompt."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch_indices: list[int]


def _generate(pipe: Pipeline, prompt: str, config: ExpertConfig, step: int) -> tuple[xr.Dataset, Call]:
    """The record of the prompt at one step, and the transformer's call that it was read from."""
    seen: list[Call] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running = probe.running
        if running is not None and running.step == step and running.text is not None:
            carrying = np.flatnonzero(running.text.conditional).tolist()
            seen.extend([Call(args, kwargs, carrying)] if carrying else [])

    with Probe(pipe, [I2TMaps(), ValueNorms()], steps=[step]) as probe, ExitStack() as stack:
        stack.callback(denoiser_of(pipe).register_forward_pre_hook(keep, with_kwargs=True).remove)
        call_pipeline(pipe, prompt, output_type="latent", **generation_arguments(pipe, config.generation))
    if not seen:
        raise ValueError("find-expert: this pipeline's prompt tokens are not known; give a layer number instead")
    return probe.dataset("conditional").isel(call=-1), seen[-1]


def _word_maps(record: xr.Dataset) -> np.ndarray:
    """(layer, word token, ...grid) of the prompt."""
    words = record["token_kind"].isel(batch=0).values == str(Kind.WORD)
    maps = record["i2t"].isel(batch=0)
    grid = [dim for dim in maps.dims if dim not in ("layer", "token")]
    return maps.isel(token=words).transpose("layer", "token", *grid).values


@torch.no_grad()
def blur_sensitivity(pipe: Pipeline, call: Call, layers: list[int]) -> list[float]:
    """Relative change (L2 norms) of the prompt's prediction when each layer's I2T attention is blurred along the text."""
    arguments = {**call.kwargs, "return_dict": False}

    def predict() -> Tensor:
        predicted = denoiser_of(pipe)(*call.args, **arguments)[0]  # a tensor, or a list of samples
        return torch.stack([predicted[index] for index in call.batch_indices]).float()

    plain, prefix = predict(), SharedPrefix(pipe)
    changes = []
    for layer in layers:
        with (
            prefix.before(layer),
            Probe(pipe, [], edits=[BlurText(layer, padding="symmetric", batch=call.batch_indices)]),
        ):
            changes.append(float((predict() - plain).norm() / plain.norm()))
    return changes


def with_masks(
    pipe: Pipeline,
    table: pd.DataFrame,
    count: int,
    timestep: int,
    *,
    steps: int = 28,
    max_sequence_length: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The table of `find_expert` with each layer's ``miou``, a fraction in [0, 1], and its 95% interval over ``scenes``.

    Args:
        pipe: tiny-sd3, or another pipeline that knows scenes.
        table: one row for each layer.
        count: number of test scenes.
        timestep: counted from the clean end, of ``steps``; take those of the search.
        steps: number of sampling steps.
        max_sequence_length: T5 positions; None is the model's own default.
        progress: called with the scenes that are read, and all of them.
    """
    positions = model_defaults(pipe).max_sequence_length if max_sequence_length is None else max_sequence_length
    masks, _ = measure_layers(pipe, list(scenes("test", count)), timestep, 0, positions, steps, progress)
    single = masks[masks["layer"] != MEAN_OF_LAYERS].astype({"layer": int})
    shown = single[["layer", "miou", "scenes", "low", "high"]]
    return table.merge(shown.rename(columns={"low": "miou_low", "high": "miou_high"}), on="layer")


def agreement(table: pd.DataFrame) -> list[str]:
    """The best masks, and Spearman's rank correlation of each sign with the masks' mIoU."""
    top = table.loc[table["miou"].idxmax()]
    found = rank_correlations(table, list(SIGNS), "miou")
    interval = Interval(top["miou"], top["miou_low"], top["miou_high"], int(top["scenes"]))
    lines = [
        f"Best masks on scenes: layer {top['layer']:.0f}, {top['miou']:.1%} mIoU {in_words(interval, Form(1, 100), 'scene')}."
    ]
    over = f"with mIoU on scenes, over {len(table)} layers"
    return lines + [f"Spearman of {text} {over}: {found[sign]:+.2f}" for sign, text in SIGNS.items()]
