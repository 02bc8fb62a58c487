"""Records for the explorer, made of random numbers."""

import numpy as np
import xarray as xr

from mmdit_probe.explorer import Contents, contents_of
from mmdit_probe.readouts.head_groups import group_labels


def random_record(kinds=("start", "word", "word", "end"), words=None, maps=None, grid=(3, 4), heads=(1, 1), **layers):
    """Timesteps 20 and 8, maps of layers 3 and 5 of 6, unless ``maps`` (timestep, layer, group, row, col, token) say else."""
    known, kept = list(layers.get("layers", range(6))), list(layers.get("kept", (3, 5)))
    generator = np.random.default_rng(0)
    if maps is None:
        maps = generator.random((2, len(kept), len(heads), *grid, len(kinds))).astype(np.float32)
        maps *= 0.5 / maps.sum(-1, keepdims=True)
    count = len(maps)
    dims = ("timestep", "map_layer", "head_group", "row", "col", "token")
    curves = {
        "region_mass": (
            ("timestep", "layer", "head", "region"),
            generator.random((count, len(known), sum(heads), 4)),
        ),
        "value_norm": (
            ("timestep", "layer", "head", "stream"),
            generator.random((count, len(known), sum(heads), 3)),
        ),
    }
    words = [f"word{place}" for place in range(len(kinds))] if words is None else words
    coordinates = {
        "timestep": [20, 8][-count:],
        "sigma": ("timestep", [0.88, 0.515][-count:]),
        "layer": known,
        "map_layer": kept,
        "head_group": group_labels(list(heads)),
        "heads": ("head_group", list(heads)),
        "token_text": ("token", list(words)),
        "token_kind": ("token", list(kinds)),
        "token_encoder": ("token", ["clip"] * len(kinds)),
    }
    rows, cols = maps.shape[3:5]
    attrs = {
        "format": 1,
        "grid": [rows, cols],
        "image_tokens": rows * cols,
        "text_tokens": len(kinds),
        "extra_tokens": 0,
        "scope": "joint",
        "prompt": " ".join(words),
        "seed": 0,
        "steps": 28,
        "source": "generated",
    }
    return xr.Dataset({"i2t_group": (dims, maps), **curves}, coordinates, attrs)


def random_contents(**changes) -> Contents:
    return contents_of(random_record(**changes))
