"""Measures tiny-sd3 and writes its numbers and model card: ``python -m mmdit_probe.tiny.evaluate``.

Layer and timestep are chosen on validation scenes and reported on test scenes, over several noise seeds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from PIL import Image
from tqdm.auto import tqdm

from ..configs import AgreementConfig, GenerationConfig
from ..datasets.scenes import GROUNDS, Scene, scenes
from ..families import Pipeline
from ..metrics.image_metrics import Clip
from ..metrics.scene_reader import Fact, SceneReader, prompt_facts
from ..pipelines.forward import noise_level
from ..pipelines.loading import embedded_folder, load_pipeline
from ..storage.files import write_text
from ..studies.image_grid import generate_batch
from ..studies.layer_agreement import layer_agreement, summary
from ..studies.scene_grounding import MEAN_OF_LAYERS, baselines, blur_harm, measure_layers
from .card import write_card
from .export import digests
from .eye import LABELS, measure_instruments, read_labels
from .kinds import make_denoiser, make_pipeline
from .recipe import Recipe
from .retrieval import retrieval_accuracy
from .scene_reader import reader_accuracy

TIMESTEPS = (2, 4, 6, 8, 10, 12, 16, 20, 24)
SHOWN = 40
"""Images in the model card."""
BLUR_TIMESTEP = 8
"""The timestep at which the harm of a blur is measured, the paper's; with less noise the caption hardly matters."""
GUIDANCE, TEXT_POSITIONS = 7.5, 0
"""The embedded model's default guidance scale and number of (all-zero) T5 positions."""


def choose(pipe: Pipeline, held_out: list[Scene]) -> tuple[int, int, pd.DataFrame]:
    """The layer and timestep with the highest mIoU, and a table of mIoU by timestep and layer."""
    frames = [
        measure_layers(pipe, held_out, t, 0, TEXT_POSITIONS)[0] for t in tqdm(TIMESTEPS, "choosing layer and timestep")
    ]
    table = pd.concat(frames)
    single = table[table["layer"] != MEAN_OF_LAYERS]
    best = single.sort_values("miou").iloc[-1]
    return int(best["layer"]), int(best["timestep"]), table


def measure(pipe: Pipeline, untrained: Any, counts: tuple[int, int], seeds: tuple[int, ...]) -> dict[str, Any]:
    """All numbers of the model card."""
    validation, test = list(scenes("val", counts[0])), list(scenes("test", counts[1]))
    layer, timestep, by_timestep = choose(pipe, validation)
    parts = [
        measure_layers(pipe, test, timestep, seed, TEXT_POSITIONS) for seed in tqdm(seeds, "test scenes, noise seeds")
    ]
    masks = pd.concat([masks for masks, _ in parts])
    seeds_of = masks.groupby("layer")[["miou", "pixel_accuracy"]].agg(["mean", "std"])
    mass = parts[0][1].set_index("layer")
    harm = blur_harm(pipe, test, BLUR_TIMESTEP, 0, TEXT_POSITIONS).set_index("layer")["harm"]
    rows = []
    for number in mass.index:
        rows.append(
            {
                "layer": number,
                "miou": seeds_of.loc[number, ("miou", "mean")],
                "miou_std": seeds_of.loc[number, ("miou", "std")],
                "pixel_accuracy": seeds_of.loc[number, ("pixel_accuracy", "mean")],
                "i2t_mass": mass.loc[number, "i2t_mass"],
                "i2t_ratio": mass.loc[number, "i2t_mass"] / mass.loc[number, "uniform"],
                "blur_harm": harm[number],
            }
        )
    nothing, _ = measure_layers(untrained, test, timestep, 0, TEXT_POSITIONS)
    references = baselines(test)
    best_untrained = nothing.sort_values("miou").iloc[-1]
    mean_map = seeds_of.loc[MEAN_OF_LAYERS]
    references["untrained model, its best layer"] = best_untrained[["miou", "pixel_accuracy"]].to_dict()
    references[MEAN_OF_LAYERS] = {key: mean_map[(key, "mean")] for key in ("miou", "pixel_accuracy")}
    sigma = float(parts[0][0]["sigma"].iloc[0])
    return {
        "expert_layer": layer,
        "timestep": timestep,
        "sigma": sigma,
        "blur_timestep": BLUR_TIMESTEP,
        "blur_sigma": noise_level(pipe, BLUR_TIMESTEP, GenerationConfig.steps),
        "validation_scenes": counts[0],
        "test_scenes": counts[1],
        "noise_seeds": list(seeds),
        "layers": rows,
        "references": references,
        "validation_miou": by_timestep.pivot(index="timestep", columns="layer", values="miou").to_dict("index"),
    }


def generate(pipe: Pipeline, prompts: list[str], seed: int, batch: int = 10) -> np.ndarray:
    """(prompts, 64, 64, 3) uint8 images, 28 steps, with the embedded model's defaults."""
    config = GenerationConfig(guidance_scale=GUIDANCE, max_sequence_length=TEXT_POSITIONS)
    starts = tqdm(range(0, len(prompts), batch), "sample images")
    return np.concatenate([generate_batch(pipe, prompts[i : i + batch], seed, config) for i in starts])


def read_samples(prompts: list[str], images: np.ndarray) -> dict[str, float]:
    """Shares of the prompts' grounds, shapes and colored shapes that the scene reader finds in their images."""
    names = ("grounds", "shapes", "colored shapes")
    hits, stated = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for prompt, found in zip(prompts, SceneReader.load().read(images), strict=True):
        facts = prompt_facts(prompt)
        grounds = {fact for fact in facts if fact[0] in GROUNDS}
        colored: set[Fact] = {fact for fact in facts if len(fact) == 2}
        shapes: set[Fact] = {(fact[1],) for fact in colored}
        for name, kind in zip(names, (grounds, shapes, colored), strict=True):
            hits[name] += len(kind & found)
            stated[name] += len(kind)
    return {name: hits[name] / stated[name] for name in names} | {"count": len(prompts)}


def measure_eye(pipe: Pipeline, folder: Path) -> dict[str, Any] | None:
    """How the scene reader and the tiny CLIP agree with the hand labels; None if these are of images of other weights."""
    labels = read_labels(folder / LABELS)
    if labels.transformer not in digests(folder / "transformer").values():
        return None
    images = generate(pipe, [seen.prompt for seen in labels.images], labels.seed)
    return measure_instruments(labels, images, SceneReader.load(), Clip())


def sample_sheet(images: np.ndarray, path: Path, across: int = 10) -> None:
    """Save images in rows of ``across``, enlarged twice."""
    rows = [np.concatenate(list(images[i : i + across]), 1) for i in range(0, len(images), across)]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(path, optimize=True)


def main(
    training: Annotated[
        Path | None, typer.Option(help="flow.jsonl of the training run, for samples seen and time.")
    ] = None,
    validation_count: Annotated[int, typer.Option(help="Validation scenes.")] = 200,
    test_count: Annotated[int, typer.Option(help="Test scenes.")] = 300,
    only_eye: Annotated[
        bool,
        typer.Option("--only-eye", help="Measure the agreement with the hand labels alone; the other numbers stay."),
    ] = False,
) -> None:
    """Measure the embedded model; writes evaluation.json, probe_defaults.json, samples.png and MODEL_CARD.md to its folder."""
    folder = embedded_folder()
    file = folder / "evaluation.json"
    pipe = load_pipeline()
    recipe = Recipe()
    if only_eye:
        numbers = json.loads(file.read_text())
        numbers["eye"] = measure_eye(pipe, folder)
        write_text(file, json.dumps(numbers, indent=1))
        write_card(numbers, recipe, folder / "MODEL_CARD.md")
        typer.echo(f"written: {file}, MODEL_CARD.md")
        return
    untrained = make_pipeline(make_denoiser(recipe).eval().requires_grad_(False), pipe.vae, recipe)
    numbers = json.loads(file.read_text()) if file.is_file() else {}
    kept = {"training": numbers.get("training")}
    if training is not None:
        last = [json.loads(line) for line in training.read_text().splitlines() if "loss" in line][-1]
        kept["training"] = {"samples": last["samples"], "seconds": last["seconds"], "loss": last["loss"]}
    numbers = kept | measure(pipe, untrained, (validation_count, test_count), (0, 1, 2))
    prompts = [scene.sentence() for scene in scenes("test", 100)]
    images = generate(pipe, prompts, seed=0)
    numbers["samples"] = read_samples(prompts, images)
    numbers["prompts"] = prompts[:SHOWN]
    sample_sheet(images[:SHOWN], folder / "samples.png")
    numbers["agreement"] = summary(layer_agreement(pipe, AgreementConfig(scenes=test_count)))
    numbers["clip_retrieval"] = retrieval_accuracy(folder.parent / "tiny-clip")
    numbers["reader"] = reader_accuracy(SceneReader.load())
    numbers["eye"] = measure_eye(pipe, folder)
    numbers["sha256"] = digests(folder.parent)
    write_text(file, json.dumps(numbers, indent=1))
    best = numbers["layers"][numbers["expert_layer"]]["miou"]
    why = f"best masks on scenes: {best:.1%} mIoU on {test_count} held-out scenes, chosen on {validation_count} others"
    defaults = {
        "expert_layer": numbers["expert_layer"],
        "guidance_scale": GUIDANCE,
        "max_sequence_length": TEXT_POSITIONS,
    }
    write_text(folder / "probe_defaults.json", json.dumps({**defaults, "why": why}, indent=1))
    write_card(numbers, recipe, folder / "MODEL_CARD.md")
    typer.echo(f"written: {file}, MODEL_CARD.md, samples.png, probe_defaults.json")


if __name__ == "__main__":
    typer.run(main)
