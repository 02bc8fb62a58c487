"""Correspondence: twins written out, laws, moved scenes, tables, figures and the command."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from models import FRAMES
from models_video import cogvideox, cogvideox_inputs
from naive import random_call
from PIL import Image

from mmdit_probe import Correspondence, JointAttention, Probe, TokenLayout, load_pipeline, load_record
from mmdit_probe.attention import AttentionCall
from mmdit_probe.configs import CorrespondenceConfig, GenerationConfig
from mmdit_probe.datasets.moved import moved, moved_pairs
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.figures.correspondence import frames_figure, images_figure, moved_figure
from mmdit_probe.readouts.correspondence import vectors_of
from mmdit_probe.studies.correspondence import (
    MEASURES,
    frame_means,
    match_images,
    measure_moved,
    returned,
    run_moved,
    thing_tokens,
)
from mmdit_probe.studies.correspondence_tables import (
    frames_summary,
    frames_table,
    images_summary,
    images_table,
    moved_summary,
    moved_table,
)

FEATURES = ("output", "query", "key", "value")
GENERATION = GenerationConfig(steps=4, max_sequence_length=3)
CONFIG = CorrespondenceConfig(pairs=6, timesteps=(1, 3), generation=GENERATION)


def flat(fields, name):
    return fields[name].values.flatten(-2)


@pytest.mark.parametrize("match", ["qk", *FEATURES])
def test_pairs_are_matched_head_by_head(match):
    """The slow twin: every token of one image against every token of the other."""
    layout = TokenLayout((3, 4), 5, "text-image")
    call = random_call(4, 2, layout.tokens, 8)
    attention = JointAttention(call, layout, halvings=6)
    fields = Correspondence(match).measure(attention)
    for row in range(4):
        other = row + 1 if row % 2 == 0 else row - 1
        for token in range(12):
            here = layout.image_slice.start + token
            likeness = []
            for there in range(layout.image_slice.start, layout.image_slice.stop):
                if match == "qk":
                    likeness.append((call.query[row, :, here] * call.key[other, :, there]).sum(-1) * attention.scale)
                else:
                    vectors = getattr(attention, match)
                    pair = vectors[row, :, here].flatten(), vectors[other, :, there].flatten()
                    likeness.append(torch.nn.functional.cosine_similarity(*pair, dim=0)[None])
            own = torch.stack(likeness, -1)
            own = (own.softmax(-1) if match == "qk" else own).mean(0)
            assert float(flat(fields, "match_confidence")[row, token]) == pytest.approx(float(own.max()), rel=1e-4)
            place = flat(fields, "match_row")[row, token] * 4 + flat(fields, "match_col")[row, token]
            assert int(place) == int(own.argmax())


def test_two_equal_images_match_themselves_by_features():
    layout = TokenLayout((3, 4), 2)
    one = random_call(1, 2, layout.tokens, 8)
    call = AttentionCall(*(part.repeat(2, 1, 1, 1) for part in (one.query, one.key, one.value)))
    for match in FEATURES:
        fields = Correspondence(match).measure(JointAttention(call, layout))
        places = flat(fields, "match_row") * 4 + flat(fields, "match_col")
        assert places.tolist() == [list(range(12))] * 2
        torch.testing.assert_close(fields["match_confidence"].values, torch.ones(2, 3, 4))


@pytest.mark.parametrize("frame", [0, 2])
def test_frames_are_matched_within_the_videos_own_attention(frame):
    """The slow twin: the whole matrix, cut by frames."""
    layout = TokenLayout((3, 2, 2), 5, "text-image")
    call = random_call(2, 2, layout.tokens, 8)
    attention = JointAttention(call, layout, halvings=7)
    fields = Correspondence("qk", frame).measure(attention)
    scores = call.query @ call.key.transpose(-1, -2) * attention.scale
    start = layout.image_slice.start
    own = slice(start + 4 * frame, start + 4 * frame + 4)
    for number in range(3):
        keys = slice(start + 4 * number, start + 4 * number + 4)
        probs = scores[:, :, own, keys].softmax(-1).mean(1)
        torch.testing.assert_close(fields["match_confidence"].values[:, number].flatten(1), probs.max(-1).values)
        places = fields["match_row"].values * 2 + fields["match_col"].values
        assert places[:, number].flatten(1).int().tolist() == probs.argmax(-1).tolist()
        mass = scores.softmax(-1)[:, :, own, keys].sum(-1).mean((1, 2))
        torch.testing.assert_close(fields["match_mass"].values[:, number], mass)
    features = Correspondence("key", frame).measure(attention)
    assert "match_mass" not in features
    itself = features["match_row"].values[:, frame] * 2 + features["match_col"].values[:, frame]
    assert itself.flatten(1).tolist() == [[0, 1, 2, 3]] * 2
    vectors = torch.nn.functional.normalize(vectors_of(attention, "key"), dim=-1).unflatten(1, (3, 4))
    slow = (vectors[:, frame] @ vectors[:, 1].transpose(1, 2)).max(-1).values
    torch.testing.assert_close(features["match_confidence"].values[:, 1].flatten(1), slow)


def test_what_a_mask_forbids_is_not_matched():
    layout = TokenLayout((2, 1, 2), 1)
    call = random_call(1, 1, 5, 8)
    allowed = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    allowed[..., 0, 2:4] = False  # the first token may not see the second frame
    attention = JointAttention(call, layout).changed(mask=allowed)
    fields = Correspondence(frame=0).measure(attention)
    assert fields["match_row"].values[0, 1].isnan().tolist() == [[True, False]]
    assert fields["match_confidence"].values[0, 0].isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Correspondence("qv"), "match must be one of qk, output, query, key, value"),
        (lambda: Correspondence(frame=-1), "frame must be 0 or more"),
        (lambda: measured(Correspondence(), TokenLayout((2, 2), 1), 3), "even number of batch rows, got 3"),
        (lambda: measured(Correspondence(), TokenLayout((2, 1, 2), 1), 2), "give frame for a video"),
        (lambda: measured(Correspondence(frame=0), TokenLayout((2, 2), 1), 1), "images without frames"),
        (lambda: measured(Correspondence(frame=2), TokenLayout((2, 1, 2), 1), 1), "not among this model's 2 frames"),
        (lambda: CorrespondenceConfig(first="a.png"), "give two images"),
        (lambda: CorrespondenceConfig(timesteps=(99,)), "must be in 1 to 28"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def measured(readout, layout, batch):
    return readout.measure(JointAttention(random_call(batch, 1, layout.tokens, 8), layout))


def test_a_video_models_frames_are_matched():
    model = cogvideox().eval()
    with torch.no_grad(), Probe(model, [Correspondence(frame=0)]) as probe:
        model(**cogvideox_inputs())
    record = probe.dataset()
    assert record["match_row"].dims == ("call", "batch", "layer", "to_frame", "row", "col")
    assert record.sizes["to_frame"] == FRAMES
    assert record["to_frame"].attrs["long_name"] == "frame in which the tokens of frame 0 are looked for"
    assert 0 < float(record["match_mass"].sum("to_frame").max()) < 1
    assert all(record[name].attrs["long_name"] for name in record.variables)
    chosen = record.isel(batch=0).swap_dims(call="timestep").assign_coords(timestep=[1], sigma=("timestep", [0.5]))
    prompts = xr.concat([chosen] * 5, "prompt", coords="minimal", compat="override")
    means = frame_means(prompts)
    slow = prompts["match_confidence"].values[0, 0, 1, 1].mean()
    assert float(means["confidence"].isel(prompt=0, timestep=0, layer=1, to_frame=1)) == pytest.approx(slow, rel=1e-5)
    table = frames_table(prompts)
    assert len(table) == 2 * FRAMES
    assert {"n", "confidence", "low", "high", "distance", "mass"} <= set(table.columns)
    assert "no accuracy" in frames_summary(table, 0)[0]
    assert "one frame" in frames_summary(table[table["to_frame"] == "0"], 0)[0]
    assert len(frames_figure(table, 4).axes) == 3


def test_a_thing_moves_and_nothing_else():
    for pair in moved_pairs("val", 6):
        before, after = (pair.mask(one) for one in (pair.before, pair.after))
        assert (np.roll(before, pair.shift, (0, 1)) == after).all()
        assert before.sum() == after.sum()
        elsewhere = ~(before | after)
        near = np.pad(~elsewhere, 2)
        rim = np.any([np.roll(near, s, (0, 1)) for s in np.ndindex(5, 5)], 0)[4:, 4:][:64, :64]  # edges are soft
        assert (pair.before.image[~rim] == pair.after.image[~rim]).all()
        assert pair.shift != (0, 0)
        assert all(way % 8 == 0 for way in pair.shift)
    assert moved("test", 0) is not None
    assert (moved("test", 0).after.image == moved("test", 0).after.image).all()


def test_tokens_of_a_thing():
    mask = np.zeros((8, 8), bool)
    mask[0:4, 0:6] = True
    assert thing_tokens(mask, (2, 2)).tolist() == [[True, True], [False, False]]
    small = np.zeros((8, 8), bool)
    small[0, 0] = True
    assert thing_tokens(small, (2, 2)).tolist() == [[True, False], [False, False]]


def made(pair, going, back=None):
    """A record in which each token is matched to ``going`` of it."""
    rows, cols = np.indices((8, 8))
    there, again = going(rows, cols), (back or going)(rows, cols)
    values = {
        f"match_{name}": (("timestep", "image", "layer", "row", "col"), np.stack([a, b])[None, :, None].astype(float))
        for name, a, b in zip(("row", "col"), there, again, strict=True)
    }
    values["match_confidence"] = (("timestep", "image", "layer", "row", "col"), np.ones((1, 2, 1, 8, 8)))
    coordinates = {"timestep": [1], "image": [0, 1], "layer": [0], "sigma": ("timestep", [0.1])}
    return xr.Dataset(values, coordinates)


@pytest.mark.parametrize("within", [0, 1])
def test_accuracy_is_that_of_the_known_shift(monkeypatch, random_pipe, within):
    pair = moved("test", 1)  # two tokens down, three to the left
    config = CorrespondenceConfig(within=within, timesteps=(1,), generation=GENERATION)
    cases = {
        "right": (lambda r, c: (np.clip(r + 2, 0, 7), np.clip(c - 3, 0, 7)), 1.0),
        "one off": (lambda r, c: (np.clip(r + 2, 0, 7), np.clip(c - 2, 0, 7)), float(within == 1)),
        "stays": (lambda r, c: (r, c), 0.0),
    }
    for name, (going, accuracy) in cases.items():
        record = made(pair, going)
        monkeypatch.setattr("mmdit_probe.studies.correspondence.match_images", lambda *_, record=record: record)
        found = measure_moved(random_pipe, pair, config)
        assert set(found.data_vars) == set(MEASURES)
        assert found["accuracy"].item() == accuracy, name
        assert found["same_place"].item() == float(name == "stays")
        assert found["returned"].item() == pytest.approx(1.0 if name == "stays" else found["returned"].item())
        if name == "right":
            assert found["on_thing"].item() == 1.0
        tokens = np.argwhere(thing_tokens(pair.mask(pair.before), (8, 8))) + np.array([2, -3])
        slow = [((abs(np.argwhere(np.ones((8, 8))) - token) <= within).all(1)).mean() for token in tokens]
        assert found["chance"].item() == pytest.approx(np.mean(slow))


def test_a_match_is_returned_if_it_is_matched_back():
    right = lambda r, c: (r, np.clip(c + 3, 0, 7))  # noqa: E731
    left = lambda r, c: (r, np.clip(c - 3, 0, 7))  # noqa: E731
    record = made(None, right, left)
    assert returned(record, 0).isel(timestep=0, layer=0).values[0].tolist() == [True] * 5 + [False] * 3
    assert returned(record, 1).isel(timestep=0, layer=0).values[0].tolist() == [True] * 6 + [False] * 2


def test_images_are_matched_by_a_forward_pass_of_both(random_pipe):
    drawn = [scene("test", number).image for number in (0, 1)]
    record = match_images(random_pipe, *drawn, "sand lava square", CONFIG)
    assert record["match_row"].dims == ("timestep", "image", "layer", "row", "col")
    assert dict(record.sizes) == {"timestep": 2, "image": 2, "layer": 3, "row": 8, "col": 8}
    for name in record.variables:
        assert record[name].attrs["long_name"], name
        assert record[name].attrs["units"], name
    swapped = match_images(random_pipe, *drawn[::-1], "sand lava square", CONFIG)
    assert not np.allclose(record["match_confidence"], swapped["match_confidence"])
    table = images_table(record, 1)
    assert table.columns.tolist() == ["timestep", "sigma", "layer", "confidence", "returned"]
    assert "no accuracy" in images_summary(table)[0]
    places = np.array([[0.0, 1.0], [0.0, 1.0]])
    figure = images_figure(*drawn, [(1, 1), (4, 6)], places, (8, 8))
    assert [text.get_text() for text in figure.axes[1].texts] == ["1,2"]


def test_tables_have_intervals_over_pairs(random_folder, tmp_path):
    pipe = load_pipeline(str(random_folder))
    record = run_moved(pipe, CONFIG, tmp_path, "random")
    assert record["accuracy"].dims == ("pair", "timestep", "layer")
    table = moved_table(record)
    assert len(table) == 2 * 3
    assert (table["n"] == 6).all()
    assert table["accuracy"].to_numpy() == pytest.approx(
        record["accuracy"].mean("pair").transpose("timestep", "layer").values.ravel()
    )
    np.testing.assert_allclose(table["above_chance"], table["accuracy"] - table["chance"])
    lines = moved_summary(record, table, "qk", 1)
    assert "find" in lines[0]
    assert "by chance" in lines[0]
    assert len(moved_figure(table, 4).axes) == 3


def test_the_command_measures_moved_scenes_and_continues(run, tmp_path):
    arguments = ["correspondence", "--pairs", "2", "--steps", "4", "--max-sequence-length", "3", "--match", "value"]
    code, out, err = run(*arguments)
    assert code == 0, err
    folder = tmp_path / "results" / "correspondence"
    assert {path.name for path in folder.glob("correspondence*")} == {
        *("correspondence.pdf", "correspondence.png", "correspondence.csv")
    }
    assert pd.read_csv(folder / "correspondence.csv")["low"].isna().all()
    assert run(*arguments)[:2] == (0, out)


def test_the_command_takes_two_images(run, tmp_path):
    for number, name in enumerate(("one.png", "other.png")):
        Image.fromarray(scene("test", number).image).resize((96, 64)).save(tmp_path / name)
    common = ["correspondence", "--steps", "4", "--max-sequence-length", "3"]
    code, out, err = run(*common, "--first", "one.png", "--second", "other.png", "--prompt", "sand")
    assert code == 0, err
    assert "Where things are in the second image is not known" in out
    record = load_record(tmp_path / "results" / "correspondence" / "correspondence.nc")
    assert record["match_row"].shape == (1, 2, 3, 8, 8)
    for wrong, message in (
        (["--first", "one.png"], "--first: give two images"),
        (["--prompt", "sand", "--out", "o"], "images without frames"),
        (["--first", "one.png", "--second", "none.png", "--out", "o"], "none.png"),
        (["--first", "one.png", "--second", "one.png", "--prompt", "a", "--prompt", "b"], "one prompt or none"),
    ):
        code, _, err = run(*common, *wrong)
        assert (code, message in err) == (2, True), err
        assert not (tmp_path / "o").exists() or not any((tmp_path / "o").iterdir())
