"""Text positions against the pipelines' own prompt encoding: an encoder that shows which token stands where."""

import warnings
from types import SimpleNamespace

import diffusers
import models_cross
import models_image
import numpy as np
import pytest
import torch
from small_pipelines import autoencoder, scheduler

from mmdit_probe import Probe, WordMaps
from mmdit_probe.families import family_of
from mmdit_probe.prompts import find_words
from mmdit_probe.tiny.tokenizer import make_tokenizer

PAD = "z</w>"
"""A padding token that is neither start nor end."""

CHAT = (
    "{% for m in messages %}a {{ m['content'] if m['content'] is string else m['content'][0]['text'] }} on {{ eos_token }}"
    "{% endfor %}"
)


class Echo(torch.nn.Module):
    """A text encoder whose features say which token it was given at each position, and whether it was masked.

    From right to left in the width: 1 for every position, the token's number, 1 if it was seen.
    """

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, width=16):
        super().__init__()
        self.config = SimpleNamespace(d_model=width, hidden_size=width)

    def forward(self, input_ids=None, attention_mask=None, **options):
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        features = torch.zeros(*input_ids.shape, self.config.hidden_size)
        features[..., -3:] = torch.stack([seen.long(), input_ids, torch.ones_like(input_ids)], -1).float()
        return Shown(features)


class Shown(dict):
    """As an encoder's output is read: by place, by name, or each layer's."""

    def __init__(self, features):
        super().__init__(last_hidden_state=features)
        self.last_hidden_state, self.hidden_states, self.pooler_output = features, (features,) * 12, features[:, 0]

    def __getitem__(self, key):
        return self.last_hidden_state if key == 0 else super().__getitem__(key)


def tokenizer(length=24, side="right"):
    made = make_tokenizer(length, PAD)
    made.padding_side, made.chat_template = side, CHAT
    return made


def lumina2():
    pipe = diffusers.Lumina2Pipeline(models_image.lumina2(), scheduler(), autoencoder(), Echo(), tokenizer())
    pipe.system_prompt = "on a moon"
    return pipe


def pixart(alpha=False):
    pipe = diffusers.PixArtAlphaPipeline if alpha else diffusers.PixArtSigmaPipeline
    return pipe(tokenizer(), Echo(), autoencoder(), models_cross.pixart(), diffusers.DDIMScheduler())


def sana(sprint=False):
    vae = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2, encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), upsample_block_type="interpolate", downsample_block_type="stride_conv",
    )  # fmt: skip
    return diffusers.SanaPipeline(tokenizer(40), Echo(), vae, models_cross.sana(), scheduler())


PICTURE = {"height": 32, "width": 32, "num_inference_steps": 1, "output_type": "latent"}
UNBINNED = PICTURE | {"use_resolution_binning": False}
GUIDED = {"negative_prompt": ["sand", "Grass and lava"], "guidance_scale": 3.0}
LENGTH, LONGER = {"max_sequence_length": 12}, {"max_sequence_length": 21}
INSTRUCTION = ["above red sand", "a moon:"]

CASES = {
    "lumina2": (lumina2, PICTURE | GUIDED | LONGER),
    "lumina2-told": (lumina2, PICTURE | GUIDED | LONGER | {"system_prompt": "under sand"}),
    "pixart-sigma": (pixart, UNBINNED | GUIDED | LENGTH),
    "pixart-alpha": (lambda: pixart(True), UNBINNED | GUIDED | LENGTH | {"clean_caption": False}),
    "sana": (sana, UNBINNED | GUIDED | LENGTH | {"complex_human_instruction": INSTRUCTION}),
    "sana-plain": (sana, UNBINNED | GUIDED | LENGTH | {"complex_human_instruction": None}),
}
CUT = {"lumina2": 5, "lumina2-told": 6}
"""Where the prompt is cut: these templates take some of the length."""


def made(name):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = CASES[name][0]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def watched(pipe, prompts, options):
    """For each call of the transformer what the probe says of its text, and the features that it was given."""
    given = []
    with Probe(pipe, []) as probe:
        name = probe.family.features
        hook = pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: given.append(kwargs[name]), with_kwargs=True
        )
        pipe(prompts, **options)
        hook.remove()
    return [(call.text, features.flatten(2)) for call, features in zip(probe._calls, given, strict=True)]


def shown(pipe):
    """Each token's string by its number."""
    used = pipe.tokenizer if hasattr(pipe, "tokenizer") else pipe.processor.tokenizer
    return lambda number: used.convert_ids_to_tokens(int(number)).replace("</w>", "")


@pytest.mark.parametrize("name", CASES)
def test_the_text_positions_of_a_pipelines_calls(name):
    """Every token stands where the transformer is given it, padding where it was masked, in the prompt's own rows."""
    pipe, options = made(name), CASES[name][1]
    prompts = ["a Red heart", "sand under an orange half moon on lava"]
    calls = watched(pipe, prompts, options)
    string = shown(pipe)
    rows = []
    for text, features in calls:
        assert text is not None
        length = text.kinds.shape[1]
        seen, numbers = features[..., -3].numpy() == 1, features[..., -2].numpy()
        np.testing.assert_array_equal(text.kinds != "padding", seen[:, :length])
        assert not seen[:, length:].any()
        for row in range(len(text.kinds)):
            there = np.flatnonzero(seen[row, :length])
            assert [string(number) for number in numbers[row, there]] == list(text.strings[row, there])
            words = " ".join(text.strings[row][text.is_prompt[row]])
            rows.append((bool(text.conditional[row]), words))
    lost = CUT.get(name)
    expected = [(True, " ".join(prompt.lower().split()[:lost])) for prompt in prompts]
    expected += [(False, " ".join(prompt.lower().split()[:lost])) for prompt in options.get("negative_prompt", ())]
    assert sorted(rows) == sorted(expected)


@pytest.mark.parametrize("name", CASES)
def test_words_of_a_prompt_are_where_the_call_has_them(name):
    """What the commands look up beforehand is what the probe sees of the one prompt."""
    pipe, options = made(name), dict(CASES[name][1])
    guided = list(options.pop("negative_prompt", ()))[:1]
    calls = watched(pipe, ["a red heart"], options | ({"negative_prompt": guided} if guided else {}))
    [text] = [text.conditional_rows() for text, _ in calls if text.conditional.any()]
    told = {name: value for name, value in options.items() if name not in PICTURE}
    parts = family_of(pipe.transformer).parts_of(pipe, told)
    assert find_words(parts, "a red heart", ["red", "heart"]) == [
        np.flatnonzero(text.spelling(word)[0]).tolist() for word in ("red", "heart")
    ]


def test_words_are_read_beside_a_shorter_negative_prompt():
    """In calls of its own a negative prompt has fewer text positions than the words that are looked for."""
    pipe = made("lumina2")
    parts = family_of(pipe.transformer).text_parts(pipe, 24)
    with Probe(pipe, [WordMaps(find_words(parts, "a red heart", ["heart"]))]) as probe:
        pipe("a red heart", guidance_scale=3.0, max_sequence_length=24, **PICTURE)
    maps = probe.dataset("conditional")["word_map"]
    assert (maps > 0).all()
    assert (probe.dataset("unconditional")["word_map"] == 0).all()
