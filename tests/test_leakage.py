"""Leakage: maps' mass on masks by hand, its laws, tables, figure and command."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmdit_probe import load_pipeline
from mmdit_probe.configs import LeakageConfig
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.datasets.scenes import CLASSES, scene
from mmdit_probe.figures.leakage import leakage_figure
from mmdit_probe.metrics.leakage import covered, mask_shares, mass_on_masks
from mmdit_probe.segmentation.map_reader import MapReader
from mmdit_probe.segmentation.maps import make_readout
from mmdit_probe.segmentation.segmenters import read_class_maps
from mmdit_probe.studies.leakage import object_numbers, run_leakage
from mmdit_probe.studies.leakage_tables import images_table, layers_table, pairs_table, summary, worst_pairs

CONFIG = LeakageConfig(read=("i2t", "output"), timesteps=(1, 3), steps=4, max_sequence_length=3, batch=4)
COUNT = 6


@pytest.fixture(scope="module")
def found(random_folder, tmp_path_factory):
    pipe, out = load_pipeline(str(random_folder)), tmp_path_factory.mktemp("leakage")
    return run_leakage(pipe, open_dataset("scenes", limit=COUNT), CONFIG, out, "random")


@pytest.mark.parametrize(("cells", "pixels"), [(3, 7), (8, 64), (5, 3), (4, 4)])
def test_cells_cover_pixels(cells, pixels):
    """The slow twin: pixels and cells cut into equal pieces."""
    pieces = np.arange(cells * pixels)
    slow = np.zeros((cells, pixels))
    np.add.at(slow, (pieces // pixels, pieces // cells), 1 / pixels)
    np.testing.assert_allclose(covered(cells, pixels), slow, atol=1e-12)


def test_masks_share_out_each_cell():
    labels = np.random.default_rng(0).integers(0, 4, (13, 10))
    shares = mask_shares(labels, range(4), (3, 4))
    np.testing.assert_allclose(shares.sum(0), 1)
    fine = np.repeat(np.repeat(labels, 3, 0), 4, 1)  # each cell is 13 x 10 pieces
    for number in range(4):
        slow = (fine == number).reshape(3, 13, 4, 10).mean((1, 3))
        np.testing.assert_allclose(shares[number], slow)


def test_mass_is_shared_out_by_area():
    labels = np.repeat(np.repeat(np.array([[0, 1], [2, 2]]), 4, 0), 4, 1)
    shares = mask_shares(labels, [0, 1, 2], (4, 4))
    maps = np.stack([shares[0], np.ones((4, 4)), np.zeros((4, 4)), 3 * shares[1] + shares[2]])
    found = mass_on_masks(maps, shares)
    np.testing.assert_allclose(found[0], [1, 0, 0])  # its own mask alone: nothing leaks
    np.testing.assert_allclose(found[1], [0.25, 0.25, 0.5])  # flat: the areas
    assert np.isnan(found[2]).all()
    np.testing.assert_allclose(found[3], [0, 0.6, 0.4])
    np.testing.assert_allclose(mass_on_masks(7 * maps[[1, 3]], shares), found[[1, 3]])


def test_the_shares_are_those_of_every_pixel(random_pipe, found):
    """The slow twin: maps repeated to the image's size, pixels summed one mask at a time."""
    drawn = scene("test", 2)
    reader = MapReader(random_pipe, make_readout("probs", "mean", "none"), None, (1, 3), steps=4, max_sequence_length=3)
    maps = read_class_maps(reader, [drawn.image], [list(drawn.classes)])[0].numpy()
    record = found["i2t"]
    for place, name in enumerate(drawn.classes):
        for other in drawn.classes:
            chosen = (record["image"] == "scene00002") & (record["word"] == name) & (record["object"] == other)
            large = np.kron(maps[1, 2, place], np.ones((8, 8)))
            slow = large[drawn.labels == CLASSES.index(other)].sum() / large.sum()
            assert float(record["share"].values[chosen.values][0, 1, 2]) == pytest.approx(slow, rel=1e-4)
            area = (drawn.labels == CLASSES.index(other)).mean()
            assert float(record["area"].values[chosen.values][0]) == pytest.approx(area)


def test_every_word_is_shared_out_whole(found):
    """Where every class is an object and every pixel is labeled, a word's shares sum to 1."""
    for record in found.values():
        frame = record.to_dataframe().reset_index()
        assert frame.groupby(["image", "word", "timestep", "layer"])["share"].sum().to_numpy() == pytest.approx(1)
        assert (frame["share"] >= 0).all()


def test_tables_count_images(found):
    images = images_table(found)
    one = found["i2t"].to_dataframe().reset_index()
    one = one[(one["image"] == "scene00000") & (one["timestep"] == 3) & (one["layer"] == 1)]
    by_word = one[one["word"] != one["object"]].groupby("word")["share"].sum()
    row = images[
        (images["read"] == "i2t")
        & (images["image"] == "scene00000")
        & (images["timestep"] == 3)
        & (images["layer"] == 1)
    ]
    assert row["leakage"].item() == pytest.approx(by_word.mean())
    table = layers_table(images)
    assert len(table) == 2 * 2 * 3
    assert (table["n"] == images["image"].nunique()).all()
    assert (table["low"] <= table["leakage"]).all()
    np.testing.assert_allclose(table["below_flat"], table["flat"] - table["leakage"])
    few = layers_table(images[images["image"] < "scene00003"])
    assert few["low"].isna().all()
    pairs = pairs_table(found)
    assert (pairs["n"] >= 1).all()
    lines = summary(images, table, pairs, COUNT)
    assert lines[0] == f"{images['image'].nunique()} of {COUNT} images show two or more objects."
    assert "of a word's map lies on other objects" in lines[1]
    figure = leakage_figure(table, worst_pairs(pairs.assign(n=5), 4), "i2t, layer 1", 4)
    assert figure.axes[0].get_title().startswith("t = 1 of 4 (sigma")
    assert len(figure.axes[2].get_yticklabels()) == 4


def test_a_flat_model_leaks_as_a_flat_map(random_pipe, tmp_path, monkeypatch):
    def flat(reader, images, names):
        return [torch.ones(2, 3, len(own), 8, 8) for own in names]

    monkeypatch.setattr("mmdit_probe.studies.leakage.read_class_maps", flat)
    config = LeakageConfig(timesteps=(1, 3), steps=4, max_sequence_length=3)
    images = images_table(run_leakage(random_pipe, open_dataset("scenes", limit=3), config, tmp_path, "flat"))
    np.testing.assert_allclose(images["leakage"], images["flat"], rtol=1e-6)


def folder_of_images(root, values):
    """Two images of 64 x 64: label values as given, in four quarters."""
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    (root / "classes.json").write_text(json.dumps(["cat", "dog", "grass"]))
    for number, quarters in enumerate(values):
        labels = np.repeat(np.repeat(np.array(quarters, np.uint8).reshape(2, 2), 32, 0), 32, 1)
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(root / "images" / f"{number}.png")


def test_background_counts_as_map_and_ignored_pixels_do_not(random_pipe, tmp_path):
    folder_of_images(tmp_path / "data", [[0, 1, 2, 255], [0, 2, 2, 2], [0, 1, 255, 255]])
    images = open_dataset("folder", tmp_path / "data")
    config = LeakageConfig(objects=("cat", "dog"), timesteps=(1,), steps=4, max_sequence_length=3, layers=(1,))
    record = run_leakage(random_pipe, images, config, tmp_path / "out", "random")["i2t"]
    assert sorted(set(record["image"].values)) == ["0", "2"]  # the second shows one object
    assert set(record["word"].values) == {"cat", "dog"}
    area = record["area"].groupby("image").first()
    assert float(area.sel(image="0")) == pytest.approx(1 / 3)
    assert float(area.sel(image="2")) == pytest.approx(1 / 2)
    whole = record.to_dataframe().reset_index().groupby(["image", "word"])["share"].sum()
    assert whole["0"].max() < 1
    assert whole["2"].to_numpy() == pytest.approx(1)
    folder_of_images(tmp_path / "one", [[0, 0, 0, 0]] * 3)
    with pytest.raises(ValueError, match="none of 3 images shows two objects"):
        run_leakage(random_pipe, open_dataset("folder", tmp_path / "one"), config, tmp_path / "none", "random")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeakageConfig(read=("i2i",)), "read must be some of i2t, t2i, output, concept, contribution"),
        (lambda: LeakageConfig(read=("i2t", "i2t")), "each once"),
        (lambda: LeakageConfig(aggregate="median"), "aggregate must be"),
        (lambda: LeakageConfig(timesteps=(29,)), "must be in 1 to 28"),
        (lambda: object_numbers(CLASSES, ("circle", "boat")), "'boat' is no class of the data set"),
        (lambda: object_numbers(CLASSES, ("circle",)), "at least two classes"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_command_leaves_tables_and_figure_and_continues(run, tmp_path):
    common = ["leakage", "--limit", "4", "--steps", "4", "--max-sequence-length", "3", "--timesteps", "1"]
    code, out, err = run(*common, "--read", "i2t,contribution", "--layers", "0-1")
    assert code == 0, err
    folder = tmp_path / "results" / "leakage"
    assert {path.name for path in folder.glob("leakage*")} == {
        *("leakage.pdf", "leakage.png", "leakage.csv", "leakage_images.csv", "leakage_pairs.csv")
    }
    assert "of a flat map" in out
    table = pd.read_csv(folder / "leakage.csv")
    assert table["read"].tolist() == ["i2t", "i2t", "contribution", "contribution"]
    code, again, err = run(*common, "--read", "i2t,contribution", "--layers", "0-1")
    assert (code, again) == (0, out)
    code, _, err = run(*common, "--read", "i2t")
    assert (code, "other settings" in err) == (2, True)
    code, out, err = run(*common, "--aggregate", "mean", "--out", "mean")
    assert code == 0, err
    assert pd.read_csv(tmp_path / "mean" / "leakage.csv")["layer"].tolist() == ["mean of layers 0, 1, 2"]
    code, _, err = run(*common, "--objects", "circle,boat", "--out", "boat")
    assert (code, "--objects: 'boat' is no class" in err) == (2, True)
    assert not (tmp_path / "boat").exists()
