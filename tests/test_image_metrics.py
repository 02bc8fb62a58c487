"""Metrics through transformers, on small random models saved to folders, and the scene reader."""

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from mmdit_probe.datasets.scenes import scenes
from mmdit_probe.metrics import image_metrics, scene_reader
from mmdit_probe.metrics.image_metrics import Clip, Dino, make_metrics
from mmdit_probe.metrics.scene_reader import SceneReader, prompt_facts, scene_facts
from mmdit_probe.tiny.clip import make_clip, make_processor
from mmdit_probe.tiny.recipe import Recipe
from mmdit_probe.tiny.tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    recipe = Recipe(clip_layers=1, clip_width=32)
    make_clip(recipe, make_tokenizer(24)).save_pretrained(folder)
    make_processor(recipe).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(image_size=64, patch_size=16, **sizes)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def images():
    return np.stack([scene.image for scene in scenes("test", 3)])


PROMPTS = ("a red circle", "sand", "snow under grass")


def test_clip_metrics_are_the_models_own_cosines(clip_folder, images):
    clip = Clip(clip_folder)
    inputs = clip.processor(
        text=list(PROMPTS), images=list(images), padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        output = clip.model(**inputs)
    cosines = (output.image_embeds @ output.text_embeds.T).diagonal()
    np.testing.assert_allclose(clip.text_similarity(images, images, PROMPTS), cosines, atol=1e-6)
    np.testing.assert_allclose(clip.clip_score(images, images, PROMPTS), 100 * cosines.clamp(min=0).numpy(), atol=1e-4)


def test_a_image_is_most_like_itself(clip_folder, dino_folder, images):
    for measure in (Clip(clip_folder).image_similarity, Dino(dino_folder).image_similarity):
        np.testing.assert_allclose(measure(images, images, PROMPTS), 1, atol=1e-5)
        others = measure(images, images[[1, 2, 0]], PROMPTS)
        assert (others < 1 - 1e-4).all()
        assert (others >= -1).all()


@pytest.mark.parametrize(("room", "expected"), [(9, [4, 2]), (1, [4, 2, 1, 1, 1, 1, 1, 1])])
def test_many_images_are_embedded_a_few_at_a_time(clip_folder, dino_folder, images, monkeypatch, room, expected):
    """The same numbers as of all at once, also where the GPU has room for one image alone."""
    clip, dino, reader = Clip(clip_folder), Dino(dino_folder), SceneReader.load()
    kinds = [
        (clip.clip_score, clip, "_embed_images"),
        (clip.text_similarity, clip, "_embed_texts"),
        (dino.image_similarity, dino, "_embed"),
        (lambda images, references, prompts: reader.fact_share(images, prompts), reader, "_read"),
    ]
    many, prompts = np.concatenate([images, images[::-1]]), (*PROMPTS, *PROMPTS[:2], "a moon")
    for measure, owner, method in kinds:
        whole, original, asked = measure(many, many[::-1], prompts), getattr(owner, method), []

        def counted(part, original=original, asked=asked):
            asked.append(len(part))
            if len(part) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(part)

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, counted)
            for module in (image_metrics, scene_reader):
                patch.setattr(module, "AT_ONCE", 4)
            np.testing.assert_allclose(measure(many, many[::-1], prompts), whole, atol=1e-4)
        assert asked[: len(expected)] == expected


def test_the_available_metrics(clip_folder, dino_folder):
    assert list(make_metrics("some/model", clip_folder, dino_folder)) == ["clip_t", "clip_i", "dino"]
    assert list(make_metrics("tiny-sd3", clip_folder, None)) == ["clip_t", "clip_i", "scene"]


def test_what_cannot_be_had_is_explained(tmp_path):
    with pytest.raises(ValueError, match="name a CLIP"):
        make_metrics("some/model", None, None)
    with pytest.raises(ValueError, match=r"lacks \.safetensors weights"):
        make_metrics("some/model", str(tmp_path), None)


@pytest.mark.parametrize(
    ("prompt", "facts"),
    [
        ("a red circle on grass", {("red", "circle"), ("grass",)}),
        ("A Blue half moon left of a star on snow under night sky", {("blue", "half moon"), ("star",), ("snow",), ("night sky",)}),
        ("brick wall", {("brick wall",)}),
        ("", set()),
        ("an astronaut", set()),
    ],
)  # fmt: skip
def test_what_a_prompt_states(prompt, facts):
    assert prompt_facts(prompt) == facts


def test_a_scene_has_the_facts_of_its_sentence():
    for scene in scenes("test", 50):
        assert prompt_facts(scene.sentence()) <= scene_facts(scene)


def test_the_scene_reader_is_right_at_least_95_times_in_100():
    from mmdit_probe.tiny.scene_reader import reader_accuracy

    found = reader_accuracy(SceneReader.load(), 200)
    assert found["recall"] >= 0.95
    assert found["precision"] >= 0.95
    assert found["own_sentence"] >= 0.95


def test_the_scene_score_counts_the_prompts_facts():
    reader = SceneReader.load()
    chosen = [scene for scene in scenes("test", 40) if reader.read([scene.image])[0] == scene_facts(scene)][:5]
    images = [scene.image for scene in chosen]
    np.testing.assert_array_equal(reader.fact_share(images, [scene.sentence() for scene in chosen]), 1)
    wrong = ["a red circle" if ("red", "circle") not in scene_facts(s) else "a blue circle" for s in chosen]
    np.testing.assert_array_equal(reader.fact_share(images, wrong), 0)
    assert np.isnan(reader.fact_share(images[:1], [""])).all()
