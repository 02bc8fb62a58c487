"""Fig. 9 and 30: where single heads look for a word, and the regions that the tokens of an empty prompt take.

python analyses/fig09_fig30_heads_and_padding.py [--model MODEL] [--quick]

Reads held-out scenes at one timestep; the words are their class names.
"""

import pandas as pd
import xarray as xr
from _analysis import Analysis, expert_of, main

from mmdit_probe.configs import GenerationConfig, GroupConfig, MapsConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.families import layers_of
from mmdit_probe.figures.maps import heads_page, tokens_page
from mmdit_probe.figures.style import time_label
from mmdit_probe.pipelines.image_size import native_size, token_pixels
from mmdit_probe.segmentation import UnsupervisedSegmenter
from mmdit_probe.segmentation.kl_merge import scale_pixels
from mmdit_probe.segmentation.render import colored
from mmdit_probe.segmentation.segmenters import read_token_maps
from mmdit_probe.storage.images import fitted
from mmdit_probe.studies.word_maps import measure_maps
from mmdit_probe.utils.distributed import leave_to_first

SCENES = (0, 3)
TIMESTEP, STEPS = 8, 28


def run(analysis: Analysis) -> list[str]:
    leave_to_first()  # nothing is split
    pipe = analysis.pipe()
    expert, rows = expert_of(pipe), []
    layers = tuple(layer for layer in (expert - 3, expert, expert + 3) if layer >= 0)
    for number in analysis.fewer(SCENES, SCENES[:1]):
        drawn = scene("test", number)
        image = fitted(drawn.image, token_pixels(pipe), native_size(pipe))
        known = tuple(layer for layer in layers if layer <= last_layer(pipe))
        config = MapsConfig(
            prompt=drawn.class_list(),
            words=drawn.classes,
            layers=known,
            timesteps=(TIMESTEP,),
            direction="i2t",
            heads="all",
            generation=GenerationConfig(),
        )
        maps = measure_maps(pipe, config, image).record["word_map"].isel(timestep=0)
        for word in drawn.classes:
            own = maps.sel(word=word).transpose("layer", "head", "row", "col")
            page = heads_page(own, word, "i2t", config.generation.steps)
            analysis.figure(page, f"fig09_heads_scene{number}_{word.replace(' ', '_')}", prompts=[config.prompt])
            rows.append(peaks(own, word, number))
        padding(analysis, pipe, drawn.image, number)
    analysis.table(pd.concat(rows, ignore_index=True), "fig09_heads")
    return [f"layers {', '.join(map(str, known))}, timestep {TIMESTEP} of 28, sigma {float(maps['sigma']):.3f}"]


def last_layer(pipe) -> int:
    return len(layers_of(pipe)) - 1


def peaks(maps: xr.DataArray, word: str, number: int) -> pd.DataFrame:
    """Mean and largest probability of each layer and head."""
    values = xr.Dataset({"mean": maps.mean(("row", "col")), "peak": maps.max(("row", "col"))})
    frame = values.to_dataframe().reset_index()[["layer", "head", "mean", "peak"]]
    return frame.assign(scene=number, word=word)


def padding(analysis: Analysis, pipe, image, number: int) -> None:
    """The empty prompt's tokens: their maps, each grid point scaled over the tokens, and the regions they merge into."""
    segmenter = UnsupervisedSegmenter(pipe, config=GroupConfig(timestep=TIMESTEP))
    maps = scale_pixels(read_token_maps(segmenter.reader, [image])[0, 0, 0]).numpy()
    found = segmenter(image)
    kinds = [str(kind) for kind in segmenter.reader.features(("",)).text.kinds[0][: len(maps)]]
    title = f"Empty prompt, layer {segmenter.layer}, {time_label(TIMESTEP, segmenter.reader.sigmas[0], STEPS)}"
    regions = colored(found.labels, len(found.classes))
    analysis.figure(
        tokens_page(maps, kinds, image, regions, title), f"fig30_padding_scene{number}", f"scene {number}, empty prompt"
    )


if __name__ == "__main__":
    main(run, __doc__)
