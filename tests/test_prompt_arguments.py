"""Words belong to the argument that fed them: each text encoder's positions carry its own prompt."""

import numpy as np
import pytest
import torch
from small_pipelines import small_pipeline
from transformers import T5Config, T5EncoderModel

from mmdit_probe import I2TMaps, Knockout, Probe
from mmdit_probe.families import TextPart
from mmdit_probe.pipelines.prompts import describe, find_words
from mmdit_probe.tiny.tokenizer import make_tokenizer

SIZE = {"height": 32, "width": 32, "num_inference_steps": 1, "output_type": "latent", "max_sequence_length": 16}
SHORT = {"num_inference_steps": 1, "output_type": "latent", "max_sequence_length": 12}


def words(record, encoder=None):
    """Each batch row's words, of one encoder or of all."""
    text, kinds = (record[name].values.reshape(-1, record.sizes["token"]) for name in ("token_text", "token_kind"))
    there = (record["token_encoder"].values == encoder) if encoder else np.ones(record.sizes["token"], bool)
    return [" ".join(row[(kind == "word") & there]) for row, kind in zip(text, kinds, strict=True)]


@pytest.fixture
def with_t5(random_pipe):
    width = random_pipe.transformer.config.joint_attention_dim
    config = T5Config(vocab_size=1000, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    random_pipe.register_modules(text_encoder_3=T5EncoderModel(config).eval(), tokenizer_3=make_tokenizer(20))
    return random_pipe


@pytest.mark.parametrize(
    ("given", "negative", "expected"),
    [
        ({}, {}, ["moon", "a red circle"]),
        ({"prompt_2": "a blue star"}, {}, ["moon", "a blue star"]),
        ({"prompt_2": ""}, {"negative_prompt_2": ""}, ["moon", "a red circle"]),
        ({"prompt_2": ["a blue star"]}, {"negative_prompt_2": "sand and lava"}, ["sand and lava", "a blue star"]),
    ],
)
def test_flux_has_the_words_of_t5s_prompt(given, negative, expected):
    pipe = small_pipeline("flux")
    with Probe(pipe, [I2TMaps()]) as probe, torch.no_grad():
        pipe("a red circle", negative_prompt="moon", true_cfg_scale=2.0, **given, **negative, **SIZE)
    assert words(probe.dataset("unconditional")) + words(probe.dataset("conditional")) == expected


@pytest.mark.parametrize(
    ("given", "clip", "t5"),
    [
        ({}, ["moon", "a red circle"], ["moon", "a red circle"]),
        ({"prompt_3": "a blue star above sand"}, ["moon", "a red circle"], ["moon", "a blue star above sand"]),
        ({"negative_prompt_3": "lava"}, ["moon", "a red circle"], ["lava", "a red circle"]),
    ],
)
def test_sd3_has_the_words_of_each_encoders_prompt(with_t5, given, clip, t5):
    with Probe(with_t5, [I2TMaps()]) as probe, torch.no_grad():
        with_t5("a red circle", negative_prompt="moon", **given, **SHORT)
    assert words(probe.dataset(), "clip") == clip
    assert words(probe.dataset(), "t5") == t5


def test_an_edit_changes_the_tokens_of_the_encoder_that_read_the_word(with_t5):
    """The star is T5's alone; the circle is CLIP's alone."""
    prompts = {"prompt": "a red circle", "prompt_3": "a blue star above sand"}
    for word, position in (("star", 24 + 3), ("circle", 3)):
        with Probe(with_t5, [I2TMaps()], layers=[2], edits=[Knockout(1, words=[word])]) as probe, torch.no_grad():
            with_t5(**prompts, guidance_scale=1.0, **SHORT)
        found = probe.running.text.spelling(word)[0]
        assert np.flatnonzero(found).tolist() == [position]


def test_two_encoders_in_the_same_positions_show_both_words_and_refuse_one_alone(random_pipe):
    with Probe(random_pipe, [I2TMaps()]) as probe, torch.no_grad():
        random_pipe("a red circle", prompt_2="a red star", guidance_scale=1.0, **SHORT)
    assert words(probe.dataset()) == ["a red circle | star"]
    text = probe.running.text
    assert np.flatnonzero(text.spelling("red")[0]).tolist() == [2]
    for word in ("circle", "star"):
        with pytest.raises(ValueError, match=f"'{word}' is in the prompt of only one of two text encoders"):
            text.spelling(word)
    with (
        pytest.raises(ValueError, match="only one of two text encoders"),
        Probe(random_pipe, [], edits=[Knockout(1, words=["star"])]),
    ):
        random_pipe("a red circle", prompt_2="a red star", guidance_scale=1.0, **SHORT)
    with Probe(random_pipe, [I2TMaps()]) as probe, torch.no_grad():  # one prompt: one word
        random_pipe("a red circle", prompt_2="a red circle", guidance_scale=1.0, **SHORT)
    assert words(probe.dataset()) == ["a red circle"]
    assert probe.running.text.other is None


def test_every_part_falls_back_as_pipelines_do():
    """Hidream's four prompts: the first argument of a part that is given feeds it, also in batches."""
    used = make_tokenizer(8)
    t5 = TextPart("t5", used, 8, arguments=("prompt_3", "prompt"))
    llama = TextPart("llama", used, 8, arguments=("prompt_4", "prompt"))
    given = {"prompt": ["a red heart", "sand"], "prompt_2": ["unread"] * 2, "prompt_4": ["lava", "grass"]}
    text = describe([t5, llama], given, {"prompt": ["moon"], "prompt_3": ["moon"]})
    rows = [" ".join(row[there]) for row, there in zip(text.strings, text.is_prompt, strict=True)]
    assert rows == ["moon moon", "a red heart lava", "sand grass"]
    assert find_words([t5, llama], "a red heart", ["red"]) == [[2, 8 + 2]]  # studies have one prompt for all
