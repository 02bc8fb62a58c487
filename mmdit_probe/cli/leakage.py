"""mmdit-probe leakage."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import DatasetConfig, LeakageConfig, ModelConfig

from .evaluate import Dataset
from .layers import check_layers, resolve_layers
from .options import RESULTS, naming_options
from .session import Bar, figure_line, finish, label, load, name_unknown_words
from .split import SplitRunConfig

PAIRS = 12
"""Pairs of classes that are drawn."""


def leakage(
    files: DatasetConfig,
    config: LeakageConfig,
    model: ModelConfig,
    dataset: Dataset = "scenes",
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "leakage"),
) -> None:
    """How much of a word's map lies on other objects, by reading, layer and timestep, on images whose masks are known.

    The prompt is the names of the classes that an image shows. A map's mass on a cell of the token grid is shared out among the
    masks by area, and compared with that of a flat map. Maps that may be negative (output, concept) count from their own lowest
    value. Images with fewer than two objects are left out.

    Writes leakage.pdf / .png, leakage.csv (a row for each reading, timestep and layer, with 95% intervals over images),
    leakage_images.csv, and leakage_pairs.csv (which word leaks onto which object).
    """
    from mmdit_probe.datasets.registry import dataset_name, open_dataset

    images = open_dataset(dataset, files.root, config.limit)
    config = replace(config, dataset=dataset_name(dataset))
    check_layers(config.layers, model)

    from mmdit_probe.figures.leakage import leakage_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.studies.leakage import object_numbers, run_leakage
    from mmdit_probe.studies.leakage_tables import images_table, layers_table, pairs_table, summary, worst_pairs

    with naming_options(LeakageConfig):
        object_numbers(images.classes, config.objects)
    pipe = load(model)
    config = replace(config, layers=resolve_layers(pipe, config.layers))
    name_unknown_words(pipe, images.classes)
    with Bar("batches of images") as bar:
        found = run_leakage(pipe, images, config, output.out, label(model), bar.update)
    by_image, pairs = images_table(found), pairs_table(found)
    table = layers_table(by_image)
    least = table.loc[table["leakage"].idxmin()]
    there = pairs[(pairs[["read", "timestep", "layer"]] == least[["read", "timestep", "layer"]]).all(axis=1)]
    where = f"{least['read']}, {'' if isinstance(least['layer'], str) else 'layer '}{least['layer']}, t = {least['timestep']}"
    count = by_image["image"].nunique()
    line = figure_line(model, (), f"{dataset}, n = {count} images; bars: 95% intervals over images")
    figure = leakage_figure(table, worst_pairs(there, PAIRS), where, config.steps)
    written = [
        *save_figure(figure, output.out / "leakage", line),
        write_text(output.out / "leakage.csv", table.to_csv(index=False)),
        write_text(output.out / "leakage_images.csv", by_image.to_csv(index=False)),
        write_text(output.out / "leakage_pairs.csv", pairs.to_csv(index=False)),
    ]
    finish(output, summary(by_image, table, pairs, len(images.samples)), written, table=table)
