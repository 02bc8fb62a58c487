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


def with_regions(record, references=((2, 3),), every=1):
    """The same with T2I, T2T, I2I of every pixel, the masses of all keys, and maps of references, all random numbers."""
    generator = np.random.default_rng(1)
    rows, cols, tokens = record.sizes["row"], record.sizes["col"], record.sizes["token"]
    times = (record.sizes["timestep"], record.sizes["map_layer"])
    on, grid = ("timestep", "map_layer"), ("row", "col")
    pixels = [f"{row},{col}" for row in range(rows) for col in range(cols)]

    def numbers(*sizes):
        values = generator.random((*times, *sizes)).astype(np.float32) ** 4
        return values / values.sum(tuple(range(2, values.ndim)), keepdims=True)

    found = {
        "t2i": ((*on, *grid, "token"), numbers(rows, cols, tokens)),
        "t2t": ((*on, "token", "to_token"), numbers(tokens, tokens)),
        "i2i": ((*on, "query", *grid), numbers(len(pixels), rows, cols)),
        "image_key_mass": ((*on, *grid), numbers(rows, cols) / 2),
        "text_key_mass": ((*on, "token"), numbers(tokens) / 2),
    }
    for number, (down, across) in enumerate(references, 1):
        places = [f"reference_{number}_{axis}" for axis in grid]
        asks = [f"{row},{col}" for row in range(down) for col in range(across)]
        record = record.assign_coords({f"reference_{number}_query": asks})
        found[f"i2r_pair_{number}"] = ((*on, "query", *places), numbers(len(pixels), down, across))
        found[f"r2i_pair_{number}"] = ((*on, f"reference_{number}_query", *grid), numbers(len(asks), rows, cols))
    if every > 1:
        found["text_key_mass_error"] = found["text_key_mass"]
    return record.assign_coords(query=pixels).assign(found)


def random_contents(**changes) -> Contents:
    return contents_of(random_record(**changes))
