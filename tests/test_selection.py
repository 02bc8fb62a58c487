"""Which settings belong to which method, and what a loaded method makes of them."""

import models_baselines as small
import numpy as np
import pytest

from mmdit_probe.baselines.counters import BaselineCounter, RegionCounter
from mmdit_probe.baselines.loaded import LoadedMethod, load_method
from mmdit_probe.baselines.registry import METHODS, SYSTEMS
from mmdit_probe.baselines.selection import Selection
from mmdit_probe.configs import EvaluateConfig, GroupConfig, SegmentConfig
from mmdit_probe.configs.baselines import DiffSegConfig, RefineConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.evaluation.counter import MapCounter
from mmdit_probe.segmentation import OpenVocabularySegmenter, UnsupervisedSegmenter


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "iseg", "refine": "i2i"}, "refine is for seg4diff's maps; leave it out with method iseg"),
        ({"sam": "sam"}, "sam is for method corrclip or refine corrclip-vote"),
        ({"method": "proxyclip", "sam": "sam"}, "sam is for method corrclip"),
        ({"dino_backbone": "dino"}, "dino_backbone is for method proxyclip or corrclip"),
        ({"method": "iseg", "threshold": 1.0}, "threshold is for seg4diff, diffseg and diffcut, not for iseg"),
        ({"method": "diffcut", "threshold": 0.0}, "threshold must be above 0, got 0.0"),
        ({"threshold": float("nan")}, "threshold must be above 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Selection(**settings)


@pytest.mark.parametrize(("name", "known"), [("method", "seg4diff, diffsegmenter"), ("refine", "none, i2i")])
def test_unknown_words_are_refused(name, known):
    selection = Selection()
    object.__setattr__(selection, name, "magic")  # the tests' own type checks would refuse it before
    with pytest.raises(ValueError, match=f"{name} must be one of {known}"):
        selection.__post_init__()


def test_settings_that_go_together_are_taken():
    for method in METHODS:
        assert Selection(method=method).method == method
    Selection(method="corrclip", sam="sam", dino_backbone="dino")
    Selection(refine="corrclip-vote", sam="sam")
    for method in ("seg4diff", "diffseg", "diffcut"):
        Selection(method=method, threshold=0.5)


def test_map_settings_are_refused_before_anything_is_loaded_where_no_model_has_them():
    Selection(method="diffseg").check_given(["layers"])  # runs on an MM-DiT as well
    Selection().check_given(["layers", "heads"])
    Selection(method="iseg").check_given(["seed", "crop"])
    for name in ("layer", "layers", "heads", "timesteps", "normalize"):
        with pytest.raises(ValueError, match=f"^{name} is about an MM-DiT's maps; method iseg is a whole system here"):
            Selection(method="iseg").check_given(["seed", name])


def test_released_settings_follow_the_data_set_and_what_is_asked_for():
    assert Selection(method="diffseg").system_config() == DiffSegConfig()
    assert Selection(method="diffseg").system_config("cityscapes").threshold == 0.9
    assert Selection(method="diffseg").system_config(joint=True).threshold == DiffSegConfig.joint_threshold
    assert Selection(method="diffseg", threshold=0.3).system_config("cityscapes", joint=True).threshold == 0.3
    assert Selection(method="diffcut", threshold=0.3).system_config().tau == 0.3
    assert Selection(refine="iseg").refine_config("coco-object") == RefineConfig(entropy=0.2, iterations=10)
    asked = Selection(refine="iseg", refine_steps=3, refine_entropy=0.1).refine_config("coco-object")
    assert (asked.steps, asked.iterations, asked.entropy) == (3, 3, 0.1)


def test_configs_are_filled_with_what_they_have():
    selection = Selection(method="diffseg", threshold=0.7)
    filled = selection.fill(EvaluateConfig(task="unsupervised", batch=3))
    assert (filled.method, filled.threshold, filled.batch) == ("diffseg", 0.7, 3)
    assert selection.fill(GroupConfig()).threshold == 0.7
    assert Selection().fill(GroupConfig()) == GroupConfig()
    assert Selection(refine="i2i").fill(SegmentConfig()).refine == "i2i"


def test_labels_name_the_other_models(tmp_path):
    weights = tmp_path / "sam.safetensors"
    weights.write_bytes(b"weights")
    label = Selection(method="corrclip", sam=str(weights), dino_backbone="facebook/dino").label("clip, fp32")
    assert label.startswith(f"clip, fp32, DINO facebook/dino, SAM {weights} (")
    assert Selection().label("tiny-sd3, fp32") == "tiny-sd3, fp32"


def test_the_task_and_the_backbone_are_the_methods():
    assert Selection().task("unsupervised") == "unsupervised"
    assert Selection(method="diffseg").task() == "unsupervised"
    with pytest.raises(ValueError, match="method diffseg does the unsupervised task, not open-vocabulary"):
        Selection(method="diffseg").task("open-vocabulary")
    assert Selection(method="iseg").source("tiny-sd3") == SYSTEMS["iseg"].source
    assert Selection(method="diffseg").source("tiny-sd3") == "tiny-sd3"


def test_the_backbone_decides_whether_a_method_is_a_whole_system(random_pipe):
    unet = small.stable_diffusion()
    assert not LoadedMethod(Selection(), random_pipe).is_whole
    on_mmdit = LoadedMethod(Selection(method="diffseg"), random_pipe)
    config = on_mmdit.selection.fill(EvaluateConfig(task="unsupervised", layers=(1,)))
    assert isinstance(on_mmdit.counter(config), RegionCounter)
    on_unet = LoadedMethod(Selection(method="diffseg"), unet)
    assert on_unet.is_whole
    with pytest.raises(ValueError, match="layers is about an MM-DiT's maps; method diffseg is a whole system here"):
        on_unet.counter(config)
    whole = on_unet.counter(on_unet.selection.fill(EvaluateConfig(task="unsupervised")))
    assert isinstance(whole, BaselineCounter)
    for layer in (0, 3):
        with pytest.raises(ValueError, match="layer is about an MM-DiT's maps"):
            on_unet.regions(layer)


def test_seg4diff_needs_a_counter_for_baselines_refinements_alone(random_pipe):
    assert LoadedMethod(Selection(), random_pipe).counter(EvaluateConfig()) is None
    refined = LoadedMethod(Selection(refine="iseg", refine_steps=2), random_pipe)
    counter = refined.counter(refined.selection.fill(EvaluateConfig(layers=(1,))))
    assert isinstance(counter, MapCounter)
    assert counter.settings["baseline"]["iterations"] == 2


def test_labelers_label_as_the_segmenters_do_and_say_with_what(random_pipe):
    image, names = scene("val", 0).image, ["grass", "circle"]
    labeler = LoadedMethod(Selection(), random_pipe).by_names(names, 1)
    expected = OpenVocabularySegmenter(random_pipe, 1)(image, names)
    np.testing.assert_array_equal(labeler.label([image])[0].labels, expected.labels)
    assert labeler.settings["layer"] == 1
    assert labeler.settings["classes"] == ("grass", "circle")
    assert labeler.at_once is None
    regions = LoadedMethod(Selection(threshold=0.05), random_pipe).regions(1)
    expected = UnsupervisedSegmenter(random_pipe, 1, GroupConfig(threshold=0.05))(image)
    np.testing.assert_array_equal(regions.label([image])[0].labels, expected.labels)
    assert (regions.settings["method"], regions.settings["threshold"]) == ("seg4diff", 0.05)
    joint = LoadedMethod(Selection(method="diffcut", threshold=0.7), random_pipe).regions(1)
    assert joint.settings["baseline"]["tau"] == 0.7
    refined = LoadedMethod(Selection(refine="corrclip-vote"), random_pipe).by_names(names, 1)
    assert refined.settings["refine"] == "corrclip-vote"
    assert "baseline" in refined.settings
    with pytest.raises(ValueError, match="classes: give at least one name"):
        LoadedMethod(Selection(), random_pipe).by_names([], 1)


def test_whole_systems_label_one_image_at_a_time(random_pipe):
    labeler = LoadedMethod(Selection(method="diffseg"), small.stable_diffusion()).regions(
        config=GroupConfig(crop="center")
    )
    assert labeler.at_once == 1
    assert labeler.settings["crop"] == "center"
    assert labeler.settings["system"]["threshold"] == DiffSegConfig.threshold


def test_pipelines_are_loaded_for_what_runs_on_them(random_pipe):
    loaded = []

    def load():
        loaded.append(1)
        return random_pipe

    assert load_method(Selection(), "somewhere", load).pipe is random_pipe
    with pytest.raises(ValueError, match=r"CLIP 'no-such-folder' .*neither a folder here nor a hub id"):
        load_method(Selection(method="proxyclip"), "no-such-folder", load)
    assert loaded == [1]
    with pytest.raises(ValueError, match=r"SAM 'none' .*neither a folder here nor a hub id"):
        load_method(Selection(refine="corrclip-vote", sam="none"), "somewhere", load)
