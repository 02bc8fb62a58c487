"""Text positions of other pipelines than SD3's: chat templates, packed padding, prompts of separate calls."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmdit_probe import I2TMaps, Probe
from mmdit_probe.families import FAMILIES
from mmdit_probe.pipelines.prompt_watch import PromptWatch
from mmdit_probe.pipelines.prompts import describe
from mmdit_probe.tiny.tokenizer import END, START, make_tokenizer

CHAT = (
    "{% for m in messages %}a {{ m['content'] if m['content'] is string else m['content'][0]['text'] }} on {% endfor %}"
)


T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def family(name):
    return next(f for f in FAMILIES if f.name == name)


def chat_tokenizer(length=24):
    tokenizer = make_tokenizer(length)
    tokenizer.chat_template = CHAT
    return tokenizer


TEMPLATE = {"template": "on {} above", "crop_start": 2}


class Hunyuan:
    """Encodes the negative prompt by a call of its own."""

    tokenizer = chat_tokenizer()

    def encode_prompt(
        self,
        prompt,
        prompt_template=TEMPLATE,
        max_sequence_length=20,
    ):
        return torch.rand(1, max_sequence_length, 4), torch.rand(1, 8)


def pipe_of(name):
    tokenizer = chat_tokenizer()
    return {
        "qwen-image": SimpleNamespace(
            tokenizer=tokenizer, prompt_template_encode="a moon on {} above sand", prompt_template_encode_start_idx=3
        ),
        "z-image": SimpleNamespace(tokenizer=tokenizer),
        "hunyuan-video": Hunyuan(),
        "flux2": SimpleNamespace(
            tokenizer=SimpleNamespace(tokenizer=tokenizer, apply_chat_template=tokenizer.apply_chat_template),
            system_message="moon",
        ),
    }[name]


@pytest.mark.parametrize(
    ("name", "kinds", "strings"),
    [
        (
            "qwen-image",
            "template word word word template template template padding",
            f"on a red heart above sand {END}",
        ),
        ("z-image", "template template word word word template template padding", f"{START} a a red heart on {END}"),
        ("hunyuan-video", "word word word template template padding", f"a red heart above {END}"),
        ("flux2", "template template template template word word word template padding", "a moon on a a red heart on"),
    ],
)
def test_words_are_told_from_the_template_around_them(name, kinds, strings):
    parts = family(name).text_parts(pipe_of(name), 20)
    text = describe(parts, ["a red heart"])
    assert text.kinds.shape == (1, 20)
    n = len(kinds.split())
    assert list(text.kinds[0, :n]) == kinds.split()
    assert (text.kinds[0, n:] == "padding").all()
    assert list(text.strings[0, : n - 1]) == strings.split()


def clip():
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=1000,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=8,
    )
    return CLIPTextModel(config)


def autoencoder():
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(4,), latent_channels=1, norm_num_groups=2, shift_factor=0.0)


@pytest.fixture
def flux():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from models_flux import SMALL
    from transformers import T5Config, T5EncoderModel

    pipe = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(),
        autoencoder(),
        clip(),
        make_tokenizer(12),
        T5EncoderModel(T5Config(vocab_size=1000, **T5)),
        make_tokenizer(12),
        FluxTransformer2DModel(**{**SMALL, "pooled_projection_dim": 16}),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_flux_marks_the_calls_that_carry_the_negative_prompt(flux):
    with Probe(flux, [I2TMaps()], layers=[0]) as probe:
        for words in ("a red heart", "sand"):
            flux(
                [words, "moon"],
                negative_prompt=["grass", "sea"],
                true_cfg_scale=2.0,
                num_inference_steps=1,
                height=4,
                width=6,
                max_sequence_length=9,
                output_type="latent",
            )
    texts = [call.text for call in probe._calls]
    assert [list(text.conditional) for text in texts] == [[True, True], [False, False]] * 2
    assert [list(text.strings[0, 1:2]) for text in texts] == [["a"], ["grass"], ["sand"], ["grass"]]
    record = probe.dataset()
    assert record.attrs["grid"] == [2, 3]
    assert list(record["token_kind"].values[0, 0, :6]) == ["start", "word", "word", "word", "end", "padding"]
    assert set(record["token_encoder"].values) == {"t5"}
    np.testing.assert_allclose(record["sigma"], 1)


@pytest.fixture
def stable_diffusion():
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from models_cross import unet

    pipe = StableDiffusionPipeline(
        autoencoder(),
        clip(),
        make_tokenizer(12),
        unet(),
        DDIMScheduler(steps_offset=1, clip_sample=False),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_pipeline_with_a_unet(stable_diffusion):
    with Probe(stable_diffusion, [I2TMaps()]) as probe:
        stable_diffusion("a red heart", num_inference_steps=1, height=8, width=16, output_type="latent")
    record = probe.dataset("conditional")
    assert record.attrs["grid"] == [8, 16]
    assert record.attrs["scope"] == "cross"
    assert list(record["token_text"].values[0, 1:4]) == ["a", "red", "heart"]
    np.testing.assert_allclose(record["i2t"].sum("token"), 1, atol=1e-5)


def test_features_passed_on_sample_by_sample():
    """Z-Image makes a list of samples and appends the negative ones to it."""
    pipe = pipe_of("z-image")
    pipe.encode_prompt = lambda prompt, do_classifier_free_guidance=True, max_sequence_length=20: (
        [torch.zeros(7, 2) for _ in prompt],
        [torch.zeros(5, 2) for _ in prompt],
    )
    with PromptWatch(pipe, family("z-image")) as watch:
        made, negative = pipe.encode_prompt(["a red heart", "sand"])
        text = watch.text(made + negative, 4, 8)
    assert list(text.conditional) == [True, True, False, False]
    assert text.is_prompt.sum(1).tolist() == [3, 1, 0, 0]
    assert watch.text([torch.zeros(7, 2)], 4, 8) is not None  # unknown features: the halves as they were encoded
    assert watch.text(made, 4, 2) is None  # words do not fit in two positions


def test_prompts_encoded_one_by_one_are_told_by_their_features():
    with PromptWatch(pipe := Hunyuan(), family("hunyuan-video")) as watch:
        (prompt, _), (negative, _) = pipe.encode_prompt("a red heart"), pipe.encode_prompt("sand")
        texts = [watch.text(features.bfloat16(), 1, 20) for features in (prompt.clone(), negative)]
        assert watch.text(torch.rand(1, 20, 4), 1, 20) is None
    assert [text.is_prompt.sum() for text in texts] == [3, 1]
    assert [bool(text.conditional.all()) for text in texts] == [True, False]


def test_a_pipeline_whose_text_is_not_described_says_so():
    assert family("glm-image").text_parts(None, 8) == []
    with pytest.raises(ValueError, match="text positions of this pipeline are not described"):
        describe([], ["sand"])
