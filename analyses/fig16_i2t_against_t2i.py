"""Fig. 16: maps of words from the image's rows (I2T) against those from the text's rows (T2I), and their masks.

python analyses/fig16_i2t_against_t2i.py [--model MODEL] [--quick]

The masks of T2I are made as those of I2T: mean over heads and over a name's tokens, argmax over the names.
"""

import pandas as pd
from _analysis import Analysis, expert_of, main

from mmdit_probe.configs import MapsConfig
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.evaluation.counts import offered
from mmdit_probe.figures.evaluation import directions_figure
from mmdit_probe.figures.maps import word_page
from mmdit_probe.pipelines.image_size import native_size, token_pixels
from mmdit_probe.readouts.maps import I2TMaps, T2IMaps
from mmdit_probe.segmentation.layer_metrics import MetricsByName
from mmdit_probe.segmentation.map_reader import MapReader
from mmdit_probe.segmentation.segmenters import read_class_maps
from mmdit_probe.storage.images import fitted
from mmdit_probe.studies.word_maps import head_mean, measure_maps
from mmdit_probe.utils.distributed import leave_to_first

DATASET, ROOT, IMAGES = "scenes", None, 200
SCENE = 3
TIMESTEP = 8


def run(analysis: Analysis) -> list[str]:
    leave_to_first()  # nothing is split
    pipe = analysis.pipe()
    drawn, expert = scene("test", SCENE), expert_of(pipe)
    image = fitted(drawn.image, token_pixels(pipe), native_size(pipe))
    word = drawn.classes[-1]
    for direction in ("i2t", "t2i"):
        config = MapsConfig(
            prompt=drawn.class_list(), words=(word,), layers=None, timesteps=(TIMESTEP,), direction=direction
        )
        record = measure_maps(pipe, config, image).record
        page = word_page(head_mean(record).sel(word=word).transpose("timestep", "layer", "row", "col"),
                         image, word, direction, config.generation.steps)  # fmt: skip
        analysis.figure(page, f"fig16_{direction}", f"scene {SCENE}", prompts=[drawn.class_list()])
    table = pd.concat([masks(pipe, analysis, direction) for direction in ("i2t", "t2i")], ignore_index=True)
    images = analysis.fewer(IMAGES, 2)
    analysis.figure(
        directions_figure(table, expert), "fig16_masks", f"{DATASET}, n = {images} images; dotted: the expert layer"
    )
    analysis.table(table, "fig16_masks")
    best = table.loc[table.groupby("direction")["miou"].idxmax()]
    return [
        f"{row.direction}: layer {row.layer} has the highest mIoU, {100 * row.miou:.1f} (n = {images} images, no test of its lead)"
        for row in best.itertuples()
    ]


def masks(pipe, analysis: Analysis, direction: str) -> pd.DataFrame:
    """mIoU of every layer's masks in one direction, in [0, 1]."""
    images = open_dataset(DATASET, ROOT, analysis.fewer(IMAGES, 2))
    readout = I2TMaps() if direction == "i2t" else T2IMaps()
    reader = MapReader(pipe, readout, None, [TIMESTEP], field=direction)
    totals = MetricsByName()
    for sample in images.samples:
        labels = sample.read()
        present = offered(labels, images.classes, "present")
        (found,) = read_class_maps(reader, [sample.image], [[images.classes[number] for number in present]])
        totals.add_layers(zip(reader.layers, found[0], strict=True), present, labels, len(images.classes))
    frame = totals.table("layer")[["layer", "miou"]]
    return frame.assign(direction=direction, timestep=TIMESTEP, sigma=reader.sigmas[0])


if __name__ == "__main__":
    main(run, __doc__)
