"""Which way of reading finds the words in images that the model draws.

python analyses/reading_generated.py [--quick]

Generated images have no masks. The scenes' grounds have none of the shapes' colors, so that an image of a sentence with one ground
and shapes of different colors can be labeled by color: a shape is where its color is, the ground where none of the colors is. What
that ruler is worth is measured on the same sentences' real scenes, whose masks are known. An image that hardly shows the color of
one of its shapes is left out. All readings are made in one pass, while the image is drawn; layers are chosen on the images of
other sentences, as in reading.py. Intervals are over sentences, whose counts are summed over the seeds. Every part is kept and
continued.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr
from _analysis import Analysis, main
from _readings import DIFFERENCE, READS, chosen_means, compared
from scipy import ndimage

from mmdit_probe.configs import EMBEDDED_MODELS, GenerationConfig
from mmdit_probe.datasets.scenes import CLASSES, Scene, scene
from mmdit_probe.metrics.iou import mean_iou
from mmdit_probe.metrics.object_place import FEWEST_PIXELS, color_mask
from mmdit_probe.metrics.segmentation import SegmentationMetrics, measure_labels
from mmdit_probe.readouts.concepts import ConceptMaps
from mmdit_probe.readouts.contributions import Contributions
from mmdit_probe.readouts.maps import I2TMaps, T2IMaps
from mmdit_probe.readouts.output_similarity import OutputMaps
from mmdit_probe.segmentation.label_map import class_maps, label_map
from mmdit_probe.storage.records import FORMAT
from mmdit_probe.storage.runs import RunFolder
from mmdit_probe.studies.recording import record_generated, run_prompts
from mmdit_probe.studies.word_maps import word_positions
from mmdit_probe.utils.distributed import for_all

SENTENCES, VALIDATION, SEEDS, TIMESTEP = 100, 50, (0, 1, 2), 2
RIM = 2
"""Pixels of a shape's rim, which is darker than its color."""
OF_TOKENS = {"i2t": "i2t", "t2i": "t2i", "output": "output_map"}
OF_WORDS = {"contribution": "contribution", "concept": "concept_map"}
Means = dict[str, dict[str, np.ndarray]]


@for_all()
def run(analysis: Analysis) -> list[str]:
    if analysis.model not in EMBEDDED_MODELS:
        raise ValueError("--model: the embedded models alone draw scenes whose shapes are known by their color")
    pipe = analysis.pipe()
    count, validation = analysis.fewer((SENTENCES, VALIDATION), (3, 2))
    seeds = analysis.fewer(SEEDS, (0,))
    tried = counts(analysis, pipe, told_by_color("val", validation), seeds[:1], {}, "validation")[0]
    layers = {read: mean_iou(own.sum(0)) for read, own in tried.items()}
    means = {read: chosen_means(miou) for read, miou in layers.items()}
    chosen = told_by_color("test", count)
    every, shown = counts(analysis, pipe, chosen, seeds, means, "test")
    found = {}
    for read in READS:
        best = int(np.argmax(layers[read]))
        found[read, f"layer {best} (validation)"] = every[read][:, best]
        found |= {(read, name): every[read][:, len(layers[read]) + i] for i, name in enumerate(means[read])}
    table, lead = compared(found, len(seeds))
    analysis.table(table, "reading_generated")
    percent = table.assign(**{name: 100 * table[name] for name in ("miou", "low", "high", *DIFFERENCE)})
    ruler = sum((measure_labels(one.labels, by_color(one.image, one), len(CLASSES)) for one in chosen), NOTHING)
    return [
        f"mIoU in percent at t = {TIMESTEP}; {shown} of {count * len(seeds)} images ({count} test sentences, {len(seeds)} seeds) "
        f"show all their shapes' colors; chosen on the images of {validation} other sentences:",
        percent.to_string(index=False, float_format="%.1f", na_rep="-"),
        *lead,
        f"The ruler, on the {count} real scenes of these sentences: {100 * ruler.miou:.1f} mIoU, "
        f"{100 * ruler.pixel_accuracy:.1f}% of the pixels.",
    ]


NOTHING = SegmentationMetrics(np.zeros((len(CLASSES), len(CLASSES)), int))


def told_by_color(split: str, count: int) -> list[Scene]:
    """The first scenes of a split with one ground, and shapes that all have a color of their own, not that of snow.

    Each has a sentence of its own.
    """

    def fits(one: Scene) -> bool:
        colors = {thing.color for thing in one.things}
        own = len(colors) == len(one.things) > 0 and not ("white" in colors and "snow" in one.grounds)
        return own and len(one.grounds) == 1

    found: dict[str, Scene] = {}
    for one in filter(fits, map(partial(scene, split), range(100 * count))):
        found.setdefault(one.sentence(), one)
        if len(found) == count:
            break
    return list(found.values())


def by_color(image: np.ndarray, one: Scene) -> np.ndarray:
    """(height, width) class numbers of an image that shows the scene's shapes, in their colors, on its ground.

    Of a color's pixels those of the largest patch, widened by a shape's dark rim.
    """
    labels = np.full(image.shape[:2], CLASSES.index(one.grounds[0]))
    for thing in one.things:
        patches, number = ndimage.label(ndimage.binary_opening(color_mask(image, thing.color)))
        if number:
            largest = patches == 1 + np.bincount(patches.ravel())[1:].argmax()
            labels[ndimage.binary_dilation(largest, iterations=RIM)] = CLASSES.index(thing.shape)
    return labels


def counts(
    analysis: Analysis, pipe, scenes: Sequence[Scene], seeds: Sequence[int], means: Means, part: str
) -> tuple[dict[str, np.ndarray], int]:
    """By reading, pixel counts (sentence, layer, count, class) summed over seeds, means behind the layers; images counted."""
    of_sentence = {one.sentence(): one for one in scenes}
    weights = {read: {name: own.tolist() for name, own in named.items()} for read, named in means.items()}
    total, shown = 0, 0
    for seed in seeds:
        settings = {"prompts": list(of_sentence), "timestep": TIMESTEP, "seed": seed, "means": weights}
        folder = RunFolder.for_study(
            analysis.folder(f"/{part}-seed{seed}"), "reading-generated", analysis.label, **settings
        )
        generation = GenerationConfig(seed=seed, max_sequence_length=0)
        found = run_prompts(
            lambda sentence, how=generation: measured(pipe, of_sentence[sentence], how, means),
            list(of_sentence),
            folder,
        )
        total, shown = total + found["counts"], shown + int(found["shown"].sum())
    return {read: total.sel(read=read).values for read in READS}, shown


def measured(pipe, one: Scene, generation: GenerationConfig, means: Means) -> xr.Dataset:
    """Pixel counts (read, layer, count, class) of one drawn image, all 0 if it does not show its shapes' colors."""
    names = [*one.grounds, *(thing.shape for thing in one.things)]
    spans = word_positions(pipe, one.sentence(), names, generation)
    readouts = [I2TMaps(), T2IMaps(), OutputMaps(), Contributions(spans), ConceptMaps(names)]
    seen = record_generated(pipe, one.sentence(), readouts, (TIMESTEP,), generation, decode=True)
    shown = all(color_mask(seen.image, thing.color).sum() >= FEWEST_PIXELS for thing in one.things)
    truth, numbers = by_color(seen.image, one), np.array([CLASSES.index(name) for name in names])
    found = []
    for read in READS:
        maps = word_maps(seen.record.isel(timestep=0), read, spans)
        if means:
            maps = torch.cat(
                [
                    maps,
                    torch.einsum("ml,lwrc->mwrc", torch.from_numpy(np.stack([*means[read].values()])).to(maps), maps),
                ]
            )
        labels = [numbers[label_map(own, truth.shape)] for own in maps]
        found.append([shown * measure_labels(truth, own, len(CLASSES)).counts for own in labels])
    dims = ("read", "layer", "count", "class")
    return xr.Dataset({"counts": (dims, np.array(found)), "shown": shown}, {"read": list(READS)}, {"format": FORMAT})


def word_maps(record: xr.Dataset, read: str, spans: Sequence[Sequence[int]]) -> torch.Tensor:
    """(layer, word, row, col) of one reading."""
    if read in OF_WORDS:
        return torch.from_numpy(record[OF_WORDS[read]].transpose("layer", ..., "row", "col").values)
    maps = record[OF_TOKENS[read]].transpose("layer", "row", "col", "token")
    return class_maps(torch.from_numpy(maps.values), spans)


if __name__ == "__main__":
    main(run, __doc__)
