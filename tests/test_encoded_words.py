"""Text positions against the prompt encoding of pipelines that are too large to run here: every token where it is encoded."""

import sys
from types import SimpleNamespace

import diffusers
import models_joint
import numpy as np
import pytest
import torch
from small_pipelines import scheduler
from test_text_parts import QUOTED, Autoencoder, Echo, Processor, Through, checked, tokenizer
from transformers import ByT5Tokenizer

from mmdit_probe import Probe, RegionMass
from mmdit_probe.families import FAMILIES
from mmdit_probe.pipelines.prompt_watch import PromptWatch

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PROMPTS, NEGATIVE = ["a red heart", "sand under an orange half moon"], ["sand", "lava and grass"]


def wan_vace():
    return diffusers.WanVACEPipeline(tokenizer(), Echo(), Autoencoder(), None)


def wan_animate():
    return diffusers.WanAnimatePipeline(tokenizer(), Echo(), Autoencoder(), None, None, None, None)


def chronoedit():
    return diffusers.ChronoEditPipeline(tokenizer(), Echo(), None, None, None, Autoencoder(), None)


def skyreels():
    return diffusers.SkyReelsV2Pipeline(tokenizer(), Echo(), None, Autoencoder(), None)


def helios():
    return diffusers.HeliosPipeline(tokenizer(), Echo(), Autoencoder(), None, None)


def anyflow():
    return diffusers.AnyFlowPipeline(tokenizer(), Echo(), None, Autoencoder(), None)


def motif():
    return diffusers.MotifVideoPipeline(
        scheduler=None, vae=Autoencoder(), text_encoder=Echo(), tokenizer=tokenizer(), transformer=None, guider=None
    )


def allegro():
    vae = Autoencoder()
    vae.config = SimpleNamespace(**vars(vae.config), temporal_compression_ratio=4)
    return diffusers.AllegroPipeline(tokenizer(), Echo(), vae, None, None)


class Normed(Echo):
    """An encoder that is read before its last norm."""

    def __init__(self):
        super().__init__()
        self.model = SimpleNamespace(norm=torch.nn.Identity())


class Chats(Processor):
    def __init__(self, used):
        super().__init__(used)
        self.apply_chat_template = lambda chat, **options: [[0, 0]]  # as many tokens as are cut off


def qwen21():
    used = Chats(tokenizer(60))
    pipe = diffusers.QwenImage21Pipeline(
        scheduler=None, vae=None, text_encoder=Normed(), processor=used, transformer=None
    )
    pipe.prompt_template_t2i = "a moon {} under sand"
    return pipe


def ideogram4():
    pipe = diffusers.Ideogram4Pipeline(scheduler(), Autoencoder(), Echo(), tokenizer(40), None, None)

    def read(encoder, token_ids, attention_mask, positions):
        return [encoder(token_ids, attention_mask).last_hidden_state]

    pipe._get_text_encoder_hidden_states = read
    return pipe


ENCODERS = {
    "wan-vace": (wan_vace, 16),
    "wan-animate": (wan_animate, 16),
    "chronoedit": (chronoedit, 16),
    "skyreels-v2": (skyreels, 16),
    "helios": (helios, 16),
    "anyflow": (anyflow, 16),
    "motif-video": (motif, 16),
    "allegro": (allegro, 16),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_words_are_where_the_pipeline_encodes_them(name):
    make, length = ENCODERS[name]
    pipe, family = make(), next(family for family in FAMILIES if family.name == name)
    # not among our dependencies
    vars(sys.modules[type(pipe).__module__]).setdefault("ftfy", SimpleNamespace(fix_text=str))
    with PromptWatch(pipe, family) as watch:
        guided = {"do_classifier_free_guidance": True} if name != "motif-video" else {}
        encoded = pipe.encode_prompt(PROMPTS, negative_prompt=NEGATIVE, max_sequence_length=length, **guided)
        halves = [half for half in encoded if half is not None and half.ndim == 3]
        texts = [watch.text(half.clone(), 2, length) for half in halves]
    rows = [row for text, half in zip(texts, halves, strict=True) for row in checked(text, half, pipe)]
    expected = [(True, prompt) for prompt in PROMPTS] + [(False, prompt) for prompt in NEGATIVE]
    assert sorted(rows) == sorted(expected)
    assert [text.conditional.all() for text in texts] == [True, False]


def family(name):
    return next(family for family in FAMILIES if family.name == name)


def test_qwen_image_21_cuts_the_systems_turn_and_moves_padding_behind():
    pipe = qwen21()
    with PromptWatch(pipe, family("qwen-image-2.1")) as watch:
        features, *_ = pipe.encode_prompt(PROMPTS)
        text = watch.text(features.clone(), 2, features.shape[1])
    pipe.tokenizer = pipe.processor.tokenizer
    assert [words for _, words in checked(text, features, pipe)] == PROMPTS
    kept = text.strings[1][text.kinds[1] != "padding"]  # start and "a" are cut off, the end is kept
    assert list(kept)[:-1] == ["moon", *PROMPTS[1].split(), "under", "sand"]


def test_ideogram_pads_in_front_of_the_chat():
    pipe = ideogram4()
    with PromptWatch(pipe, family("ideogram4")) as watch:
        features, *_ = pipe.encode_prompt(PROMPTS, grid_h=3, grid_w=4, max_sequence_length=20, device="cpu")
        text = watch.text(features.clone(), 2, 20)
    assert features.shape[1] == 20 + 12
    assert [words for _, words in checked(text, features, pipe)] == PROMPTS
    assert (text.kinds[:, 0] == "padding").all()


def hunyuan_image():
    transformer = models_joint.hunyuan_image()
    transformer.context_embedder, transformer.context_embedder_2 = Through(), Through()
    vae, guider = Autoencoder(), diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    vae.config = SimpleNamespace(**vars(vae.config), spatial_compression_ratio=8)
    parts = [scheduler(), vae, Echo(), tokenizer(80), Echo(), ByT5Tokenizer(), transformer, guider, guider]
    pipe = diffusers.HunyuanImagePipeline(*parts)
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "on a moon above {}", 4
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length = 20, 60
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_hunyuan_image_has_quoted_bytes_before_the_prompt():
    """Tokens as they reach the first block, where all padding stands behind."""
    pipe, given = hunyuan_image(), []
    first = pipe.transformer.transformer_blocks[0]
    hook = first.register_forward_pre_hook(lambda module, args, options: given.append(args[1]), with_kwargs=True)
    size = {"height": 96, "width": 128, "num_inference_steps": 1, "output_type": "latent"}
    with Probe(pipe, [RegionMass()]) as probe:
        pipe(["a red heart", QUOTED], ["", "sand"], **size)
    hook.remove()
    assert [call.conditional.all() for call in probe._calls] == [True, False]
    for call, features in zip(probe._calls, given, strict=True):
        seen = features[..., -3].numpy() == 1
        np.testing.assert_array_equal(call.text.kinds == "padding", ~seen)
    text, features = probe._calls[0].text, given[0]
    numbers, glyphs = features[..., -2].int().numpy(), 'Text "sea \u00e9". '
    assert ByT5Tokenizer().decode(numbers[1][: len(glyphs.encode())]) == glyphs
    assert list(text.strings[1][text.spelling("sea")[1]]) == list("seasea")
    assert list(text.strings[0][text.is_prompt[0]]) == ["a", "red", "heart"]
