"""mmdit-probe segment and group as a user runs them: files, resuming, refusals."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmdit_probe import load_record
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.segmentation import image_files as folders
from mmdit_probe.segmentation.image_files import FILES, image_files, segment_files, summary

LAYER = ["--layer", "1"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(scene("val", number).image).save(folder / f"scene{number}.png")
    Image.fromarray(scene("val", 3).image).resize((90, 40)).save(folder / "wide.jpg")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_segment_writes_every_file_of_every_image(run, images, tmp_path):
    code, out, err = run("segment", "images", "--classes", "grass, wood floor,circle", *LAYER)
    assert code == 0, err
    folder = tmp_path / "results" / "segment"
    for name in ("scene0", "scene1", "scene2", "wide"):
        assert f"{name}: " in out
        assert all((folder / f"{name}_{kind}").stat().st_size > 0 for kind in FILES)
    assert not list(folder.rglob("*.part"))
    labels = np.asarray(Image.open(folder / "wide_labels.png"))
    assert labels.shape == (40, 90)
    table = pd.read_csv(folder / "segment.csv").set_index(["image", "class"])["share"]
    assert table["wide"]["wood floor"] == pytest.approx((labels == 1).mean())
    assert load_record(folder / "wide_maps.nc").attrs["layer"] == 1
    for annotation in json.loads((folder / "wide_rle.json").read_text())["annotations"]:
        assert annotation["area"] == (labels == annotation["category_id"]).sum()


def test_group_finds_regions_and_flags_change_them(run, images):
    one = ["group", "images/scene0.png", *LAYER, "--json"]
    code, out, _ = run(*one, "--threshold", "0.02", "--out", "a")
    assert code == 0
    regions = json.loads(out)["table"]
    assert len(regions) > 1
    assert sum(row["share"] for row in regions) == pytest.approx(1)
    code, out, _ = run(*one, "--threshold", "9", "--merge", "paper-text", "--out", "b")
    assert [row["class"] for row in json.loads(out)["table"]] == ["region 1"]


def test_a_finished_image_is_not_done_again_and_a_changed_one_is(run, images, monkeypatch):
    from mmdit_probe.segmentation import OpenVocabularySegmenter

    done = []
    original = OpenVocabularySegmenter.batch

    def counted(self, images, classes):
        done.extend(len(image) for image in images)
        return original(self, images, classes)

    monkeypatch.setattr(OpenVocabularySegmenter, "batch", counted)
    command = ["segment", "images", "--classes", "grass,circle", *LAYER, "--batch", "2", "--json"]
    _, first, _ = run(*command)
    assert len(done) == 4
    _, second, _ = run(*command)
    assert len(done) == 4
    assert first == second
    Image.fromarray(scene("val", 9).image).save(images / "scene1.png")
    run(*command)
    assert len(done) == 5
    code, _, err = run("segment", "images", "--classes", "grass,star", *LAYER)
    assert code == 2
    assert "other settings (classes)" in err


def test_a_run_that_was_killed_ends_the_same(images, tmp_path):
    def segment(images):
        from mmdit_probe.segmentation import Segmentation

        if killed and len(seen) == 2:
            raise KeyboardInterrupt
        seen.extend(images)
        return [Segmentation(p[..., 0] // 128, np.ones((2, 1, 1), np.float32), ("a", "b"), p) for p in images]

    files, settings = image_files([images]), {"model": "m"}
    seen, killed = [], False
    whole = segment_files(segment, files, tmp_path / "whole", settings, 1)
    seen, killed = [], True
    with pytest.raises(KeyboardInterrupt):
        segment_files(segment, files, tmp_path / "parts", settings, 1)
    seen, killed = [], False
    again = segment_files(segment, files, tmp_path / "parts", settings, 1)
    assert len(seen) == 2
    pd.testing.assert_frame_equal(whole, again)
    for file in (tmp_path / "whole").glob("*_labels.png"):
        assert file.read_bytes() == (tmp_path / "parts" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "missing.png", "--classes", "a"], "no file missing.png"),
        (["segment", "images/notes.txt", "--classes", "a"], "not an image that can be read"),
        (["segment", "images", "--classes", "a,,b"], "no empty one"),
        (["segment", "images", "--classes", "a,b,a"], "'a' is given more than once"),
        (["segment", "images", "images/twin/scene0.png", "--classes", "a"], "would be written to the same files"),
        (["segment", "images/twin/none", "--classes", "a"], "holds no image"),
        (["segment", "images", "--classes", "grass", "--layer", "7"], "layers 0 to 2, got 7"),
        (["segment", "images", "--classes", "grass", "--layer", "1", "--timestep", "29"], "must be in 1 to 28"),
        (["segment", "images", "--classes", "grass " * 40, "--layer", "1"], "has 40 tokens"),
        (["group", "images", "--threshold", "0"], "--threshold must be above 0"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, images, tmp_path, arguments, message):
    (images / "twin" / "none").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(images / "twin" / "scene0.png")
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in err.strip().splitlines()[-1]
    assert not (tmp_path / "results").exists()


def test_long_runs_are_summed_up(monkeypatch):
    table = pd.DataFrame(
        {"image": [str(i // 2) for i in range(60)], "class": ["a", "b"] * 30, "share": [0.998, 0.002] * 30}
    )
    lines = summary(table)
    assert lines[0] == "0: a 100%, b <1%"
    assert lines[-1] == "... and 18 more"
    with pytest.raises(ValueError, match="batch must be at least 1"):
        segment_files(lambda images: [], {}, folders.Path("x"), {}, 0)
