"""Editing pipelines whose prompts begin with images: every word is where it is encoded, and the images are no text."""

import diffusers
import numpy as np
import pytest
import torch
from models_flux import SMALL
from small_pipelines import scheduler, small_pipeline
from test_text_parts import Autoencoder, Echo, Processor, checked, joyimage, tokenizer
from test_words_in_the_call import joyimage_plus

from mmdit_probe import I2TMaps, Probe, RegionMass
from mmdit_probe.families import family_of
from mmdit_probe.pipelines.prompt_watch import PromptWatch

PADS = 6
VISION = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]


class Looking(Processor):
    """A processor of texts and images: each image is ``PADS`` tokens; like Qwen's, it adds no start and no end."""

    def __call__(self, text, images=None, **options):
        texts = [each.replace(VISION[1], VISION[1] * PADS) for each in text]
        return self.tokenizer(texts, add_special_tokens=False, **options)


def looking(side="right", length=200):
    used = tokenizer(length, side)
    used.add_special_tokens({"additional_special_tokens": VISION})
    return used, Looking(used)


def qwen_edit(kind=diffusers.QwenImageEditPipeline):
    used, processor = looking()
    transformer = small_pipeline("qwen-image").transformer
    pipe = kind(scheduler(), None, Echo(), used, processor, transformer)
    images = "" if kind is diffusers.QwenImageEditPlusPipeline else "".join(VISION)
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = f"on a moon{images}{{}} under sand", 3
    return pipe


def qwen_edit_plus():
    return qwen_edit(diffusers.QwenImageEditPlusPipeline)


def longcat_edit():
    transformer = diffusers.LongCatImageTransformer2DModel(**{**SMALL, "in_channels": 64, "pooled_projection_dim": 8})
    used, _ = looking()
    pipe = diffusers.LongCatImageEditPipeline(scheduler(), Autoencoder(), Echo(), used, Sizes(), transformer)
    pipe.tokenizer_max_length, pipe.image_token = 30, VISION[1]
    pipe.prompt_template_encode_prefix, pipe.prompt_template_encode_suffix = "on a moon" + "".join(VISION), "under sand"
    return pipe


class Sizes:
    """What LongCat-Image-Edit asks of its processor of images."""

    merge_size = 2

    @property
    def image_processor(self):
        return self

    def __call__(self, images, return_tensors):
        return {"pixel_values": torch.zeros(1), "image_grid_thw": torch.tensor([1, 2, 2 * PADS])}


def joyimage_edit(side="right"):
    pipe = joyimage(side)
    pipe.tokenizer, pipe.processor = looking(side)
    pipe.prompt_template_encode["multiple_images"] = "on a moon{}above sand"
    pipe.prompt_template_encode_start_idx["multiple_images"] = 3
    return pipe


def encode(pipe, prompt, images):
    """The embeddings of a prompt with one image, or with two."""
    if hasattr(pipe, "encode_prompt_multiple_images"):
        return pipe.encode_prompt_multiple_images(prompt=prompt, images=images)[0]
    given = images if isinstance(pipe, diffusers.QwenImageEditPlusPipeline) else images[0]
    return pipe.encode_prompt(prompt=prompt, image=given)[0]


LONG = "sand under an orange half moon and a red heart"


@pytest.mark.parametrize(("make", "images", "before"), [
    (qwen_edit, 1, PADS + 2), (qwen_edit_plus, 1, None), (qwen_edit_plus, 2, None), (longcat_edit, 1, PADS + 2),
    (joyimage_edit, 1, None), (lambda: joyimage_edit("left"), 1, None),
])  # fmt: skip
def test_every_word_stands_behind_the_images(make, images, before):
    pipe = make()
    family = family_of(pipe.transformer)
    with PromptWatch(pipe, family) as watch:
        for prompt in ("a red heart", LONG):
            features = encode(pipe, [prompt], [object()] * images)
            found = watch.carried(features, 1, features.shape[1])
            assert checked(found.text, features[:, found.vision :], pipe) == [(True, prompt)]
            numbers = features[0, : found.vision, -2].int().tolist()
            pictures = pipe.tokenizer.convert_ids_to_tokens(numbers)
            assert pictures.count(VISION[1]) == images * PADS
            assert before in (None, found.vision)
            assert pictures[-1] in (VISION[2], "user</w>")


def test_prompts_of_a_batch_are_padded_behind_their_words():
    pipe = qwen_edit()
    with PromptWatch(pipe, family_of(pipe.transformer)) as watch:
        features = encode(pipe, ["a red heart", LONG], [object()])
        found = watch.carried(features, 2, features.shape[1])
    assert found.vision == PADS + 2
    assert checked(found.text, features[:, found.vision :], pipe) == [(True, "a red heart"), (True, LONG)]


def test_images_of_a_batch_with_differing_padding_are_not_placed():
    pipe = joyimage_edit("left")
    with PromptWatch(pipe, family_of(pipe.transformer)) as watch:
        features = encode(pipe, ["a red heart", LONG], [object(), object()])
        assert watch.carried(features, 2, features.shape[1]).vision is None


def turn(prompt):
    """A prompt with an image, as JoyImage-Edit-Plus's call writes it."""
    return f"<|im_start|>user\n<image>\n{prompt}<|im_end|>\n"


@pytest.mark.parametrize("negative", [None, LONG])
def test_joyimage_plus_pads_the_shorter_prompt_behind(negative):
    """Its call encodes the negative prompt and the prompt, each with the image, and joins them."""
    pipe = joyimage_plus("right")
    pipe.tokenizer, pipe.processor = looking(length=150)
    arguments = {"prompt": "a red heart", "images": [[object()]], "negative_prompt": negative, "guidance_scale": 4.0}
    with PromptWatch(pipe, family_of(pipe.transformer)) as watch, watch.running(pipe, arguments):
        halves = [encode(pipe, [turn(prompt)], [object()]) for prompt in (negative or " ", "a red heart")]
        length = max(half.shape[1] for half in halves)
        features = torch.cat([pipe._pad_sequence(half, length) for half in halves])
        found = watch.carried(features, 2, length)
    assert checked(found.text, features[:, found.vision :], pipe) == [(False, negative or ""), (True, "a red heart")]
    assert list(found.branches) == ["unconditional", "conditional"]


def test_edits_of_an_editing_pipeline_know_its_words():
    """Through the probe: the images are apart, and maps of words are those of the words' positions."""
    pipe = qwen_edit()
    with Probe(pipe, [RegionMass(), I2TMaps()]) as probe, torch.no_grad():
        embeddings, _ = pipe.encode_prompt(prompt="a red heart", image=object())
        pipe.transformer(
            hidden_states=torch.randn(1, 48, 16), encoder_hidden_states=embeddings, timestep=torch.full((1,), 0.5),
            img_shapes=[[(1, 4, 6), (1, 4, 6)]], encoder_hidden_states_mask=None,
        )  # fmt: skip
    record = probe.dataset()
    assert record["token_text"].values.ravel().tolist() == ["a", "red", "heart", "under", "sand"]
    assert record["token_kind"].values.ravel().tolist() == ["word"] * 3 + ["template"] * 2
    np.testing.assert_allclose(
        record["i2t"].sum("token").mean(("row", "col")).values,
        record["region_mass"].sel(region="I2T").mean("head").values, atol=1e-5,
    )  # fmt: skip
