"""Text positions against the prompt encoding of pipelines that are too large to run here: every token where it is encoded."""

import sys
from types import SimpleNamespace

import diffusers
import pytest
from test_text_parts import Autoencoder, Echo, checked, tokenizer

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


ENCODERS = {
    "wan-vace": (wan_vace, 16),
    "wan-animate": (wan_animate, 16),
    "chronoedit": (chronoedit, 16),
    "skyreels-v2": (skyreels, 16),
    "helios": (helios, 16),
    "anyflow": (anyflow, 16),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_words_are_where_the_pipeline_encodes_them(name):
    make, length = ENCODERS[name]
    pipe, family = make(), next(family for family in FAMILIES if family.name == name)
    # not among our dependencies
    vars(sys.modules[type(pipe).__module__]).setdefault("ftfy", SimpleNamespace(fix_text=str))
    with PromptWatch(pipe, family) as watch:
        encoded = pipe.encode_prompt(
            prompt=PROMPTS, negative_prompt=NEGATIVE, do_classifier_free_guidance=True, max_sequence_length=length
        )
        halves = [half for half in encoded if half is not None][:2]
        texts = [watch.text(half.clone(), 2, length) for half in halves]
    rows = [row for text, half in zip(texts, halves, strict=True) for row in checked(text, half, pipe)]
    expected = [(True, prompt) for prompt in PROMPTS] + [(False, prompt) for prompt in NEGATIVE]
    assert sorted(rows) == sorted(expected)
    assert [text.conditional.all() for text in texts] == [True, False]
