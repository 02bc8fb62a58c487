"""The evaluation on a small random pipeline: slow twins, laws, and runs that are killed."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import jaccard_score

from mmdit_probe.configs import EvaluateConfig, SegmentConfig
from mmdit_probe.datasets.labeled import LabeledImages, Sample
from mmdit_probe.datasets.registry import held_out_scenes
from mmdit_probe.evaluation import run as evaluation
from mmdit_probe.evaluation.counts import count_classes, count_trivial, offered
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import summary, tabulate
from mmdit_probe.evaluation.trivial import TRIVIAL, trivial_regions
from mmdit_probe.figures.evaluation import evaluation_figure, heads_figure
from mmdit_probe.metrics.bootstrap import bootstrap_weights, bounds
from mmdit_probe.metrics.iou import mean_iou
from mmdit_probe.metrics.matching import matched_metrics
from mmdit_probe.segmentation import OpenVocabularySegmenter, UnsupervisedSegmenter
from mmdit_probe.utils.distributed import ShareDone, WorkerShare, sharing

CONFIG = EvaluateConfig(batch=2, timesteps=(4, 8))
SCENES = held_out_scenes(5)


def evaluate(pipe, out, config=CONFIG, images=SCENES):
    return tabulate(run_evaluation(pipe, images, config, out, "random"))


def test_scores_agree_with_segmenting_each_image(random_pipe, tmp_path):
    """The slow twin: one image, one layer, one timestep at a time, scored by scikit-learn."""
    result = evaluate(random_pipe, tmp_path)
    assert len(result.settings) == 2 * 3
    truth, guesses = [], []
    segmenter = OpenVocabularySegmenter(random_pipe, 2, SegmentConfig(timestep=4))
    for sample in SCENES.samples:
        labels = sample.read()
        present = np.unique(labels)
        made = segmenter(sample.image, [SCENES.classes[number] for number in present])
        truth.append(labels.ravel())
        guesses.append(present[made.labels].ravel())
    row = result.settings.set_index(["timestep", "layer"]).loc[(4, 2)]
    truth, guesses = np.concatenate(truth), np.concatenate(guesses)
    occurring = np.union1d(truth, guesses)
    iou = jaccard_score(truth, guesses, labels=occurring, average=None, zero_division=0)
    assert row["miou"] == pytest.approx(iou.mean())
    assert row["pacc"] == pytest.approx((truth == guesses).mean())
    assert row["macc"] == pytest.approx(np.mean([(guesses[truth == c] == c).mean() for c in np.unique(truth)]))
    own = result.classes[(result.classes["timestep"] == 4) & (result.classes["layer"] == 2)]
    np.testing.assert_allclose(own["iou"], iou)
    assert list(own["class"]) == [SCENES.classes[number] for number in occurring]
    one = result.images.set_index(["image", "timestep", "layer"]).loc[("scene00003", 4, 2)]
    assert one["pacc"] == pytest.approx((truth == guesses).reshape(5, -1)[3].mean())


def test_unsupervised_scores_agree_with_segmenting_each_image(random_pipe, tmp_path):
    config = EvaluateConfig(task="unsupervised", batch=2, threshold=0.05, trivial=True)
    result = evaluate(random_pipe, tmp_path, config)
    segmenter = UnsupervisedSegmenter(random_pipe, 1, config_of(config))
    labels = np.stack([sample.read() for sample in SCENES.samples])
    regions = np.stack([segmenter(sample.image).labels for sample in SCENES.samples])
    expected = matched_metrics(labels, regions, len(SCENES.classes))
    settings = result.settings.set_index(["matching", "layer"])
    assert settings.loc[("paper", 1), "miou"] == pytest.approx(expected.miou)
    assert settings.loc[("paper", 1), "pacc"] == pytest.approx(expected.accuracy)
    assert settings.loc[("order-independent", 1), "pacc"] == pytest.approx(expected.accuracy)
    assert list(result.trivial["baseline"].unique()) == list(TRIVIAL)
    assert len(result.trivial) == 2 * 3


def config_of(config):
    from mmdit_probe.configs import GroupConfig

    return GroupConfig(threshold=config.threshold, variant=config.variant, min_max=config.min_max)


def test_heads_are_read_in_the_same_pass_and_their_mean_is_the_mean_map(random_pipe, tmp_path):
    from mmdit_probe.segmentation.map_reader import MapReader
    from mmdit_probe.segmentation.maps import make_readout

    images = held_out_scenes(2)
    result = evaluate(random_pipe, tmp_path, EvaluateConfig(heads="all", layers=(1,), batch=2), images)
    each = MapReader(random_pipe, make_readout("probs", "all", "none"), [1], [8])
    mean = MapReader(random_pipe, make_readout("probs", "mean", "none"), [1], [8])
    latents = each.latents([sample.image for sample in images.samples])
    maps = each.read(latents, ["grass", "sand"])
    torch.testing.assert_close(maps.mean(3), mean.read(latents, ["grass", "sand"]))
    assert list(result.settings["head"]) == [str(head) for head in range(maps.shape[3])]


def test_a_killed_run_continues_and_its_numbers_are_the_same(random_pipe, tmp_path, monkeypatch):
    whole = evaluate(random_pipe, tmp_path / "whole")
    original, done = evaluation._count_batch, []

    def counted(*arguments):
        if len(done) == 1:
            done.append(None)
            raise KeyboardInterrupt
        done.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(evaluation, "_count_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(random_pipe, tmp_path / "parts")
    again = evaluate(random_pipe, tmp_path / "parts")
    assert len(done) == 1 + 3
    for name in ("settings", "classes", "images"):
        pd.testing.assert_frame_equal(getattr(whole, name), getattr(again, name), check_exact=True)


def test_a_run_that_is_killed_by_force_continues(run, random_folder, tmp_path):
    """SIGKILL in the third image of five, then the same command again: the numbers of an undisturbed run."""
    script = """
import os
from mmdit_probe.evaluation import run as evaluation
original, done = evaluation._count_batch, []
def counted(*arguments):
    done.append(None)
    if len(done) == 3:
        os.kill(os.getpid(), 9)
    return original(*arguments)
evaluation._count_batch = counted
from mmdit_probe.cli import main
main()
"""
    command = ["evaluate", "scenes", "--limit", "5", "--layers", "1", "--batch", "1"]
    killed = subprocess.run(
        [sys.executable, "-c", script, *command, "--model", str(random_folder), "--out", "killed"],
        capture_output=True, text=True, cwd=tmp_path, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert killed.returncode == -9, killed.stderr[-2000:]
    assert len(list((tmp_path / "killed" / "items").glob("*.nc"))) == 2
    for out in ("killed", "whole"):
        assert run(*command, "--out", out)[0] == 0
    for name in ("evaluate.csv", "evaluate_classes.csv", "evaluate_images.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_vocabulary_is_split_over_prompts_and_offers_every_class(random_pipe, tmp_path):
    result = evaluate(random_pipe, tmp_path, EvaluateConfig(vocabulary="full", layers=(0,), batch=2))
    present = evaluate(random_pipe, tmp_path / "p", EvaluateConfig(layers=(0,), batch=2))
    assert result.settings["pacc"].item() < present.settings["pacc"].item()
    assert offered(SCENES.samples[0].read(), SCENES.classes, "full") == list(range(16))


@pytest.mark.parametrize("normalize", ["probs", "probs-minmax", "scores"])
def test_perfect_maps_score_one(normalize):
    labels = np.repeat(np.repeat(np.array([[0, 2], [3, 255]], np.uint8), 32, 0), 32, 1)
    maps = torch.stack([torch.from_numpy(labels == number).float() for number in (0, 2, 3)])
    counts = count_classes(maps[None, None, None], [0, 2, 3], labels, 5, normalize)
    assert counts.shape == (1, 1, 1, 1, 3, 5)
    np.testing.assert_array_equal(counts[0, 0, 0, 0], [[1024, 0, 1024, 1024, 0], [0] * 5, [0] * 5])


def test_images_without_any_label_change_nothing(random_pipe, tmp_path):
    blank = Sample("blank", SCENES.samples[0].image, lambda: np.full((64, 64), 255, np.uint8))
    more = LabeledImages("scenes", SCENES.classes, [*SCENES.samples, blank])
    plain = evaluate(random_pipe, tmp_path / "a").settings
    longer = evaluate(random_pipe, tmp_path / "b", CONFIG, more).settings
    of_images = ["n", "low", "high"]  # one image more is drawn
    pd.testing.assert_frame_equal(plain.drop(columns=of_images), longer.drop(columns=of_images))
    assert offered(blank.read(), SCENES.classes, "present") == [0]


def test_a_center_crop_scores_the_crop_alone(random_pipe, tmp_path):
    def wide(sample):
        image = np.pad(sample.image, ((0, 0), (20, 20), (0, 0)))
        return Sample(sample.name, image, lambda: np.pad(sample.read(), ((0, 0), (20, 20)), constant_values=7))

    images = LabeledImages("scenes", SCENES.classes, [wide(sample) for sample in SCENES.samples])
    cropped = evaluate(random_pipe, tmp_path / "a", EvaluateConfig(batch=2, crop="center"), images)
    plain = evaluate(random_pipe, tmp_path / "b", EvaluateConfig(batch=2))
    pd.testing.assert_frame_equal(cropped.settings, plain.settings)


def test_baselines_on_a_image_made_for_them():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 10:] = 255
    labels = (image[..., 0] > 0).astype(np.uint8)
    counts = count_trivial(image, labels, 2, seed=0)
    accuracy = counts[:, :, 0].sum(-1) / labels.size
    np.testing.assert_allclose(accuracy[:, 0], 2 / 3, atol=1e-6)
    np.testing.assert_array_equal(accuracy[:, 1], 1)
    assert (accuracy[:, 2] < 1).all()
    again = trivial_regions("k-means on positions", image, 4, seed=1)
    np.testing.assert_array_equal(again, trivial_regions("k-means on positions", image, 4, seed=1))
    with pytest.raises(ValueError, match="baseline must be one of one region"):
        trivial_regions("magic", image, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "panoptic"}, "task must be one of open-vocabulary, unsupervised"),
        ({"heads": "some"}, "heads must be one of mean, all"),
        ({"vocabulary": "none"}, "vocabulary must be one of present, full"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"trivial": True}, "baselines belong to the unsupervised task"),
        ({"task": "unsupervised", "normalize": "scores"}, "belong to the open-vocabulary task"),
        ({"threshold": 0.0}, "threshold must be above 0"),
        ({"layers": (5,)}, r"\[5\] do not exist"),
        ({"timesteps": (29,)}, "must be in 1 to 28"),
        ({"normalize": "log"}, "normalize must be one of"),
        ({"method": "iseg"}, "method iseg needs its counter"),
    ],
)
def test_bad_settings_are_refused_before_any_work(random_pipe, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate(random_pipe, tmp_path / "out", EvaluateConfig(**settings))
    assert not (tmp_path / "out").exists()


def test_label_maps_must_fit_their_images(random_pipe, tmp_path):
    wrong = Sample("wrong", SCENES.samples[0].image, lambda: np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="wrong: image and label map must have the same size"):
        evaluate(random_pipe, tmp_path, CONFIG, LabeledImages("x", SCENES.classes, [wrong]))


def made_up(layers=4, heads=("mean",), timesteps=(4, 8), matchings=("names",)):
    shape = (2, len(matchings), len(timesteps), layers, len(heads), 3, 2)
    counts = np.random.default_rng(0).integers(1, 99, shape)
    counts[:, :, :, 1, :, 1:] //= 20
    dims = ("image", "matching", "timestep", "layer", "head", "count", "class")
    coordinates = {"image": ["a", "b"], "matching": list(matchings), "timestep": list(timesteps),
                   "sigma": ("timestep", [0.1 * t for t in timesteps]), "layer": range(layers), "head": list(heads),
                   "count": ["tp", "fp", "fn"], "class": ["x", "y"]}  # fmt: skip
    return xr.Dataset({"counts": (dims, counts)}, coordinates)


def test_summaries():
    result = tabulate([made_up()])
    lines = summary(result, "scenes", 2)
    assert lines[0] == "scenes, 2 images, mIoU in percent:"
    assert "classes of the ground truth" in lines[-1]
    assert "miou_absent_zero" in lines[-1]
    pairs = zip(lines[1:-1:2], lines[2:-1:2], result.settings.groupby("timestep"), strict=True)
    for line, lead_line, (_, settings) in pairs:
        ranked = settings.sort_values("miou", ascending=False)
        lead = 100 * (ranked["miou"].iloc[0] - ranked["miou"].iloc[1])
        assert line.startswith(f"by names, timestep {ranked['timestep'].iloc[0]} (sigma 0.")
        assert "layer 1 has the highest mIoU of 4" in line
        assert "n = 2 images; too few images for an interval (2; 5 needed)" in line
        assert f"{lead:.1f} above layer {ranked['layer'].iloc[1]}; too few images" in lead_line
        assert lead_line.endswith("no verdict.")
    one = summary(tabulate([made_up(layers=2).isel(layer=[1])]), "scenes", 2)[1]
    assert "layer 1 has " in one
    assert "highest" not in one
    with pytest.raises(ValueError, match="no image"):
        tabulate([])


def test_intervals_of_miou_are_those_of_images_drawn_again():
    """The slow twin: counts summed image by image for some draws; and the lead is told where it is clear."""
    batch = made_up()
    many = xr.concat([batch.assign(counts=batch["counts"] + number) for number in range(6)], "image")
    many = many.assign_coords(image=[str(number) for number in range(12)])
    result = tabulate([many.isel(image=slice(0, 5)), many.isel(image=slice(5, 12))])
    counts = many["counts"].sel(timestep=8, matching="names").isel(layer=2, head=0).transpose("image", "count", "class")
    drawn = [
        mean_iou(sum(times * counts.values[image] for image, times in enumerate(row)))
        for row in bootstrap_weights(12, 2000)
    ]
    row = result.settings.set_index(["timestep", "layer"]).loc[(8, 2)]
    assert row["n"] == 12
    np.testing.assert_allclose([row["low"], row["high"]], bounds(np.array(drawn), 12))
    assert row["low"] < row["miou"] < row["high"]
    lead = result.leads["names", 8]
    assert lead.leader == 1
    assert lead.apart
    lines = summary(result, "made up", 12)
    assert lines[2].endswith("as the largest of 4, outside chance.")
    assert "(95% interval" in lines[3]


def test_classes_that_are_only_predicted_count_as_zero_in_a_column_of_their_own():
    counts = made_up(layers=2, timesteps=(4,))["counts"]
    extra = counts.isel({"class": [0]}).assign_coords({"class": ["z"]}).copy()
    extra.loc[{"count": "tp"}], extra.loc[{"count": "fn"}], extra.loc[{"count": "fp"}] = 0, 0, 7
    row = tabulate([xr.Dataset({"counts": xr.concat([counts, extra], "class")})]).settings.iloc[0]
    assert row["miou"] == pytest.approx(tabulate([counts.to_dataset(name="counts")]).settings["miou"].iloc[0])
    assert row["miou_absent_zero"] == pytest.approx(row["miou"] * 2 / 3)


def test_figures_show_each_matching_timestep_and_head():
    settings = tabulate([made_up(matchings=("paper", "order-independent"))]).settings
    baselines = pd.DataFrame({"matching": ["paper", "order-independent"], "baseline": "one region", "miou": 0.2})
    figure = evaluation_figure(settings, baselines)
    assert [axis.get_title() for axis in figure.axes] == ["paper matching", "order-independent matching"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "t = 4 (sigma 0.40)",
        "t = 8 (sigma 0.80)",
    ]
    own = settings[(settings["matching"] == "paper") & (settings["timestep"] == 8)]
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), 100 * own["miou"])
    heads = tabulate([made_up(heads=("0", "1", "2"))]).settings
    shown = heads_figure(heads).axes[1].images[0].get_array()
    assert shown.shape == (3, 4)
    one = heads[(heads["timestep"] == 8) & (heads["layer"] == 2) & (heads["head"] == "1")]
    assert shown[1, 2] == pytest.approx(100 * one["miou"].item())


def scenes_folder(root, samples):
    """A data set folder of images with the names 0, 1, ..."""
    for number, sample in enumerate(samples):
        for kind, values in (("images", sample.image), ("labels", sample.read())):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / kind / f"{number}.png")
    (root / "classes.json").write_text(json.dumps(SCENES.classes))


def test_evaluate_on_the_command_line(run, tmp_path):
    command = ["evaluate", "scenes", "--limit", "3", "--layers", "0,2", "--heads", "all", "--batch", "2"]
    code, out, err = run(*command)
    assert code == 0, err
    folder = tmp_path / "results" / "evaluate"
    for name in ("evaluate.csv", "evaluate_classes.csv", "evaluate_images.csv", "evaluate.pdf", "evaluate_heads.png"):
        assert name in out
        assert (folder / name).stat().st_size > 0
    table = pd.read_csv(folder / "evaluate.csv")
    assert len(table) == 2 * table["head"].nunique()
    before = (folder / "evaluate.csv").read_text()
    code, out, _ = run(*command, "--json")
    assert (folder / "evaluate.csv").read_text() == before
    assert {"timestep", "sigma", "layer", "head", "miou", "pacc", "macc"} <= set(json.loads(out)["table"][0])


def test_evaluate_reads_a_folder_and_compares_with_baselines(run, tmp_path):
    scenes_folder(tmp_path / "own", SCENES.samples[:2])
    arguments = ["--root", "own", "--task", "unsupervised", "--trivial", "--layers", "1", "--json"]
    code, out, err = run("evaluate", "folder", *arguments)
    assert code == 0, err
    assert len(json.loads(out)["trivial"]) == 6
    code, _, err = run("evaluate", "voc20", "--root", "own")
    assert code == 2
    assert "holds none of the folders VOCdevkit/VOC2012/JPEGImages" in err


def test_a_run_is_continued_with_the_same_data_alone(run, tmp_path, monkeypatch):
    """Other images under the same names are another run; the same ones moved elsewhere are not."""
    for name, samples in (("a", SCENES.samples[:2]), ("b", SCENES.samples[2:4])):
        scenes_folder(tmp_path / name, samples)
    command = ["evaluate", "folder", "--layers", "1", "--out", "ev"]
    assert run(*command, "--root", "a")[0] == 0
    before = (tmp_path / "ev" / "evaluate.csv").read_text()
    code, _, err = run(*command, "--root", "b")
    assert code == 2
    assert "ev holds a run with other settings (data)" in err
    (tmp_path / "a").rename(tmp_path / "moved")
    monkeypatch.setattr(evaluation, "_count_batch", None)  # nothing is computed again
    assert run(*command, "--root", "moved")[0] == 0
    assert (tmp_path / "ev" / "evaluate.csv").read_text() == before


def test_a_run_is_continued_with_the_same_weights_alone(run, tmp_path, random_folder):
    """Weights that were trained anew under the same path."""
    shutil.copytree(random_folder, tmp_path / "model")
    command = ["evaluate", "scenes", "--limit", "1", "--layers", "1", "--model", "model", "--out", "ev"]
    assert run(*command, model=False)[0] == 0
    weights = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight + 0.1 for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
    code, _, err = run(*command, model=False)
    assert code == 2
    assert "ev holds a run with other settings (model)" in err


def test_processes_that_share_a_run_give_the_numbers_of_one(random_pipe, tmp_path):
    whole = evaluate(random_pipe, tmp_path / "whole")
    waits = []

    def part(number):
        with sharing(WorkerShare(number, 2, lambda: waits.append(number))):
            return run_evaluation(random_pipe, SCENES, CONFIG, tmp_path / "parts", "random")

    (tmp_path / "parts" / "items").mkdir(parents=True)  # in life the first process has made it by the first wait
    with pytest.raises(ShareDone):
        list(part(1))
    shared = tabulate(part(0))
    assert waits == [1, 1, 0, 0]
    for name in ("settings", "classes", "images"):
        pd.testing.assert_frame_equal(getattr(whole, name), getattr(shared, name), check_exact=True)


def test_a_batch_that_another_process_did_not_write_is_named(random_pipe, tmp_path):
    with sharing(WorkerShare(0, 2)):
        batches = run_evaluation(random_pipe, SCENES, CONFIG, tmp_path, "random")
    with pytest.raises(ValueError, match="images-000002 is missing; start the run again"):
        list(batches)
