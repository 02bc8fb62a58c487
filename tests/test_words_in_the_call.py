"""Prompts that no `encode_prompt` tokenizes: OmniGen's, in its call; MiniMax-H3's, in a step of its modular pipeline."""

import sys
from importlib import import_module
from types import SimpleNamespace

import diffusers
import models_joint
import numpy as np
import pytest
import torch
from small_pipelines import scheduler
from test_text_parts import Autoencoder, Echo, checked, tokenizer

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
