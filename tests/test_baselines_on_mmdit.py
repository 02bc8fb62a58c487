"""The baselines' steps on an MM-DiT: refiners and regions through the segmenters and the evaluation."""

import numpy as np
import pandas as pd
import pytest
import torch

from mmdit_probe import I2TMaps, Probe
from mmdit_probe.baselines.anchor_merging import merge_regions
from mmdit_probe.baselines.attention_rows import Rows, normalized
from mmdit_probe.baselines.counters import RegionCounter, refined_counter, refined_segmenter
from mmdit_probe.baselines.on_mmdit import ApplyPerLayer, JointGrouper, RefinedReader, color_masks, image_features
from mmdit_probe.baselines.refinement import iterate, sharpened
from mmdit_probe.configs import EvaluateConfig, GroupConfig, SegmentConfig
from mmdit_probe.configs.baselines import DiffCutConfig, DiffSegConfig, RefineConfig, for_dataset
from mmdit_probe.datasets.registry import held_out_scenes
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.evaluation import run as evaluation
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import tabulate
from mmdit_probe.metrics.matching import matched_metrics
from mmdit_probe.pipelines.forward import add_noise, encode_images, encode_prompts, forward_once, noise_level
from mmdit_probe.segmentation import OpenVocabularySegmenter
from mmdit_probe.segmentation.label_map import label_map

CLASSES = ("grass", "wood floor", "circle")
SCENES = held_out_scenes(3)
from mmdit_probe.utils.scaling import min_max


@pytest.fixture
def image():
    return scene("val", 0).image


def full_attention(pipe, image, prompt, layer, timestep, scale=1.0, span=()):
    """(heads, tokens, tokens) and the layout of one layer's whole joint softmax, and its output, written out."""
    features = encode_prompts(pipe, [prompt], 77)
    states = features.inputs["encoder_hidden_states"].clone()
    states[:, list(span)] *= scale
    features.inputs["encoder_hidden_states"] = states
    sigma = noise_level(pipe, timestep, 28)
    kept = {}

    def work(attention):
        scores = attention.query @ attention.key.transpose(2, 3) * attention.scale
        kept["probs"], kept["layout"] = scores.softmax(-1)[0], attention.layout
        kept["value"] = attention.value[0]
        return [torch.zeros(1)] * attention.batch

    latents = add_noise(encode_images(pipe, [image]), sigma, 0)
    with torch.no_grad(), Probe(pipe, [ApplyPerLayer(work), I2TMaps()], layers=[layer]):
        forward_once(pipe, latents, sigma, features)
    return kept


def test_diffsegmenter_is_what_i2i_was_and_its_steps_are_powers(random_pipe, image):
    layer = 1
    one = refined_segmenter(random_pipe, layer, SegmentConfig(refine="diffsegmenter"), RefineConfig())
    plain = OpenVocabularySegmenter(random_pipe, layer, SegmentConfig(refine="i2i"))
    np.testing.assert_allclose(one(image, CLASSES).logits, plain(image, CLASSES).logits, atol=1e-6)
    none = refined_segmenter(random_pipe, layer, SegmentConfig(refine="diffsegmenter"), RefineConfig(steps=0))
    unrefined = OpenVocabularySegmenter(random_pipe, layer)(image, CLASSES)
    np.testing.assert_allclose(none(image, CLASSES).logits, unrefined.logits, atol=1e-6)


def test_iseg_is_the_iteration_on_the_scaled_words_maps(random_pipe, image):
    """Written out from the full softmax; names of one and of two tokens."""
    config = RefineConfig(entropy=0.05, iterations=4)
    segmenter = refined_segmenter(random_pipe, 2, SegmentConfig(refine="iseg"), config)
    made = segmenter.batch([image, image[::-1].copy()], CLASSES)[0]
    spans = [(1,), (2, 3), (4,)]
    kept = full_attention(random_pipe, image, " ".join(CLASSES), 2, 8, 1.6, range(1, 5))
    layout = kept["layout"]
    i2i = normalized(kept["probs"][:, layout.image_queries, layout.image_keys].mean(0))
    i2t = kept["probs"][:, layout.image_queries, layout.text_keys].mean(0)
    maps = torch.stack([i2t[:, list(span)].mean(1) for span in spans], 1)
    expected = min_max(iterate(sharpened(Rows.of(i2i), 0.05), maps, 4), 0).T.unflatten(1, layout.grid)
    np.testing.assert_allclose(made.logits, expected, atol=2e-4)


def test_the_vote_makes_every_mask_one_class(random_pipe, image):
    masks = color_masks(image, 4)
    segmenter = refined_segmenter(random_pipe, 1, SegmentConfig(refine="corrclip-vote"), RefineConfig(regions=4))
    made = segmenter(image, CLASSES)
    plain = OpenVocabularySegmenter(random_pipe, 1)(image, CLASSES)
    np.testing.assert_allclose(made.logits, plain.logits)
    for number in np.unique(masks):
        own = made.labels[masks == number]
        assert len(np.unique(own)) == 1
        assert own[0] == np.bincount(plain.labels[masks == number]).argmax()
    given = refined_segmenter(
        random_pipe, 1, SegmentConfig(refine="corrclip-vote"), RefineConfig(), lambda p: np.zeros(p.shape[:2], int)
    )
    assert len(np.unique(given(image, CLASSES).labels)) == 1


def test_color_masks_are_connected_and_cover_the_image():
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, 4:8] = 255
    masks = color_masks(image, 2)
    assert len(np.unique(masks)) == 3
    assert masks.min() == 0


def test_regions_of_one_layer_are_those_of_its_full_softmax(random_pipe, image):
    config = DiffSegConfig(threshold=0.01)
    grouper = JointGrouper(random_pipe, 2, config, GroupConfig())
    made = grouper.batch([image[::-1].copy(), image])[1]
    kept = full_attention(random_pipe, image, "", 2, 8)
    layout = kept["layout"]
    i2i = normalized(kept["probs"][:, layout.image_queries, layout.image_keys].mean(0))
    merged = merge_regions(Rows.of(i2i), layout.grid, 0.01)
    taken = np.unique(label_map(merged, (64, 64)))
    np.testing.assert_allclose(made.logits, merged[taken], atol=1e-5)
    assert sorted(np.unique(made.labels)) == list(range(len(taken)))
    np.testing.assert_array_equal(made.labels, label_map(merged[taken], (64, 64)))
    assert made.settings["method"] == "diffseg"


def test_cut_features_are_the_attention_output_at_the_image(random_pipe, image):
    kept = full_attention(random_pipe, image, "", 1, 8)
    layout = kept["layout"]
    expected = (kept["probs"] @ kept["value"])[:, layout.image_queries]
    found = {}

    def work(attention):
        found["features"] = image_features(attention)
        return [torch.zeros(1)] * attention.batch

    latents = add_noise(encode_images(random_pipe, [image]), noise_level(random_pipe, 8, 28), 0)
    with torch.no_grad(), Probe(random_pipe, [ApplyPerLayer(work)], layers=[1], stop_early=True):
        forward_once(random_pipe, latents, noise_level(random_pipe, 8, 28), encode_prompts(random_pipe, [""], 77))
    by_hand = torch.cat(list(expected), -1).T.unflatten(1, layout.grid)
    torch.testing.assert_close(found["features"][0], by_hand, atol=1e-5, rtol=1e-4)
    grouped = JointGrouper(random_pipe, 1, DiffCutConfig(tau=0.9)).group(image)
    assert grouped.labels.shape == image.shape[:2]
    assert sum(grouped.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("method", ["diffseg", "diffcut"])
def test_evaluated_regions_agree_with_grouping_each_image(random_pipe, tmp_path, method):
    baseline = DiffSegConfig(threshold=0.02) if method == "diffseg" else DiffCutConfig(tau=0.9)
    config = EvaluateConfig(task="unsupervised", method=method, layers=(0, 2), timesteps=(4, 8), batch=1)
    counter = RegionCounter(random_pipe, config, baseline)
    result = tabulate(run_evaluation(random_pipe, SCENES, config, tmp_path, "random", counter=counter))
    assert len(result.settings) == 2 * 2 * 2
    grouper = JointGrouper(random_pipe, 2, baseline, GroupConfig(timestep=4))
    regions = np.stack([grouper.group(sample.image).labels for sample in SCENES.samples])
    expected = matched_metrics(np.stack([s.read() for s in SCENES.samples]), regions, len(SCENES.classes))
    row = result.settings.set_index(["matching", "timestep", "layer"]).loc[("paper", 4, 2)]
    assert row["miou_absent_zero"] == pytest.approx(expected.miou)
    assert row["pacc"] == pytest.approx(expected.accuracy)
    assert result.seconds > 0


@pytest.mark.parametrize("refine", ["diffsegmenter", "iseg", "corrclip-vote"])
def test_evaluated_refinements_agree_with_segmenting_each_image_and_resume(random_pipe, tmp_path, monkeypatch, refine):
    config = EvaluateConfig(refine=refine, layers=(1, 2), batch=2)

    def evaluate(out):
        counter = refined_counter(random_pipe, config, RefineConfig())
        return tabulate(run_evaluation(random_pipe, SCENES, config, out, "random", counter=counter))

    result = evaluate(tmp_path / "whole")
    segmenter = refined_segmenter(random_pipe, 2, SegmentConfig(refine=refine), RefineConfig())
    right = total = 0
    for sample in SCENES.samples:
        labels = sample.read()
        present = np.unique(labels)
        made = segmenter(sample.image, [SCENES.classes[number] for number in present])
        right, total = right + (present[made.labels] == labels).sum(), total + labels.size
    assert result.settings.set_index("layer").loc[2, "pacc"] == pytest.approx(right / total)

    original, done = evaluation._count_batch, []

    def counted(*arguments):
        if len(done) == 1:
            done.append(None)
            raise KeyboardInterrupt
        done.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(evaluation, "_count_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "parts")
    pd.testing.assert_frame_equal(evaluate(tmp_path / "parts").settings, result.settings, check_exact=True)
    assert len(done) == 3


def test_other_settings_are_another_run(random_pipe, tmp_path):
    config = EvaluateConfig(refine="iseg", layers=(1,), batch=3)

    def evaluate(baseline):
        counter = refined_counter(random_pipe, config, baseline)
        return list(run_evaluation(random_pipe, SCENES, config, tmp_path, "random", counter=counter))

    evaluate(RefineConfig())
    with pytest.raises(ValueError, match=r"other settings \(baseline\)"):
        evaluate(RefineConfig(iterations=3))


def test_mistakes_are_refused(random_pipe):
    each = EvaluateConfig(heads="all", refine="iseg")
    with pytest.raises(ValueError, match="refine iseg takes the mean over heads"):
        refined_counter(random_pipe, each, RefineConfig())
    with pytest.raises(ValueError, match="works on probabilities"):
        refined_counter(random_pipe, EvaluateConfig(normalize="scores", refine="iseg"), RefineConfig())
    with pytest.raises(ValueError, match="method diffseg takes the mean over heads"):
        RegionCounter(random_pipe, EvaluateConfig(heads="all", method="diffseg"), DiffSegConfig())
    with pytest.raises(ValueError, match="refine must be one of diffsegmenter, iseg"):
        RefinedReader(random_pipe, "i2i", RefineConfig(), [0], [8])


def test_settings_by_data_set_and_threshold():
    assert for_dataset(RefineConfig(), "coco-stuff-27") == RefineConfig(entropy=0.2, iterations=10)
    assert for_dataset(DiffSegConfig(), "cityscapes").threshold == 0.9
    assert for_dataset(DiffSegConfig(), "cityscapes-27").threshold == 0.9
    assert for_dataset(DiffCutConfig(), "context") == DiffCutConfig()
