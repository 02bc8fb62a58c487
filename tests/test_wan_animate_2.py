"""Wan Animate 2 as its pipeline runs it: segment after segment, each with a call that fills a cache before its steps."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.models.transformers import transformer_wan_animate_2 as wan_animate_2
from models_wan import eager_block_mask
from PIL import Image
from small_pipelines import T5, tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from mmdit_probe import BlurText, I2TMaps, Knockout, Probe, RegionMass
from mmdit_probe.pipelines.call_count import counted_calls
from mmdit_probe.probe import PerturbedGuidance

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
    pytest.mark.filterwarnings("ignore:The Wan.*:UserWarning"),
]
STEPS, SEGMENTS, SIDE, TEXT = 2, 2, 32, 512
"""A segment has five frames, which are two of the latents; the second begins with the last of the first."""
GRID = (2, SIDE // 16, SIDE // 16)


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    transformer = diffusers.WanAnimate2Transformer3DModel(
        in_dim=12, dim=32, ffn_dim=16, freq_dim=8, text_dim=T5["d_model"], out_dim=4, num_heads=2, num_layers=2
    )
    eager_block_mask(transformer, 2, SIDE * SIDE // 256)
    vision = CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        patch_size=112,
        image_size=224,
    )
    pipe = diffusers.modular_pipelines.WanAnimate2Blocks().init_pipeline()
    pipe.update_components(
        text_encoder=UMT5EncoderModel(UMT5Config(**T5)).eval(), tokenizer=tokenizer(), vae=vae.eval(),
        transformer=transformer.eval(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        image_encoder=CLIPVisionModel(vision).eval(),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for weight in transformer.requires_grad_(False).parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return pipe


def animated(pipe, **more):
    picture = Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8))
    frames = [Image.fromarray(np.full((SIDE, SIDE, 3), 20 * number, np.uint8)) for number in range(9)]
    return pipe(
        prompt="a red heart", image=picture, driving_video=frames, height=SIDE, width=SIDE, segment_frame_length=5,
        num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0), output="videos", output_type="np", **more,
    )  # fmt: skip


def test_steps_are_counted_and_the_calls_that_fill_the_cache_are_not(pipe):
    plain = animated(pipe)
    with Probe(pipe, [RegionMass(), I2TMaps()]) as probe:
        probed = animated(pipe)
    np.testing.assert_array_equal(plain, probed)
    record = probe.dataset("conditional")
    assert record["step"].values.tolist() == [0, 1, 2, 3]
    assert record["timestep"].values.tolist() == [2, 1, 2, 1]
    assert record["i2t"].shape[-4:] == (*GRID, TEXT)
    assert record.attrs["words"] == "known"
    kinds = record["token_kind"].values.reshape(-1, TEXT)[0]
    assert record["token_text"].values.reshape(-1, TEXT)[0, kinds == "word"].tolist() == ["a", "red", "heart"]
    assert probe.dataset("unconditional").sizes["call"] == STEPS * SEGMENTS


def caches(pipe, monkeypatch):
    """The keys that are stored, call by call."""
    stored, store = [], wan_animate_2.WanAnimate2KVLayerCache.store
    monkeypatch.setattr(
        wan_animate_2.WanAnimate2KVLayerCache,
        "store",
        lambda cache, key, value: (stored.append(key.clone()), store(cache, key, value))[1],
    )
    return stored


def test_edits_leave_the_driving_video_s_own_prompt_alone(pipe, monkeypatch):
    plain, stored = animated(pipe), caches(pipe, monkeypatch)
    with Probe(pipe, [], edits=[Knockout(0, "I2T")]):
        edited = animated(pipe)
    assert not np.array_equal(plain, edited)
    with_edits = stored[:2]  # of the first segment, whose driving video nothing has changed
    stored.clear()
    animated(pipe)
    assert all(torch.equal(one, other) for one, other in zip(with_edits, stored, strict=False))


def test_guidance_and_progress_keep_to_the_steps(pipe):
    told = []
    plain = animated(pipe)
    with counted_calls(pipe, lambda done, total: told.append(done)):
        animated(pipe)
    assert told[-1] == STEPS * SEGMENTS
    pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=1.0))
    alone = animated(pipe)
    with PerturbedGuidance(pipe, [BlurText(1)], scale=20.0, batched=False):
        guided = animated(pipe)
    assert not np.array_equal(alone, guided)
    pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=3.0))
    np.testing.assert_array_equal(animated(pipe), plain)
