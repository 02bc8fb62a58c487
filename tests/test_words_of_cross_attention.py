"""Words of the models with plain cross-attention: every token where the pipeline's own prompt encoding puts it."""

import sys
from types import SimpleNamespace

import diffusers
import models_cross_video
import models_unets
import numpy as np
import pytest
import torch
from small_pipelines import scheduler
from test_text_parts import Autoencoder, Echo, Processor, checked, tokenizer

from mmdit_probe import Probe, WordMaps
from mmdit_probe.families import FAMILIES, denoiser_of, family_of, text_parts_of
from mmdit_probe.pipelines.prompt_watch import PromptWatch
from mmdit_probe.pipelines.prompts import find_words

PROMPTS, NEGATIVE = ["a red heart", "sand under an orange half moon"], ["sand", "lava and grass on a moon and sand"]
PLAIN = {"clean_caption": False}


def family(name):
    return next(family for family in FAMILIES if family.name == name)


def sana_video():
    return diffusers.SanaVideoPipeline(tokenizer(40), Echo(), None, None, None)


def sana_wm():
    return diffusers.SanaWMPipeline(tokenizer(40), Echo(), None, None, None)


def latte():
    return diffusers.LattePipeline(tokenizer(), Echo(), None, None, None)


def kandinsky5(kind=diffusers.Kandinsky5T2VPipeline):
    pipe = kind(None, None, Echo(), Processor(tokenizer(60)), Echo(), tokenizer(), None)
    pipe.prompt_template, pipe.prompt_template_encode_start_idx = "on a moon above {} under sand", 4
    return pipe


def kandinsky6():
    """With a short template: the tokenizer of the tests spells most words letter by letter."""
    module = vars(sys.modules[diffusers.Kandinsky6TI2VAPipeline.__module__])
    module["_PROMPT_TEMPLATE"], module["_QWEN_CROP_START"] = "on a moon above {} under sand", 4
    return diffusers.Kandinsky6TI2VAPipeline(None, None, Echo(), Processor(tokenizer(60)), Echo(), tokenizer(), None)


def cosmos(kind=diffusers.CosmosTextToWorldPipeline):
    vae = Autoencoder()
    vae.config = SimpleNamespace(
        **vars(vae.config), temporal_compression_ratio=4, spatial_compression_ratio=8, z_dim=2, latents_mean=[0.0, 0.0],
        latents_std=[1.0, 1.0],
    )  # fmt: skip
    return kind(
        text_encoder=Echo(),
        tokenizer=tokenizer(60),
        transformer=None,
        vae=vae,
        scheduler=scheduler(),
        safety_checker=Echo(),
    )


def hunyuan_dit():
    parts = [None, Echo(), tokenizer(), None, None, None, None, False, Echo(), tokenizer()]
    return diffusers.HunyuanDiTPipeline(*parts)


def lumina_next():
    return diffusers.LuminaPipeline(None, None, None, Echo(), tokenizer(256))


def pixart_alpha():
    return diffusers.PixArtAlphaPipeline(tokenizer(), Echo(), None, None, None)


def kandinsky3():
    return diffusers.Kandinsky3Pipeline(tokenizer(), Echo(), None, None, None)


def text_to_video():
    return diffusers.TextToVideoSDPipeline(None, Echo(), tokenizer(12), None, None)


def animatediff():
    return diffusers.AnimateDiffPipeline(None, Echo(), tokenizer(12), None, None, None)


class Pooling(Echo):
    """An encoder that also gives one embedding of the whole text."""

    def forward(self, *args, **options):
        shown = super().forward(*args, **options)
        shown.text_embeds = shown.last_hidden_state[:, 0]
        return shown


def cascade():
    return diffusers.StableCascadePriorPipeline(tokenizer(12), Pooling(), None, None)


INSTRUCTION = ["above red sand", "a moon:"]
GUIDED = {"do_classifier_free_guidance": True}
CASES = {
    "sana-video": (sana_video, 16, GUIDED | PLAIN | {"complex_human_instruction": INSTRUCTION}),
    "latte": (latte, 120, GUIDED | PLAIN),
    "kandinsky6": (kandinsky6, 16, GUIDED),
    "cosmos": (cosmos, 16, GUIDED),
    "lumina-next": (lumina_next, 8, GUIDED | PLAIN),
    "transformer-2d": (pixart_alpha, 16, GUIDED | PLAIN),
    "kandinsky3": (kandinsky3, 9, GUIDED | {"_cut_context": True}),
    "unet-3d": (text_to_video, 12, GUIDED | {"device": "cpu", "num_images_per_prompt": 1}),
    "animatediff": (animatediff, 12, GUIDED | {"device": "cpu", "num_images_per_prompt": 1}),
    "stable-cascade": (cascade, 12, GUIDED | {"device": "cpu", "batch_size": 2, "num_images_per_prompt": 1}),
}
LENGTHS = {"sana-video", "kandinsky6", "cosmos", "transformer-2d"}
"""Those whose number of text positions is told."""
SHORT = {"lumina-next": 6, "kandinsky3": 8}
"""How many words of the negative prompts remain: they are cut to the prompts' length."""


@pytest.fixture(autouse=True)
def _cleaning():
    """What some pipelines clean prompts with is not among our dependencies."""
    for name, module in list(sys.modules.items()):
        if name.startswith("diffusers.pipelines.") and hasattr(module, "prompt_clean"):
            vars(module).setdefault("ftfy", SimpleNamespace(fix_text=str))


def rows_of(watch, pipe, encoded, length):
    if isinstance(pipe.tokenizer, Processor):
        pipe.tokenizer = pipe.tokenizer.tokenizer
    halves = [half for half in encoded if half is not None and half.ndim == 3 and half.shape[1] > 1]
    texts = [watch.text(half.clone(), len(half), length) for half in halves]
    rows = [checked(text, half, pipe) for text, half in zip(texts, halves, strict=True)]
    return [row for some in rows for row in some]


def expected(prompts=PROMPTS, negative=NEGATIVE, words=None):
    cut = [" ".join(text.split()[:words]) for text in negative]
    return sorted([(True, text) for text in prompts] + [(False, text) for text in cut])


@pytest.mark.parametrize("name", CASES)
def test_words_are_where_the_pipeline_encodes_them(name):
    make, length, options = CASES[name]
    pipe, again = make(), make()
    told = {"max_sequence_length": length} if name in LENGTHS else {}
    with PromptWatch(pipe, family(name)) as watch:
        encoded = pipe.encode_prompt(prompt=PROMPTS, negative_prompt=NEGATIVE, **options, **told)
        rows = rows_of(watch, pipe, encoded, length)
    assert sorted(rows) == expected(words=SHORT.get(name))
    found = find_words(family(name).parts_of(again, {**options, **told}), PROMPTS[0], ["red", "heart"])
    with PromptWatch(again, family(name)) as watch:
        encoded = again.encode_prompt(prompt=PROMPTS, negative_prompt=NEGATIVE, **options, **told)
        text = watch.text(encoded[0], 2, encoded[0].shape[1])
    assert found == [np.flatnonzero(text.spelling(word)[0]).tolist() for word in ("red", "heart")]


def test_kandinsky5_encodes_the_negative_prompt_in_a_call_of_its_own():
    """Without padding to a length: each call has its longest prompt's."""
    pipe = kandinsky5()
    with PromptWatch(pipe, family("kandinsky5")) as watch:
        halves = [pipe.encode_prompt(prompts, max_sequence_length=16)[0] for prompts in (PROMPTS, NEGATIVE)]
        texts = [watch.text(half.clone(), 2, half.shape[1]) for half in halves]
    pipe.tokenizer = pipe.tokenizer.tokenizer
    rows = [row for text, half in zip(texts, halves, strict=True) for row in checked(text, half, pipe)]
    assert sorted(rows) == expected()
    assert {text.kinds.shape[1] for text in texts} == {half.shape[1] for half in halves}


def test_sana_wm_reads_its_prompt_after_an_instruction():
    pipe = sana_wm()
    with PromptWatch(pipe, family("sana-wm")) as watch:
        encoded = pipe.encode_prompt(PROMPTS[1], NEGATIVE[1], max_sequence_length=16, chi_prompt=INSTRUCTION)
        halves = [encoded[0], encoded[2]]
        texts = [watch.text(half.clone(), 1, 16) for half in halves]
    rows = [row for text, half in zip(texts, halves, strict=True) for row in checked(text, half[:, 0], pipe)]
    assert rows == [(True, PROMPTS[1]), (False, NEGATIVE[1])]
    assert text_parts_of(pipe_with(pipe, "sana-wm"), 16)[0].template.count("\n") > 1  # the pipeline's own instruction


def pipe_with(pipe, name):
    """The pipeline with a small transformer of its family."""
    kinds = {"sana-wm": models_cross_video.sana_wm, "cosmos": models_cross_video.cosmos}
    pipe.transformer = kinds[name]()
    return pipe


@pytest.mark.parametrize("name", ["latte", "kandinsky3"])
def test_one_prompt_has_its_padding_cut_off_and_its_negative_prompt_too(name):
    make, _, options = CASES[name]
    pipe, prompt, negative = make(), "a red heart", "lava and grass on a moon and sand"
    with PromptWatch(pipe, family(name)) as watch:
        encoded = pipe.encode_prompt(prompt=prompt, negative_prompt=negative, **options)
        length = encoded[0].shape[1]
        rows = rows_of(watch, pipe, encoded[:2], length)
    assert length < 10
    assert sorted(rows) == expected([prompt], [negative], words=length - 1)


def test_latte_keeps_the_padding_if_it_is_told_to():
    pipe = latte()
    with PromptWatch(pipe, family("latte")) as watch:
        encoded = pipe.encode_prompt(prompt="a red heart", negative_prompt="sand", mask_feature=False, **GUIDED | PLAIN)
        assert sorted(rows_of(watch, pipe, encoded, 120)) == expected(["a red heart"], ["sand"])


def test_kandinsky3_without_a_negative_prompt_has_zeros_in_its_place():
    pipe = kandinsky3()
    with PromptWatch(pipe, family("kandinsky3")) as watch:
        _, negative, *_ = pipe.encode_prompt("a red heart", _cut_context=True)
        text = watch.text(negative.clone(), 1, negative.shape[1])
    assert not negative.any()
    assert (text.kinds == "absent").all()
    assert not text.conditional.any()


@pytest.mark.parametrize(("name", "make"), [("kandinsky6", kandinsky6), ("cosmos", cosmos)])
def test_pipelines_with_a_negative_prompt_of_their_own(name, make):
    """It stands in the rows of the negative prompt."""
    pipe = make()
    with PromptWatch(pipe, family(name)) as watch:
        encoded = pipe.encode_prompt(prompt=PROMPTS[0], max_sequence_length=60, **GUIDED)
        rows = rows_of(watch, pipe, encoded, 60)
    assert rows[0] == (True, PROMPTS[0])
    own = {"kandinsky6": "static , 2", "cosmos": "the video"}[name]
    assert not rows[1][0]
    assert rows[1][1].replace(" ", "").startswith(own.replace(" ", ""))


def test_cosmos_25_reads_a_chat():
    pipe = cosmos(diffusers.Cosmos2_5_PredictBasePipeline)
    with PromptWatch(pipe, family("cosmos")) as watch:
        encoded = pipe.encode_prompt(prompt=PROMPTS, negative_prompt=NEGATIVE, max_sequence_length=160, **GUIDED)
        texts = [watch.text(half.clone(), 2, 160) for half in encoded]
    rows = []
    for text, half in zip(texts, encoded, strict=True):
        shown = half[..., -16:]  # of the last layer, normalized: zeros, whether it was seen, the token's number, 1
        zero, one = shown[..., 0], shown[..., -1]
        numbers = ((shown[..., -2] - zero) / (one - zero)).round()
        rows += checked(text, torch.stack([torch.ones_like(zero), numbers, one], -1), pipe)
    assert sorted(rows) == expected()


def test_hunyuan_dit_reads_two_encoders_one_behind_the_other():
    """Each is asked in a call of its own; the transformer's text argument is the first one's."""
    pipe = hunyuan_dit()
    lengths = {0: 77, 1: 256}
    with PromptWatch(pipe, family("hunyuan-dit")) as watch:
        halves = [
            pipe.encode_prompt(
                prompt=PROMPTS, negative_prompt=NEGATIVE, dtype=torch.float32, device="cpu",
                max_sequence_length=lengths[number], text_encoder_index=number, **GUIDED,
            )[:2]
            for number in (0, 1)
        ]  # fmt: skip
        first = [half.clone() for half in halves[0]]
        texts = [watch.text(half, 2, 77 + 256) for half in first]
    rows = []
    for text, *parts in zip(texts, *halves, strict=True):
        rows += checked(text, torch.cat(parts, 1), pipe)
    assert sorted(rows) == expected([f"{text} {text}" for text in PROMPTS], [f"{text} {text}" for text in NEGATIVE])
    assert list(texts[0].encoders[[0, 76, 77, -1]]) == ["bert", "bert", "mt5", "mt5"]


def test_bria_fibo_2_reads_a_chat_and_leaves_images_among_the_words_unknown():
    pipe = diffusers.BriaFibo2Pipeline(None, None, None, Echo(), Processor(tokenizer(60)))
    pipe.prompt_template_encode, pipe.text_encoder_out_layers = "on a moon {} under sand", ((0, 1), (2, 3))
    unit = pipe.text_encoder.forward

    def read(*args, **options):
        options.pop("images", None)
        return unit(*args, **options)

    pipe.text_encoder.forward = read
    with PromptWatch(pipe, family("bria-fibo-2")) as watch:
        features, _ = pipe.encode_prompt(PROMPTS)
        text = watch.text(features.clone(), 2, features.shape[2])
    shown = features[:, 0, :, :16]
    numbers = (shown[..., -2] / shown[..., -1]).round()  # scaled to unit length
    seen = (shown[..., -3] / shown[..., -1]).round()
    pipe.tokenizer = pipe.processor.tokenizer
    assert [words for _, words in checked(text, torch.stack([seen, numbers, numbers], -1), pipe)] == PROMPTS
    assert family("bria-fibo-2").parts_of(pipe, {"prompt": "sand", "text_images": [[object()]]}) == []


class Sizes(torch.nn.Module):
    """What LTX-2's pipeline asks of its two autoencoders."""

    dtype, device = torch.float32, torch.device("cpu")
    spatial_compression_ratio, temporal_compression_ratio, mel_compression_ratio = 32, 8, 4
    config = SimpleNamespace(sample_rate=1600, mel_hop_length=40, mel_bins=4, latent_channels=4, scaling_factor=1.0)
    latents_mean, latents_std = torch.zeros(4), torch.ones(4)


def ltx2():
    connectors = diffusers.pipelines.ltx2.LTX2TextConnectors(
        caption_channels=16, text_proj_in_factor=12, video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8, video_connector_num_layers=0, video_connector_num_learnable_registers=4,
        audio_connector_num_attention_heads=2, audio_connector_attention_head_dim=8, audio_connector_num_layers=0,
        audio_connector_num_learnable_registers=4,
    )  # fmt: skip
    weights = connectors.text_proj_in.weight.data.zero_().unflatten(1, (16, 12))
    for place, feature in ((1, -1), (2, -2)):  # the constant and the token's number, each less a channel of zeros
        weights[place, feature, 0], weights[place, 0, 0] = 1.0, -1.0
    transformer = models_cross_video.ltx2()
    pipe = diffusers.LTX2Pipeline(
        scheduler(), Sizes(), Sizes(), Echo(), tokenizer(20), connectors, transformer, Sizes()
    )
    for part in (transformer, connectors):
        part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


SMALL = {"height": 64, "width": 96, "num_frames": 9, "num_inference_steps": 2, "output_type": "latent"}


@pytest.mark.parametrize("perturbed", [False, True])
def test_ltx2_has_its_words_where_the_connectors_move_them(perturbed):
    """Registers stand in the padding's place; a further, perturbed call of the prompt is told from the prompt's own."""
    pipe, given = ltx2(), []
    options = SMALL | {"max_sequence_length": 12, "negative_prompt": "lava", "guidance_scale": 3.0}
    options |= {
        "stg_scale": float(perturbed),
        "modality_scale": 1.0 + perturbed,
        "audio_stg_scale": 0.0,
        "audio_modality_scale": 1.0,
    }
    options |= {"spatio_temporal_guidance_blocks": [1]}
    parts = family("ltx-2").parts_of(pipe, {"max_sequence_length": 12})
    words = find_words(parts, " a red heart", ["red", "heart"])
    assert words == [[2], [3]]
    with Probe(pipe, [WordMaps(words)]) as probe:
        hook = pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: given.append(kwargs["encoder_hidden_states"]), with_kwargs=True
        )
        pipe(" a red heart", **options)
        hook.remove()
    calls = probe._calls
    assert len(calls) == (6 if perturbed else 2)
    for call, features in zip(calls, given, strict=True):
        assert call.text.kinds.shape == features.shape[:2]
        numbers = (features[..., 2] / features[..., 1]).round().int()
        for row, kinds in enumerate(call.text.kinds):
            there = np.flatnonzero(kinds != "padding")
            named = pipe.tokenizer.convert_ids_to_tokens(numbers[row, there].tolist())
            assert [token.replace("</w>", "") for token in named] == list(call.text.strings[row, there])
    assert list(calls[0].branches) == ["unconditional", "conditional"]
    assert calls[0].text.strings[1][calls[0].text.is_prompt[1]].tolist() == ["a", "red", "heart"]
    if perturbed:
        assert [list(call.branches) for call in calls if len(call.branches) == 1] == [["perturbed"]] * 4
    record = probe.dataset("conditional")
    assert record.sizes["batch"] == 1
    assert record["step"].values.tolist() == [0, 1]
    assert list(record["token_text"].values.ravel()[1:4]) == ["a", "red", "heart"]


def test_stable_cascades_prompt_comes_before_its_negative_prompt():
    """The pooled embeddings beside the words' are not taken for the negative prompt's."""
    pipe = cascade()
    pipe.prior = models_unets.cascade()
    assert denoiser_of(pipe) is pipe.prior
    with PromptWatch(pipe, family_of(pipe.prior)) as watch:
        prompt, _, negative, _ = pipe.encode_prompt("cpu", 1, 1, True, prompt="a red heart", negative_prompt="sand")
        text = watch.text(torch.cat([prompt, negative]), 2, 12)
    assert text.conditional.tolist() == [True, False]
    words = [" ".join(row[kept]) for row, kept in zip(text.strings, text.is_prompt, strict=True)]
    assert words == ["a red heart", "sand"]
