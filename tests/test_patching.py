"""Causal tracing: what moves, what is measured, and the command."""

import numpy as np
import pandas as pd
import pytest

from mmdit_probe.configs import PatchConfig, SamplingConfig
from mmdit_probe.configs.generation import seeded
from mmdit_probe.datasets.shapes import COLORS
from mmdit_probe.metrics.object_place import color_mask, object_center
from mmdit_probe.metrics.scene_reader import prompt_facts
from mmdit_probe.pipelines.generation import generation_arguments
from mmdit_probe.studies.image_grid import generate_batch
from mmdit_probe.studies.patching import (
    PAIRS,
    PatchedImages,
    measure_moves,
    most_moving,
    move_table,
    of_kind,
    run_patching,
)

SHORT = seeded(SamplingConfig(steps=2, max_sequence_length=0), 0)
COMMAND = ["patch", "--from", "a red circle", "--to", "a blue circle", "--steps", "2", "--max-sequence-length", "0"]


def config(**more):
    return PatchConfig(**{"source": ("a red circle",), "to": ("a blue circle",), "generation": SHORT, **more})


def test_a_prompt_traced_into_itself_does_not_move(random_pipe, tmp_path):
    images = run_patching(random_pipe, config(to=("a red circle",), what="value"), tmp_path, "m")
    assert images.starts == (0, 1)
    assert images.patched.shape[:3] == (1, 3, 2)
    for patched in images.patched[0].reshape(-1, *images.target.shape[1:]):
        assert (patched == images.target[0]).all()


def test_images_are_those_of_the_plain_run_and_are_made_once(random_pipe, tmp_path, monkeypatch):
    images = run_patching(random_pipe, config(layers=(1,)), tmp_path, "m")
    plain = generate_batch(random_pipe, ["a blue circle"], 0, SHORT)
    assert "generator" in generation_arguments(random_pipe, SHORT)
    assert (images.target == plain).all()
    monkeypatch.setattr("mmdit_probe.studies.patching.generate_batch", lambda *_: pytest.fail("generated again"))
    again = run_patching(random_pipe, config(layers=(1,)), tmp_path, "m")
    assert (again.patched == images.patched).all()


def test_pairs_are_alike_word_by_word_and_differ_in_every_fact():
    for source, target in PAIRS:
        assert len(source.split()) == len(target.split())
        both = prompt_facts(source), prompt_facts(target)
        for kind in ("color", "shape", "ground"):
            own, other = (of_kind(facts, kind) for facts in both)
            assert len(own) == len(other) == 1
            assert not own & other


class Reader:
    """Reads the facts that an image's first pixel numbers."""

    def read(self, images):
        facts = [prompt_facts(text) for pair in PAIRS[:2] for text in pair]
        return [facts[image[0, 0, 0]] for image in images]


def painted(*numbers):
    return np.stack([np.full((2, 2, 3), number, np.uint8) for number in numbers])


def test_a_move_is_zero_at_the_target_and_one_at_the_source():
    source, target = painted(0, 2), painted(1, 3)
    patched = np.stack([np.stack([target, source], 1)], 1).reshape(2, 1, 2, 2, 2, 3)
    images = PatchedImages(PAIRS[:2], (4,), (0, 1), source, target, patched)

    def alike(made, references, prompts):
        return 1 - abs(made[:, 0, 0, 0].astype(float) - references[:, 0, 0, 0]) / 4

    measured = measure_moves(images, {"clip_i": alike}, Reader())
    assert set(measured["metric"]) == {"clip_i", "color", "shape", "ground", "place"}
    assert measured[measured["metric"] == "place"]["moved"].isna().all()  # these images show no object
    measured = measured[measured["metric"] != "place"]
    assert measured.groupby("steps_from")["moved"].unique().map(list).to_dict() == {0: [0.0], 1: [1.0]}
    table = move_table(measured)
    assert (table["n"] == 2).all()
    assert table[["low", "high", "p"]].isna().all(axis=None)  # of two pairs


def scene_at(col, row, color="red"):
    """A square of a color around a place of an image of 64 x 64."""
    image = np.full((64, 64, 3), 230, np.uint8)
    image[row - 6 : row + 6, col - 6 : col + 6] = np.multiply(COLORS[color], 255)
    image[:3, :3] = np.multiply(COLORS[color], 255)  # a speck elsewhere
    return image


class OneObject:
    """Reads one square of the color that most of an image's middle part has."""

    def read(self, images):
        return [
            frozenset(
                {("square",), *((color, "square") for color in ("red", "blue") if color_mask(image, color).sum() > 50)}
            )
            for image in images
        ]


def test_an_object_goes_to_the_sources_place():
    facts = OneObject().read([scene_at(16, 32)])[0]
    np.testing.assert_allclose(object_center(scene_at(16, 32), facts), [0.25, 0.5])
    assert np.isnan(object_center(scene_at(16, 32), facts | {("blue", "star")})).all()
    assert np.isnan(object_center(scene_at(16, 32), {("blue", "square")})).all()
    source, target = (np.stack([scene_at(*place) for place in places]) for places in ([(48, 16)] * 3, [(16, 16)] * 3))
    target[2] = scene_at(46, 16, "blue")  # where the source's stands, nearly
    patched = np.stack([scene_at(24, 40), scene_at(48, 16, "blue"), scene_at(16, 16)])
    images = PatchedImages(PAIRS[:3], (4,), (0,), source, target, patched[:, None, None])
    measured = measure_moves(images, {}, OneObject())
    moved = measured[measured["metric"] == "place"]["moved"].tolist()
    assert moved[:2] == pytest.approx([0.25, 1])  # along the way alone; whatever its color
    assert np.isnan(moved[2])
    assert most_moving(measured[measured["pair"] == 2], "place")[0].startswith("place: no pair has one object in both")


def effects(moved):
    """A table of pairs from (layers, pairs)."""
    rows = [
        {"layer": layer, "steps_from": 0, "pair": pair, "metric": "color", "moved": value}
        for layer, values in enumerate(moved)
        for pair, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_a_leader_is_named_only_as_far_as_the_pairs_say():
    sure = effects([[0.0, 0.1] * 5, [0.9, 0.8] * 5, [0.1, 0.0] * 5])
    lines = most_moving(sure, "color")
    assert lines[0].startswith("color: layer 1 moves the image most, 0.85 of the way on average (95% interval")
    assert "outside chance" in lines[1]
    assert "too few pairs" in most_moving(effects([[0.0, 0.1], [0.9, 0.8]]), "color")[0]
    assert "no layer moves" in most_moving(effects([[0.0] * 5, [-0.1] * 5]), "color")[0]
    assert "a tie of 2 layers" in most_moving(effects([[1.0] * 5, [1.0] * 5, [0.0] * 5]), "color")[0]
    assert most_moving(effects([[np.nan] * 5] * 2), "color") == ["color: the two prompts' images don't differ in it."]


def test_the_command_leaves_maps_sheet_and_numbers(run, tmp_path):
    code, out, err = run(*COMMAND, "--clip", "tiny-clip", "--steps-from", "0", "--tokens", "red")
    assert code == 0, err
    assert "clip_i" in out
    folder = tmp_path / "results/patch"
    moves = pd.read_csv(folder / "patch_moves.csv")
    assert moves["layer"].tolist() == [0, 1, 2]
    assert moves["steps_from"].unique().tolist() == [0]
    for name in ("patch_moves.pdf", "patch_moves.png", "patch_sheet.pdf", "patch_sheet.png", "patch_pairs.csv"):
        assert (folder / name).stat().st_size > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "sand"], "patch: give as many --from as --to"),
        (["--steps-from", "2"], "--steps-from must be below the number of steps, 2, got 2"),
        (["--tokens", "lava"], "'lava' is not among the prompt's tokens"),
    ],
)
def test_the_command_refuses_in_one_line(run, arguments, message):
    code, _, err = run(*COMMAND, "--clip", "tiny-clip", *arguments)
    assert code == 2
    assert message in err.strip().splitlines()[-1]


def test_other_models_need_prompts(run):
    code, _, err = run("patch", "--clip", "tiny-clip")
    assert code == 2
    assert "give --from and --to" in err
