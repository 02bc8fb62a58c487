"""Known families whose tokens would silently mean something else: read right, or refused in one line."""

from types import SimpleNamespace

import models_cross
import numpy as np
import pytest
import torch
from small_pipelines import small_pipeline

from mmdit_probe import I2TMaps, Probe, RegionMass


def ltx_inputs(coordinates):
    model = models_cross.ltx()
    tokens = coordinates.shape[-1]
    config = model.config
    return model, {
        "hidden_states": torch.randn(1, tokens, config.in_channels),
        "encoder_hidden_states": torch.randn(1, 5, config.caption_channels),
        "timestep": torch.full((1, tokens), 500.0),
        "encoder_attention_mask": torch.ones(1, 5),
        "video_coords": coordinates,
    }


def coordinates(frames, rows, cols):
    """As the pipeline scales them: the first frame is shorter than the others, and frames are in seconds."""
    axes = torch.meshgrid(*(torch.arange(n) for n in (frames, rows, cols)), indexing="ij")
    scaled = torch.stack(axes).flatten(1).float() * torch.tensor([8.0, 32.0, 32.0])[:, None]
    scaled[0] = (scaled[0] - 7).clamp(min=0) / 25
    return scaled[None]


def test_the_grid_of_ltxs_condition_pipeline_is_that_of_its_coordinates():
    model, inputs = ltx_inputs(coordinates(2, 3, 4))
    with Probe(model, [I2TMaps()]) as probe, torch.no_grad():
        model(**inputs)
    assert probe.dataset().attrs["grid"] == [2, 3, 4]
    inputs["video_coords"] = torch.cat([coordinates(1, 3, 4), coordinates(2, 3, 4)], -1)
    inputs |= {name: torch.cat([inputs[name][:, :12], inputs[name]], 1) for name in ("hidden_states", "timestep")}
    with pytest.raises(ValueError, match=r"not one grid of 2 x 3 x 4: .* not supported"), Probe(model, [I2TMaps()]):
        model(**inputs)


VISION = "<|vision_start|><|image_pad|><|vision_end|>"


class Edit:
    """A pipeline whose encoder sees images before the words, as Qwen-Image-Edit's: each is ``patches`` tokens."""

    prompt_template_encode = "a moon " + VISION + "{} above sand"
    patches = 6

    def __init__(self, pipe, known=True):
        self.pipe, self.transformer, self.tokenizer = pipe, pipe.transformer, pipe.tokenizer
        self.components, self.scheduler = {"transformer": pipe.transformer}, None
        self.known = known
        self.vae = SimpleNamespace()

    def encode_prompt(self, prompt, image=None, max_sequence_length=64):
        words = len(self.tokenizer(f"{prompt} above sand", add_special_tokens=False)["input_ids"])
        return torch.randn(1, words + (self.patches + 2) * (image is not None), 16), None

    def __call__(self, prompt, image=None):
        embeddings, _ = self.encode_prompt(prompt, image=image)
        with torch.no_grad():
            self.transformer(
                hidden_states=torch.randn(1, 48, 16), encoder_hidden_states=embeddings, timestep=torch.full((1,), 0.5),
                img_shapes=[[(1, 4, 6), (1, 4, 6)]], encoder_hidden_states_mask=torch.ones(embeddings.shape[:2]).long(),
            )  # fmt: skip


def test_the_images_in_qwens_prompt_are_not_its_text():
    pipe = Edit(small_pipeline("qwen-image"))
    with Probe(pipe, [RegionMass(), I2TMaps()]) as probe:
        pipe("a red heart", image=object())
    record = probe.dataset("conditional")
    assert record.attrs["text_tokens"] == 5  # a red heart above sand
    assert record.attrs["extra_tokens"] == 8
    assert (record.attrs["reference_tokens"], record.attrs["reference_grids"]) == (24, "4 x 6")
    assert record.attrs["grid"] == [4, 6]
    mass = record["region_mass"].sel(region="I2T")
    np.testing.assert_allclose(record["i2t"].sum("token").mean(("row", "col")), mass.mean("head"), atol=1e-5)
    with Probe(pipe, [RegionMass()]) as probe:
        pipe("a red heart")
    assert probe.dataset().attrs["text_tokens"] == 5


def test_images_in_a_prompt_that_is_not_described_are_refused():
    pipe = Edit(small_pipeline("qwen-image"))
    pipe.prompt_template_encode = "a moon"
    with (
        pytest.raises(ValueError, match="contains images, and which text positions are theirs is unknown"),
        Probe(pipe, [RegionMass()]),
    ):
        pipe("a red heart", image=object())
