"""What the embedded models know, measured again on a few scenes; their model cards have the whole numbers."""

import json

import pytest
import torch

from mmdit_probe import load_pipeline
from mmdit_probe.configs import EMBEDDED_MODELS
from mmdit_probe.datasets.scenes import scenes
from mmdit_probe.pipelines.defaults import model_defaults, text_length
from mmdit_probe.pipelines.loading import embedded_folder
from mmdit_probe.studies.scene_grounding import MEAN_OF_LAYERS, blur_harm, measure_layers
from mmdit_probe.tiny.export import digests


def numbers_of(model):
    return json.loads((embedded_folder(model) / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def evaluation():
    return numbers_of("tiny-sd3")


@pytest.fixture(scope="module")
def few():
    return list(scenes("test", 50))


@pytest.mark.parametrize("model", EMBEDDED_MODELS)
def test_each_is_small_enough_to_ship(model):
    assert sum(file.stat().st_size for file in embedded_folder(model).rglob("*") if file.is_file()) < 25e6


@pytest.mark.parametrize("model", EMBEDDED_MODELS)
def test_none_names_a_place_on_the_machine_that_made_it(model):
    for file in embedded_folder(model).rglob("*.json"):
        assert "_name_or_path" not in file.read_text()


@pytest.mark.parametrize("model", EMBEDDED_MODELS)
def test_the_card_speaks_of_these_weights(model):
    told = numbers_of(model)
    parts = [embedded_folder(name) for name in ("scene-reader", "tiny-clip", model)]
    assert told["sha256"] == {f"{part.name}/{name}": found for part in parts for name, found in digests(part).items()}
    card = (embedded_folder(model) / "MODEL_CARD.md").read_text()
    assert card.startswith(f"# {model}\n")
    for digest in told["sha256"].values():
        assert digest in card


def test_the_expert_layer_of_tiny_flux_grounds_words(few):
    pipe, told = load_pipeline("tiny-flux"), numbers_of("tiny-flux")
    masks, _ = measure_layers(pipe, few, told["timestep"], seed=5, max_sequence_length=text_length(pipe))
    single = masks[masks["layer"] != MEAN_OF_LAYERS].set_index("layer")["miou"]
    expert = told["expert_layer"]
    assert model_defaults(pipe).expert_layer == expert
    assert single[expert] > single.max() - 0.03
    assert single[expert] == pytest.approx(told["layers"][expert]["miou"], abs=0.06)


def test_one_layer_grounds_words_far_better_than_the_next(tiny, few, evaluation):
    masks, _ = measure_layers(tiny, few, evaluation["timestep"], seed=5, max_sequence_length=0)
    single = masks[masks["layer"] != MEAN_OF_LAYERS].set_index("layer")
    best, second = single["miou"].nlargest(2)
    assert single["miou"].idxmax() == evaluation["expert_layer"] == model_defaults(tiny).expert_layer
    assert best > 0.50
    assert single["pixel_accuracy"].max() > 0.80
    assert best - second > 0.08
    assert best == pytest.approx(evaluation["layers"][evaluation["expert_layer"]]["miou"], abs=0.06)


def test_blurring_the_words_does_harm_somewhere_and_little_elsewhere(tiny, few, evaluation):
    harm = blur_harm(tiny, few, evaluation["blur_timestep"], seed=5, max_sequence_length=0).set_index("layer")["harm"]
    told = {row["layer"]: row["blur_harm"] for row in evaluation["layers"]}
    assert harm.idxmax() == max(told, key=told.get)
    assert harm.max() > 0.2
    assert harm.drop(harm.idxmax()).max() < 0.6 * harm.max()  # 50 scenes tell the layers apart, not the second digit


def test_its_images_are_of_their_prompts(tiny):
    """The tiny CLIP finds most images' own prompt among twelve."""
    from transformers import CLIPModel, CLIPProcessor

    folder = embedded_folder().parent / "tiny-clip"
    model, processor = CLIPModel.from_pretrained(folder).float(), CLIPProcessor.from_pretrained(folder)
    prompts = [scene.sentence() for scene in scenes("test", 12)]
    defaults = model_defaults(tiny)
    images = tiny(
        prompts,
        num_inference_steps=14,
        guidance_scale=defaults.guidance_scale,
        max_sequence_length=defaults.max_sequence_length,
        generator=torch.Generator().manual_seed(3),
        output_type="pil",
    ).images
    assert images[0].size == (64, 64)
    inputs = processor(text=prompts, images=images, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs).logits_per_image.argmax(1)
    assert (found == torch.arange(12)).float().mean() >= 0.75


def test_zero_positions_hardly_change_its_images(tiny):
    """diffusers appends 256 all-zero text positions by default; the model was trained to live with them."""
    latents = [
        tiny(
            "a red circle on grass",
            num_inference_steps=8,
            guidance_scale=4.0,
            max_sequence_length=length,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images
        for length in (0, 256)
    ]
    other = tiny(
        "a blue square on sand",
        num_inference_steps=8,
        guidance_scale=4.0,
        max_sequence_length=0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images
    assert (latents[0] - latents[1]).square().mean() < 0.2 * (latents[0] - other).square().mean()
