"""Prompts that no `encode_prompt` is given as they are: OmniGen's and others' in the call; MiniMax-H3's in a modular step."""

import sys
from importlib import import_module
from types import SimpleNamespace

import diffusers
import models_joint
import models_unets
import numpy as np
import pytest
import torch
from PIL import Image
from small_pipelines import scheduler
from test_text_parts import Autoencoder, Decoder, Echo, Processor, checked, tokenizer

from mmdit_probe import Probe, WordMaps
from mmdit_probe.families import FAMILIES, text_parts_of
from mmdit_probe.families.modular import encoded_prompts
from mmdit_probe.pipelines.prompt_watch import PromptWatch
from mmdit_probe.pipelines.prompts import find_words

PROMPTS = ["a red heart", "sand under an orange half moon"]


@pytest.fixture
def omnigen(monkeypatch):
    """Without torchvision, which only given images pass."""
    module = import_module("diffusers.pipelines.omnigen.processor_omnigen")
    anything = SimpleNamespace(**dict.fromkeys(("Compose", "Lambda", "ToTensor", "Normalize"), lambda *_, **__: None))
    monkeypatch.setitem(vars(module), "transforms", anything)
    own = vars(sys.modules[diffusers.OmniGenPipeline.__module__])
    monkeypatch.setitem(own, "OmniGenMultiModalProcessor", module.OmniGenMultiModalProcessor)
    transformer = models_joint.omnigen()
    transformer.embed_tokens = torch.nn.Embedding(1000, transformer.embed_tokens.embedding_dim)
    transformer.eval().requires_grad_(False)
    used = tokenizer(2000)
    pipe = diffusers.OmniGenPipeline(transformer, scheduler(invert_sigmas=True), Autoencoder(), used)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe, prompts, **more):
    ids = []
    parts = text_parts_of(pipe, 0)
    with Probe(pipe, [WordMaps(find_words(parts, "a red heart", ["red", "heart"]))]) as probe:
        hook = pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: ids.append(kwargs["input_ids"]), with_kwargs=True
        )
        pipe(prompts, height=64, width=96, num_inference_steps=1, output_type="latent", **more)
        hook.remove()
    return probe, ids


@pytest.mark.parametrize(("prompts", "images"), [(PROMPTS[0], 1), (PROMPTS, 1), (PROMPTS, 2)])
def test_every_token_stands_where_the_pipeline_puts_it(omnigen, prompts, images):
    probe, [ids] = drawn(omnigen, prompts, num_images_per_prompt=images)
    [call] = probe._calls
    assert call.text.kinds.shape == ids.shape
    rows = 1 if isinstance(prompts, str) else 2
    assert list(call.branches) == ["conditional"] * rows * images + ["unconditional"] * rows * images
    for row, numbers in enumerate(ids.tolist()):
        there = np.flatnonzero(call.text.kinds[row] != "padding")
        assert there[-1] == len(numbers) - 1  # padding stands in front
        named = omnigen.tokenizer.convert_ids_to_tokens([numbers[place] for place in there])
        strings = call.text.strings[row, there]
        assert [token.replace("</w>", "") for token in named] == list(strings)
    for number, prompt in enumerate([prompts] if isinstance(prompts, str) else prompts):
        row = number * images
        assert " ".join(call.text.strings[row][call.text.is_prompt[row]]) == prompt
    words = np.flatnonzero(call.text.spelling("red")[0]).tolist()
    assert find_words(text_parts_of(omnigen, 0), "a red heart", ["red"]) == [words]
    record = probe.dataset("conditional")
    assert record.sizes["batch"] == rows * images
    assert (record["word_map"].isel(batch=0) > 0).all()


def test_prompts_with_images_have_no_words(omnigen):
    assert probe_parts(omnigen, {"prompt": "a heart like <img><|image_1|></img>", "input_images": [object()]}) == []
    assert len(probe_parts(omnigen, {"prompt": "a heart"})) == 1


def probe_parts(pipe, arguments):
    with Probe(pipe, []) as probe, torch.no_grad():
        return probe.family.parts_of(pipe, arguments)


class Conditioner(Echo):
    """Whose 51st hidden state is read, of its inner model."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(hidden_size=16, text_config=SimpleNamespace(num_hidden_layers=51))
        self.model = self.shown

    def shown(self, **given):
        shown = super().forward(**given)
        shown.hidden_states = (shown.last_hidden_state,) * 52
        return shown


def test_minimax_h3_reads_the_bare_prompt():
    step = import_module("diffusers.modular_pipelines.minimax_h3.encoders").MiniMaxH3TextEncoderStep()
    pipe = step.init_pipeline()
    pipe.tokenizer, pipe.text_encoder = tokenizer(), Conditioner()
    pipe.processor = SimpleNamespace(create_mm_token_type_ids=lambda rows: [[0] * len(row) for row in rows])
    family = next(family for family in FAMILIES if family.name == "minimax-h3")
    with PromptWatch(pipe, family) as watch:
        features = encoded_prompts(pipe, ["sand under an orange half moon"], 0, together=False)["prompt_embeds"]
        text = watch.text(features.clone(), 1, features.shape[1])
    assert checked(text, features, pipe) == [(True, "sand under an orange half moon")]
    assert text.kinds.shape == features.shape[:2]
    assert family.parts_of(pipe, {"prompt": "sand", "keyframes": [object()]}) == []


def dreamlite(kind=diffusers.DreamLitePipeline):
    """With a short template: the tokenizer of the tests spells most words letter by letter."""
    used = tokenizer(60)
    pipe = kind(Echo(), used, Processor(used), Autoencoder(), models_unets.dreamlite(), scheduler())
    pipe.set_progress_bar_config(disable=True)
    pipe.prompt_template_encode_generate, pipe.prompt_template_encode_generate_start_idx = "on a moon {} under sand", 2
    return pipe


def joyimage_plus(side="left"):
    used = tokenizer(120, side)
    parts = [scheduler(), Autoencoder(), Decoder(), used, models_joint.joyimage_plus(), Processor(used), 30]
    pipe = diffusers.JoyImageEditPlusPipeline(*parts)
    pipe.set_progress_bar_config(disable=True)
    pipe.prompt_template_encode = {"multiple_images": "on a moon {}under sand"}
    pipe.prompt_template_encode_start_idx = {"multiple_images": 2}
    return pipe


def carried(pipe, prompt, **options):
    """What the probe says of the text of the only call, and the features that the model was given."""
    given = []
    with Probe(pipe, []) as probe, torch.no_grad():
        model = probe.transformer
        hook = model.register_forward_pre_hook(lambda _, __, kwargs: given.append(kwargs), with_kwargs=True)
        pipe(prompt=prompt, num_inference_steps=1, output_type="latent", height=32, width=32, **options)
        hook.remove()
    [call] = probe._calls
    return call, given[0]["encoder_hidden_states"]


@pytest.mark.parametrize("negative", [None, "sand under lava and an orange half moon"])
def test_dreamlite_begins_the_prompt_with_its_task(negative):
    pipe = dreamlite()
    call, features = carried(pipe, "a red heart", negative_prompt=negative)
    assert checked(call.text, features, pipe) == [(False, negative or ""), (True, "a red heart")]
    assert list(call.branches) == ["unconditional", "conditional"]
    there = np.flatnonzero(call.text.spelling("red")[1]).tolist()
    assert find_words(text_parts_of(pipe), "a red heart", ["red"]) == [there]


def test_dreamlite_for_telephones_has_no_negative_prompt():
    pipe = dreamlite(diffusers.DreamLiteMobilePipeline)
    call, features = carried(pipe, "a red heart", num_images_per_prompt=2)
    assert checked(call.text, features, pipe) == [(True, "a red heart")] * 2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("options", "negative"),
    [
        ({}, ["", ""]),
        ({"guidance_scale": 1.0}, []),
        (
            {"negative_prompt": ["sand", "lava and grass on a moon and sand"]},
            ["sand", "lava and grass on a moon and sand"],
        ),
        ({"negative_prompt": "sand"}, ["sand", "sand"]),
    ],
)
def test_joyimage_plus_reads_prompts_without_images(side, options, negative):
    pipe = joyimage_plus(side)
    call, features = carried(pipe, PROMPTS, **options)
    rows = [(False, prompt) for prompt in negative] + [(True, prompt) for prompt in PROMPTS]
    assert checked(call.text, features, pipe) == rows


def test_words_among_given_images_are_unknown():
    assert probe_parts(joyimage_plus(), {"prompt": PROMPTS, "images": [object()]}) == []
    assert probe_parts(dreamlite(), {"prompt": "a heart", "image": object()}) == []


class VideoAutoencoder(Autoencoder):
    config = SimpleNamespace(
        **vars(Autoencoder.config), z_dim=2, latents_mean=[0.0, 0.0], latents_std=[1.0, 1.0], patch_size=None
    )

    def encode(self, video):
        frames, rows, cols = video.shape[2:]
        return SimpleNamespace(latents=torch.zeros(1, 2, (frames - 1) // 4 + 1, rows // 8, cols // 8))


def cosmos3():
    transformer = models_joint.cosmos3()
    transformer.embed_tokens = torch.nn.Embedding(1000, transformer.embed_tokens.embedding_dim)
    pipe = diffusers.Cosmos3OmniPipeline(
        transformer.eval().requires_grad_(False),
        tokenizer(2000),
        VideoAutoencoder(),
        scheduler(),
        enable_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    ("options", "negative"),
    [
        ({}, ""),
        ({"negative_prompt": "sand under lava.", "guidance_scale": 4.0}, "sand under lava"),
        ({"use_system_prompt": False, "add_resolution_template": False}, ""),
        ({"image": Image.new("RGB", (96, 64)), "num_frames": 5}, ""),
    ],
)
def test_cosmos3_recognizes_prompts_by_their_ids(options, negative):
    """Its prompt is one of a chat that also says what is made; every call has one prompt alone."""
    pipe, ids = cosmos3(), []
    with Probe(pipe, []) as probe, torch.no_grad():
        hook = pipe.transformer.register_forward_pre_hook(
            lambda _, __, kwargs: ids.append(kwargs["input_ids"].tolist()), with_kwargs=True
        )
        given = {"num_frames": 1, "num_inference_steps": 1, "output_type": "latent", **options}
        pipe("a red heart", height=64, width=96, **given)
        hook.remove()
    assert [list(call.branches) for call in probe._calls] == [["conditional"], ["unconditional"]]
    for call, numbers, prompt in zip(probe._calls, ids, ("a red heart", negative), strict=True):
        named = [token.replace("</w>", "") for token in pipe.text_tokenizer.convert_ids_to_tokens(numbers)]
        assert list(call.text.strings[0]) == named
        assert " ".join(call.text.strings[0][call.text.is_prompt[0]]) == prompt
    there = np.flatnonzero(probe._calls[0].text.spelling("red")[0]).tolist()
    if not options:
        assert find_words(text_parts_of(pipe), "a red heart", ["red"]) == [there]
    assert probe_parts(pipe, {"prompt": "a heart", "action": object()}) == []
