"""FeaturePCA against numpy's SVD and least squares, and its laws."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from naive import random_call

from mmdit_probe import FeaturePCA, Probe, TokenLayout
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.attention.text_tokens import Kind, TextTokens
from mmdit_probe.configs import GenerationConfig, PCAConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.figures.pca import pca_page, r2_figure, text_page
from mmdit_probe.readouts.feature_pca import class_r2, image_features, position_r2, principal_components, token_labels
from mmdit_probe.studies.feature_pca import colors, measure_pca, pca_table, summary, text_colors

GENERATION = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=3)
GRID = (5, 6)
rng = np.random.default_rng(0)
FEATURES = rng.standard_normal((30, 10)) * np.arange(1, 11)
LABELS = rng.integers(0, 4, 30)


def adjusted(r2, tokens, fitted):
    return 1 - (1 - r2) * (tokens - 1) / (tokens - 1 - fitted)


def fit(features, *factors):
    """R^2 by least squares on an intercept and indicator columns."""
    columns = [
        np.ones(len(features)),
        *((factor == level).astype(float) for factor in factors for level in set(factor)),
    ]
    design = np.stack(columns, 1)
    residual = features - design @ np.linalg.lstsq(design, features, rcond=None)[0]
    return 1 - (residual**2).sum() / ((features - features.mean(0)) ** 2).sum()


@pytest.mark.parametrize("order", ["image-text", "text-image"])
def test_the_readout_is_a_singular_value_decomposition_of_the_image_tokens(order):
    """The slow twin: tokens cut out by hand, centered, numpy's SVD, signs by the largest coordinate."""
    layout = TokenLayout(GRID, 7, order)
    call = random_call(2, 3, layout.tokens, 8, kv_heads=1)
    fields = FeaturePCA().measure(JointAttention(call, layout))
    for batch in range(2):
        for number, tensor in enumerate((call.query, call.key, call.value)):
            tokens = [
                tensor[batch, :, layout.image_slice.start + n].reshape(-1).double().numpy() for n in range(layout.image)
            ]
            centered = np.stack(tokens) - np.mean(tokens, 0)
            u, s, _ = np.linalg.svd(centered, full_matrices=False)
            for component in range(3):
                slow = u[:, component] * s[component]
                slow = slow * np.sign(slow[np.abs(slow).argmax()])
                np.testing.assert_allclose(fields["pca"].values[batch, number, component].reshape(-1), slow, atol=1e-8)
            ratios = s**2 / (s**2).sum()
            np.testing.assert_allclose(fields["pca_variance"].values[batch, number], ratios[:3], rtol=1e-9)
    assert fields["class_r2"].values.isnan().all()


def test_many_features_use_another_solver_with_the_same_answer(monkeypatch):
    exact = principal_components(FEATURES)
    monkeypatch.setattr("mmdit_probe.readouts.feature_pca._EXACT", 5)
    for found, expected in zip(principal_components(FEATURES), exact, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_the_r2_are_those_of_least_squares():
    rows, cols = np.indices(GRID).reshape(2, -1)
    assert position_r2(FEATURES, GRID) == pytest.approx(adjusted(fit(FEATURES, rows, cols), 30, 4 + 5))
    assert class_r2(FEATURES, LABELS) == pytest.approx(adjusted(fit(FEATURES, LABELS), 30, 3))


def test_features_that_are_the_position_have_r2_1():
    rows, cols = np.indices(GRID).reshape(2, -1)
    linear = np.stack([rows, cols, rows - 2 * cols, np.sin(rows)], 1).astype(float)
    assert position_r2(linear, GRID) == pytest.approx(1)
    assert class_r2(np.eye(4)[LABELS] @ rng.standard_normal((4, 6)), LABELS) == pytest.approx(1)


def test_noise_has_r2_0():
    noise = rng.standard_normal((30, 3000))
    assert abs(position_r2(noise, GRID)) < 0.02
    assert abs(class_r2(noise, LABELS)) < 0.02


def test_rotating_and_moving_the_features_changes_nothing():
    rotation = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    turned = FEATURES @ rotation + 5
    for found, expected in zip(principal_components(turned), principal_components(FEATURES), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-8)
    assert position_r2(turned, GRID) == pytest.approx(position_r2(FEATURES, GRID))
    assert class_r2(turned, LABELS) == pytest.approx(class_r2(FEATURES, LABELS))


def test_tokens_without_a_class_do_not_count():
    labels = LABELS.copy()
    labels[:7] = -1
    assert class_r2(FEATURES, labels) == pytest.approx(class_r2(FEATURES[7:], LABELS[7:]))
    assert np.isnan(class_r2(FEATURES, np.zeros(30, int)))


def test_tokens_that_are_all_alike_have_no_components():
    layout = TokenLayout(GRID, 2)
    call = random_call(1, 2, layout.tokens, 8)
    call.value[:] = 1.0
    fields = FeaturePCA().measure(JointAttention(call, layout))
    assert (fields["pca"].values[0, 2] == 0).all()
    assert fields["position_r2"].values[0, 2].isnan()


def test_the_commonest_class_of_a_tokens_pixels():
    drawn = scene("test", 3).labels
    found = token_labels(drawn, (8, 8))
    for row in range(8):
        for col in range(8):
            pixels = list(drawn[8 * row : 8 * row + 8, 8 * col : 8 * col + 8].ravel())
            assert pixels.count(found[row, col]) == max(pixels.count(label) for label in set(pixels))
    assert token_labels(drawn, (5, 7)).shape == (5, 7)


def test_queries_have_all_heads_and_keys_their_own():
    layout = TokenLayout(GRID, 2)
    attention = JointAttention(random_call(1, 4, layout.tokens, 8, kv_heads=2), layout)
    assert image_features(attention, "query", 0).shape == (30, 32)
    assert image_features(attention, "key", 0).shape == (30, 16)


def test_cross_attention_has_image_queries_alone():
    layout = TokenLayout(GRID, 4, scope="cross")
    query = random_call(1, 2, 30, 8)
    text = random_call(1, 2, 4, 8)
    call = type(query)(query.query, text.key, text.value, query.arguments)
    fields = FeaturePCA().measure(JointAttention(call, layout))
    assert fields["pca_variance"].values[0, 0].isfinite().all()
    assert fields["pca_variance"].values[0, 1:].isnan().all()


def test_labels_of_another_size_are_refused(random_pipe):
    with (
        pytest.raises(ValueError, match=r"labels are \(4, 4\), the token grid is \(8, 8\)"),
        Probe(random_pipe, [FeaturePCA(np.zeros((4, 4), int))]),
    ):
        random_pipe("sand", num_inference_steps=1, max_sequence_length=0)


def test_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="more than 3 tokens"):
        principal_components(np.zeros((3, 8)))


def test_scenes_are_read_with_their_classes(random_pipe):
    config = PCAConfig(prompt=None, scenes=(0, 4), layers=(1, 2), timesteps=(1, 2), generation=GENERATION)
    recording = measure_pca(random_pipe, config)
    record, table = recording.record, pca_table(recording.record)
    assert record["pca"].dims == ("scene", "timestep", "layer", "feature", "component", "row", "col")
    assert record["class_r2"].notnull().all()
    np.testing.assert_array_equal(recording.image, scene("test", 0).image)
    assert len(table) == 2 * 2 * 3
    at = table.set_index(["timestep", "layer", "feature"]).loc[(2, 1, "key")]
    chosen = record.sel(timestep=2, layer=1, feature="key")
    assert at["class_r2"] == pytest.approx(float(chosen["class_r2"].mean()))
    assert at["variance_2"] == pytest.approx(float(chosen["pca_variance"].isel(component=1).mean()))
    lines = summary(table)
    assert lines[1].startswith("The class explains most in layer")
    again = measure_pca(random_pipe, config).record
    np.testing.assert_array_equal(again["pca"], record["pca"])


def test_a_generated_image_has_no_classes(random_pipe):
    table = pca_table(measure_pca(random_pipe, PCAConfig(prompt="sand", generation=GENERATION, timesteps=(1,))).record)
    assert table["class_r2"].isna().all()
    assert table["position_r2"].notna().all()
    assert "No label map is known" in summary(table)[1]
    assert [ax.get_title() for ax in r2_figure(table).axes] == ["R² from row and column"]


def test_the_page_shows_components_as_colors(random_pipe):
    recording = measure_pca(random_pipe, PCAConfig(prompt=None, scenes=(1,), generation=GENERATION, timesteps=(1,)))
    shown = colors(recording.record)
    assert shown.dims == ("timestep", "layer", "feature", "row", "col", "component")
    assert (shown.min(("row", "col")) == 0).all()
    assert (shown.max(("row", "col")) == 1).all()
    page = pca_page(shown.isel(timestep=0), recording.image)
    tiles = [ax.images[0].get_array() for ax in page.axes if ax.images]
    assert len(tiles) == 1 + 3 * 3
    np.testing.assert_array_equal(tiles[0], recording.image)
    np.testing.assert_array_equal(tiles[1], shown.isel(timestep=0, layer=0, feature=0))
    torch.testing.assert_close(float(shown.max()), 1.0)


def test_the_reading_names_the_layers():
    frame = pd.DataFrame(
        [
            {
                "layer": layer,
                "stream": "image",
                "feature": feature,
                "position_r2": [0.9, 0.2][layer],
                "class_r2": [0.1, 0.5][layer] + extra,
            }
            for layer in (0, 1)
            for feature, extra in (("query", 0.1), ("key", 0.0), ("value", -0.1))
        ]
    )
    lines = summary(frame)
    assert "most in layer 0 (R^2 0.90) and least in layer 1 (0.20)" in lines[0]
    assert "most in layer 1 (R^2 0.50" in lines[1]
    assert "most in the query of layer 1 (0.60)" in lines[1]


def text_call(order="image-text", batch=2, text=8):
    """A call, its layout, and kinds: padding in each row, and at the end an absent encoder."""
    layout = TokenLayout(GRID, text, order)
    kinds = np.full((batch, text), Kind.WORD, object)
    kinds[:, 0], kinds[:, -1], kinds[0, 5:-1], kinds[1, 3:-1] = Kind.START, Kind.ABSENT, Kind.PADDING, Kind.PADDING
    strings, everywhere = np.full((batch, text), "x", object), np.ones((batch, text), bool)
    tokens = TextTokens(strings, kinds, np.full(text, "clip"), np.ones(batch, bool), everywhere, everywhere)
    return JointAttention(random_call(batch, 2, layout.tokens, 8), layout, 0, 0, tokens)


@pytest.mark.parametrize("order", ["image-text", "text-image"])
def test_text_components_are_those_of_the_words_alone(order):
    """The slow twin: the words cut out by hand, numpy's SVD; padding is left out of the fit and of the result."""
    attention = text_call(order)
    fields = FeaturePCA(stream="text").measure(attention)
    assert set(fields) == {"text_pca", "text_pca_variance"}
    first = 0 if order == "text-image" else 30
    for row, count in enumerate((5, 3)):
        for number, tensor in enumerate((attention.query, attention.key, attention.value)):
            words = np.stack([tensor[row, :, first + n].reshape(-1).double().numpy() for n in range(count)])
            u, s, _ = np.linalg.svd(words - words.mean(0), full_matrices=False)
            found = fields["text_pca"].values[row, number].numpy()
            assert np.isnan(found[:, count:]).all()
            for component in range(min(3, count - 1)):
                slow = u[:, component] * s[component]
                slow = slow * np.sign(slow[np.abs(slow).argmax()])
                np.testing.assert_allclose(found[component, :count], slow, atol=1e-8)
            ratios = (s**2 / (s**2).sum())[: count - 1]
            np.testing.assert_allclose(fields["text_pca_variance"].values[row, number][: len(ratios)], ratios[:3])
            assert (fields["text_pca_variance"].values[row, number][len(ratios) :] == 0).all()


def test_padding_takes_part_where_it_is_asked_for_or_unknown():
    attention = text_call()
    kept = FeaturePCA(stream="both", padding=True).measure(attention)
    assert kept["text_pca"].values.isfinite().all()
    unknown = JointAttention(attention.call, attention.layout)
    for name, field in FeaturePCA(stream="text").measure(unknown).items():
        torch.testing.assert_close(field.values, kept[name].values)
    torch.testing.assert_close(kept["pca"].values, FeaturePCA().measure(attention)["pca"].values)


def test_text_that_does_not_attend_has_no_queries():
    layout = TokenLayout(GRID, 6, scope="cross")
    query, text = random_call(1, 2, 30, 8), random_call(1, 2, 6, 8)
    call = type(query)(query.query, text.key, text.value, query.arguments)
    fields = FeaturePCA(stream="text").measure(JointAttention(call, layout))
    assert fields["text_pca_variance"].values[0, 0].isnan().all()
    assert fields["text_pca_variance"].values[0, 1:].isfinite().all()


def test_an_unknown_stream_is_refused():
    with pytest.raises(ValueError, match="stream must be one of image, text, both, got 'words'"):
        FeaturePCA(stream="words")


def test_the_table_and_page_of_text_tokens(random_pipe):
    config = PCAConfig(
        prompt="a red circle on sand", scenes=(), layers=(0, 2), timesteps=(1, 2), generation=GENERATION, stream="both"
    )
    record = measure_pca(random_pipe, config).record
    table = pca_table(record)
    assert list(table["stream"].value_counts()) == [12, 12]
    text = table[table["stream"] == "text"]
    assert text["position_r2"].isna().all()
    at = text.set_index(["timestep", "layer", "feature"]).loc[(2, 2, "value")]
    chosen = record["text_pca_variance"].sel(timestep=2, layer=2, feature="value")
    assert at["variance_1"] == pytest.approx(float(chosen.isel(component=0)))
    assert "Three components hold most of the text tokens' variance" in summary(table)[-1]
    shown = text_colors(record).isel(timestep=0)
    assert dict(shown.sizes) == {"layer": 2, "feature": 3, "token": 7, "component": 3}
    page = text_page(shown)
    axes = [ax for ax in page.axes if ax.images]
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == [
        "[start]",
        *["a", "red", "circle", "on", "sand"],
        "[end]",
    ]
    np.testing.assert_array_equal(axes[1].images[0].get_array(), shown.sel(feature="key"))
    alone = measure_pca(random_pipe, replace(config, stream="text")).record
    assert "pca" not in alone
    assert list(pca_table(alone)["stream"].unique()) == ["text"]


def test_text_components_on_the_command_line(run, tmp_path):
    options = ["--steps", "2", "--timesteps", "1", "--json"]
    code, out, err = run("pca", "--prompt", "a red circle on sand", "--stream", "text", *options)
    assert code == 0, err
    assert json.loads(out)["table"][0]["stream"] == "text"
    written = {file.name for file in (tmp_path / "results" / "pca").iterdir()}
    assert written == {"pca_text_t1.pdf", "pca_text_t1.png", "pca.csv", "pca.nc", "image.png", "run.json"}
    code, _, err = run("pca", "--prompt", "sand", "--include-padding")
    assert code == 2
    assert "--include-padding is about text tokens" in err
