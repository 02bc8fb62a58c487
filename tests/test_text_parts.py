"""Text positions against the pipelines' own prompt encoding: an encoder that shows which token stands where."""

import warnings
from types import SimpleNamespace

import diffusers
import models_cross
import models_flux
import models_image
import models_latents
import models_video
import numpy as np
import pytest
import torch
from small_pipelines import autoencoder, scheduler, small_pipeline
from transformers import ByT5Tokenizer

from mmdit_probe import BlurText, I2TMaps, Probe, WordMaps
from mmdit_probe.configs import GenerationConfig
from mmdit_probe.families import FAMILIES, call_default, family_of
from mmdit_probe.pipelines.generation import generation_arguments
from mmdit_probe.pipelines.prompt_watch import PromptWatch
from mmdit_probe.pipelines.prompts import find_words
from mmdit_probe.probe.guidance import PerturbedGuidance
from mmdit_probe.studies.recording import record_generated
from mmdit_probe.tiny.tokenizer import make_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # ERNIE-Image's sigmas
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
        layers, pooled = (features,) * 12, features[:, 0]
        super().__init__(last_hidden_state=features, hidden_states=layers, pooler_output=pooled)
        self.last_hidden_state, self.hidden_states, self.pooler_output = features, layers, pooled

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


class Autoencoder(torch.nn.Module):
    """What pipelines ask of an autoencoder before they decode."""

    dtype, device = torch.float32, torch.device("cpu")
    spatial_compression_ratio, temporal_compression_ratio, temperal_downsample = 8, 4, (True,) * 3
    config = SimpleNamespace(
        block_out_channels=(4,) * 4, latent_channels=4, scaling_factor=1.0, shift_factor=None, scale_factor_spatial=8,
        scale_factor_temporal=4,
    )  # fmt: skip


def cogview4(side="left"):
    transformer = models_latents.cogview4()
    return diffusers.CogView4Pipeline(tokenizer(side=side), Echo(), Autoencoder(), transformer, scheduler())


def easyanimate():
    """Its tokenizer pads in front; the pipeline tells it not to."""
    used = tokenizer(40, "left")
    return diffusers.EasyAnimatePipeline(Autoencoder(), Echo(), used, models_video.easyanimate(), scheduler())


def bria():
    used = tokenizer()
    return diffusers.BriaPipeline(briaform("bria"), scheduler(use_dynamic_shifting=True), Autoencoder(), Echo(), used)


def bria_fibo(side="right"):
    used, transformer = tokenizer(side=side), briaform("bria-fibo")
    shifting = scheduler(use_dynamic_shifting=True)
    return diffusers.BriaFiboPipeline(transformer, shifting, Autoencoder(), Echo(), used)


def briaform(name):
    transformer = {"bria": diffusers.BriaTransformer2DModel, "bria-fibo": diffusers.BriaFiboTransformer2DModel}[name]
    more = {"joint_attention_dim": 32, "text_encoder_dim": 16} if name == "bria-fibo" else {}
    return transformer(**{**models_flux.SMALL, "axes_dims_rope": [2, 2, 4], "in_channels": 16, **more})


def longcat():
    transformer = diffusers.LongCatImageTransformer2DModel(
        **{**models_flux.SMALL, "in_channels": 64, "pooled_projection_dim": 8}
    )
    used = tokenizer()
    pipe = diffusers.LongCatImagePipeline(scheduler(), Autoencoder(), Echo(), used, None, transformer)
    pipe.tokenizer_max_length = 30
    return pipe


def ovis():
    transformer = diffusers.OvisImageTransformer2DModel(**{**models_flux.SMALL, "in_channels": 16, "out_channels": 16})
    pipe = diffusers.OvisImagePipeline(scheduler(), Autoencoder(), Echo(), tokenizer(40), transformer)
    pipe.system_prompt, pipe.user_prompt_begin_id = "above sand ", 3
    return pipe


def krea2():
    transformer = models_latents.krea2()
    parts = [Autoencoder(), Echo(), tokenizer(60), transformer]
    pipe = diffusers.Krea2Pipeline(
        scheduler(use_dynamic_shifting=True), *parts, text_encoder_select_layers=(2, 3, 5), patch_size=1
    )
    pipe.prompt_template_encode_prefix = "on a moon above "
    pipe.prompt_template_encode_suffix = " under sand"
    pipe.prompt_template_encode_start_idx, pipe.prompt_template_encode_num_suffix_tokens = 4, 4
    return pipe


class Processor:
    """A processor of texts alone."""

    def __init__(self, used):
        self.tokenizer, self.apply_chat_template = used, used.apply_chat_template

    def __call__(self, text, **options):
        return self.tokenizer(text, **options)


def nucleus(side="right"):
    transformer, used = models_latents.nucleus(), tokenizer(300, side)
    transformer.register_to_config(patch_size=2)  # the pipeline packs the latents
    pipe = diffusers.NucleusMoEImagePipeline(transformer, scheduler(), Autoencoder(), Echo(), Processor(used))
    pipe._format_prompt = lambda prompt, system_prompt=None: f"on a moon {prompt} under sand"
    return pipe


class Decoder(Echo):
    """An encoder whose last layer is read."""

    def __init__(self):
        super().__init__()
        layer = torch.nn.Identity()
        self.model = SimpleNamespace(language_model=SimpleNamespace(layers=[layer]))

    def forward(self, **given):
        return self.model.language_model.layers[-1](super().forward(**given).last_hidden_state)


def joyimage(side="left"):
    used, transformer = tokenizer(90, side), models_latents.joyimage()
    pipe = diffusers.JoyImageEditPipeline(scheduler(), Autoencoder(), Decoder(), used, transformer, None, 30)
    pipe.prompt_template_encode = {"image": "on a moon {} under sand"}
    pipe.prompt_template_encode_start_idx = {"image": 2}
    return pipe


def ernie():
    parts = [models_latents.ernie(), Autoencoder(), Echo(12), tokenizer(9, "left"), scheduler()]
    return diffusers.ErnieImagePipeline(*parts)


def prx():
    from diffusers.pipelines.prx import pipeline_prx

    vars(pipeline_prx).setdefault("ftfy", SimpleNamespace(fix_text=str))  # which is not among our dependencies
    parts = [models_latents.prx(), scheduler(), Echo(), tokenizer(), Autoencoder()]
    return diffusers.PRXPipeline(*parts, default_sample_size=None)


class Flux2Encoder(Echo):
    """Of which three layers are laid side by side."""

    def forward(self, **given):
        shown = super().forward(**given)
        shown.hidden_states = (shown.last_hidden_state,) * 40
        return shown


def flux2(klein=False):
    options = {"axes_dims_rope": (2, 2, 2, 2), "timestep_guidance_channels": 8, "joint_attention_dim": 48}
    transformer = diffusers.Flux2Transformer2DModel(**{**models_flux.SMALL, **options, "in_channels": 16})
    used, vae = tokenizer(40, "left"), Autoencoder()
    vae.bn, vae.config = torch.nn.BatchNorm2d(16), SimpleNamespace(**vars(vae.config), batch_norm_eps=1e-4)
    if klein:
        return diffusers.Flux2KleinPipeline(scheduler(), vae, Flux2Encoder(), used, transformer)
    pipe = diffusers.Flux2Pipeline(scheduler(), vae, Flux2Encoder(), used, transformer)
    pipe.system_message = "on a moon"
    return pipe


def cogview3():
    used, vae = tokenizer(), Autoencoder()
    return diffusers.CogView3PlusPipeline(used, Echo(), vae, models_latents.cogview3(), diffusers.DDIMScheduler())


def qwen_image():
    pipe = small_pipeline("qwen-image")
    pipe.tokenizer, pipe.text_encoder = tokenizer(40), Echo()
    return pipe


IMAGE = {"height": 32, "width": 32, "num_inference_steps": 1, "output_type": "latent"}
UNBINNED = IMAGE | {"use_resolution_binning": False}
GUIDED = {"negative_prompt": ["sand", "Grass and lava"], "guidance_scale": 3.0}
LENGTH, LONGER = {"max_sequence_length": 12}, {"max_sequence_length": 21}
INSTRUCTION = ["above red sand", "a moon:"]

CASES = {
    "lumina2": (lumina2, IMAGE | GUIDED | LONGER),
    "lumina2-told": (lumina2, IMAGE | GUIDED | LONGER | {"system_prompt": "under sand"}),
    "pixart-sigma": (pixart, UNBINNED | GUIDED | LENGTH),
    "pixart-alpha": (lambda: pixart(True), UNBINNED | GUIDED | LENGTH | {"clean_caption": False}),
    "sana": (sana, UNBINNED | GUIDED | LENGTH | {"complex_human_instruction": INSTRUCTION}),
    "sana-plain": (sana, UNBINNED | GUIDED | LENGTH | {"complex_human_instruction": None}),
}
CASES |= {
    "cogview4": (cogview4, IMAGE | GUIDED | {"max_sequence_length": 9}),
    "easyanimate": (easyanimate, IMAGE | GUIDED | {"num_frames": 5, "height": 32, "width": 32}),
}
REPHRASED = IMAGE | GUIDED | {"enable_prompt_rewrite": False}
CASES |= {
    "bria": (bria, IMAGE | GUIDED | LENGTH),
    "bria-fibo": (bria_fibo, IMAGE | GUIDED | LENGTH),
    "bria-fibo-left": (lambda: bria_fibo("left"), IMAGE | GUIDED | LENGTH),
    "longcat": (longcat, REPHRASED),
    "ovis": (ovis, IMAGE | GUIDED | LENGTH),
}
CASES |= {
    "krea2": (krea2, IMAGE | GUIDED | LENGTH),
    "nucleus": (nucleus, IMAGE | GUIDED | {"max_sequence_length": 16}),
    "nucleus-left": (lambda: nucleus("left"), IMAGE | GUIDED | {"max_sequence_length": 16}),
    "joyimage": (joyimage, IMAGE | GUIDED | LONGER),
    "joyimage-right": (lambda: joyimage("right"), IMAGE | GUIDED),
    "ernie": (ernie, IMAGE | GUIDED),
    "prx": (prx, UNBINNED | GUIDED),
    "prx-cut": (prx, UNBINNED | GUIDED | {"tokenizer_max_length": 8, "skip_text_cleaning": True}),
}
CASES |= {
    "flux2": (flux2, IMAGE | {"max_sequence_length": 24}),
    "flux2-klein": (lambda: flux2(True), IMAGE | {"max_sequence_length": 24, "guidance_scale": 1.0}),
    "cogview3": (cogview3, IMAGE | GUIDED | LENGTH),
    "qwen-image": (qwen_image, IMAGE | {"negative_prompt": GUIDED["negative_prompt"], "true_cfg_scale": 3.0}),
}
CUT = {"lumina2": 5, "lumina2-told": 6, "cogview4": 7, "krea2": 6, "ernie": 7, "prx-cut": 6}
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


def checked(text, features, pipe):
    """Each row's words, once every token is known to stand where the features have it."""
    length = text.kinds.shape[1]
    numbers = features[..., -2].numpy()
    seen = (features[..., -3].numpy() == 1) & (numbers != made_of(pipe).pad_token_id)  # CogView4 masks nothing
    np.testing.assert_array_equal(text.kinds != "padding", seen[:, :length])
    assert not seen[:, length:].any()
    rows = []
    for row in range(len(text.kinds)):
        there = np.flatnonzero(seen[row, :length])
        named = made_of(pipe).convert_ids_to_tokens(numbers[row, there].astype(int).tolist())
        assert [token.replace("</w>", "") for token in named] == list(text.strings[row, there])
        rows.append((bool(text.conditional[row]), " ".join(text.strings[row][text.is_prompt[row]])))
    return rows


def watched(pipe, prompts, options):
    """For each call of the transformer what the probe says of its text, and the features that it was given."""
    given = []
    with Probe(pipe, []) as probe:
        name = probe.family.text_argument
        hook = pipe.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: given.append(kwargs[name]), with_kwargs=True
        )
        pipe(prompt=prompts, **options)
        hook.remove()
    return [(call.text, features.flatten(2)) for call, features in zip(probe._calls, given, strict=True)]


def made_of(pipe):
    return pipe.tokenizer if hasattr(pipe, "tokenizer") else pipe.processor.tokenizer


def shown(pipe):
    """Each token's string by its number."""
    return lambda number: made_of(pipe).convert_ids_to_tokens(int(number)).replace("</w>", "")


@pytest.mark.parametrize("name", CASES)
def test_the_text_positions_of_a_pipelines_calls(name):
    """Every token stands where the transformer is given it, padding where it was masked, in the prompt's own rows."""
    pipe, options = made(name), dict(CASES[name][1])
    prompts = ["a Red heart", "sand under an orange half moon on lava"]
    if name.startswith("prx"):  # whose pipeline guides one prompt at a time
        prompts, options["negative_prompt"] = prompts[1:], options["negative_prompt"][1:]
    calls = watched(pipe, prompts, options)
    rows = [row for text, features in calls for row in checked(text, features, pipe)]
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
    [text] = [text.rows(text.conditional.astype(bool)) for text, _ in calls if text.conditional.any()]
    told = {"max_sequence_length": call_default(pipe, "max_sequence_length")}
    told |= {name: value for name, value in options.items() if name not in IMAGE}
    parts = family_of(pipe.transformer).parts_of(pipe, told)
    assert find_words(parts, "a red heart", ["red", "heart"]) == [
        np.flatnonzero(text.spelling(word)[0]).tolist() for word in ("red", "heart")
    ]


TEMPLATE = {"template": "on {} above", "crop_start": 2}


@pytest.mark.parametrize("told", [{}, {"prompt_template": TEMPLATE}])
def test_framepack_reads_a_chat_without_its_beginning(told):
    """Each half in a call of its own; the negative prompt's features are known from the prompt's."""
    used, family = tokenizer(40), next(family for family in FAMILIES if family.name == "framepack")
    parts = [None, None, scheduler(), Echo(), tokenizer(), None, None]
    pipe = diffusers.HunyuanVideoFramepackPipeline(Echo(), used, *parts)
    with PromptWatch(pipe, family) as watch:
        halves = [pipe.encode_prompt(prompt, max_sequence_length=500, **told)[0] for prompt in ("a red heart", "sand")]
        texts = [watch.text(features.clone(), 1, 500) for features in halves]
    rows = [checked(text, features, pipe) for text, features in zip(texts, halves, strict=True)]
    assert [row[0][0] for row in rows] == [True, False]
    assert rows[0][0][1].endswith("a red heart")
    assert texts[0].is_prompt.sum() == 3


class Through(torch.nn.Module):
    """A projection that keeps what the encoder shows, at the end of the width."""

    def forward(self, features, *rest):
        return torch.nn.functional.pad(features, (16 - features.shape[-1], 0))


def hunyuan15():
    transformer = models_video.hunyuan15()
    transformer.register_to_config(in_channels=9)
    transformer.x_embedder.proj = torch.nn.Conv3d(9, 16, (1, 2, 2), (1, 2, 2))
    transformer.context_embedder, transformer.context_embedder_2 = Through(), Through()
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    parts = [transformer, Autoencoder(), scheduler(), Echo(6), ByT5Tokenizer(), guider]
    pipe = diffusers.HunyuanVideo15Pipeline(Echo(), tokenizer(80), *parts)
    pipe.system_message, pipe.prompt_template_encode_start_idx = "on a moon above", 4
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length, pipe.vision_num_semantic_tokens = 20, 60, 3
    transformer.cond_type_embed.weight.data.zero_()
    return pipe


QUOTED = 'sand "sea \u00e9" on a heart'


@pytest.mark.parametrize("negative", [None, ["", "sand"]])
def test_hunyuan_reads_quoted_texts_as_bytes_before_the_prompt(negative):
    """Tokens as they reach the first block, where all padding stands behind; an image that is not given is masked."""
    pipe, given = hunyuan15(), []
    pipe.set_progress_bar_config(disable=True)
    hook = pipe.transformer.transformer_blocks[0].register_forward_pre_hook(lambda module, args: given.append(args[1]))
    with Probe(pipe, []) as probe:
        pipe(
            ["a red heart", QUOTED],
            negative,
            num_frames=1,
            height=16,
            width=16,
            num_inference_steps=1,
            output_type="latent",
        )
    hook.remove()
    prompt, negative_call = ((call.text, features) for call, features in zip(probe._calls, given, strict=True))
    for text, features in (prompt, negative_call):
        assert text.kinds.shape == (2, 83) == features.shape[:2]
        numbers, seen = features[..., -2].int().numpy(), features[..., -3].numpy() == 1
        np.testing.assert_array_equal(np.isin(text.kinds, ["padding", "absent"]), ~seen)
        for kinds, there in zip(text.kinds, seen, strict=True):
            assert (kinds[there.sum() :][:3] == "absent").all()  # the image's positions come before all other padding
    assert prompt[0].conditional.all()
    assert not negative_call[0].conditional.any()
    text, features = prompt
    numbers = features[..., -2].int().numpy()
    bytes_of, words_of = ByT5Tokenizer(), tokenizer()
    glyphs = 'Text "sea \u00e9". '
    assert bytes_of.decode(numbers[1][: len(glyphs.encode())]) == glyphs
    for row, start in ((0, 0), (1, len(glyphs.encode()) + 1)):
        there = np.flatnonzero((features[row, :, -3] == 1).numpy())[start:]
        named = words_of.convert_ids_to_tokens(numbers[row, there].tolist())
        plain = [token.replace("</w>", "") for token in named]
        shown = [
            token if token.isascii() else string for token, string in zip(plain, text.strings[row, there], strict=True)
        ]
        assert shown == list(text.strings[row, there])
    assert list(text.strings[1][text.spelling("sea")[1]]) == list("seasea")
    assert list(text.strings[1][text.spelling("\u00e9")[1]])[:2] == ["\u00e9", ""]
    assert list(text.strings[0][text.is_prompt[0]]) == ["a", "red", "heart"]
    assert (text.kinds[0] == "absent").sum() == 3
    assert set(text.encoders[: int((features[0, :, -3] == 1).sum())]) == {"qwen"}  # of the first row


@pytest.mark.parametrize("negative", [None, "", ["", "sand"]])
def test_bria_without_a_negative_prompt_has_zeros_in_its_place(negative):
    pipe = made("bria")
    prompts = ["a red heart", "sand"] if isinstance(negative, list) else ["a red heart"]
    [(text, features)] = watched(pipe, prompts, IMAGE | LENGTH | {"negative_prompt": negative})
    assert (text.kinds[: len(prompts)] == "absent").all()
    assert not features[: len(prompts)].any()
    assert text.conditional.tolist() == [False] * len(prompts) + [True] * len(prompts)


def test_cogview3_without_a_negative_prompt_has_zeros_in_its_place():
    [(text, features)] = watched(made("cogview3"), ["a red heart"], IMAGE | LENGTH | {"guidance_scale": 3.0})
    assert (text.kinds[0] == "absent").all()
    assert not features[0].any()
    assert text.conditional.tolist() == [False, True]


@pytest.mark.parametrize("negative", [None, ["", "grass and lava"]])
def test_fibo_begins_a_text_for_an_empty_prompt(negative):
    pipe = made("bria-fibo")
    [(text, features)] = watched(pipe, ["a red heart", "sand"], IMAGE | LENGTH | {"negative_prompt": negative})
    for kinds, shown in zip(text.kinds, features, strict=True):
        np.testing.assert_array_equal(kinds == "start", shown[:, -2] == 128000)
        np.testing.assert_array_equal(kinds != "padding", shown[:, -3] == 1)
    assert (text.kinds[0] == "start").sum() == (1 if negative is None else 5)


def test_fibo_is_guided_in_the_layers_that_are_told_of_the_text():
    """Its transformer is given a list of features, one for each layer and not for each sample."""
    pipe, images = made("bria-fibo"), []
    for batched in (True, False):
        with PerturbedGuidance(pipe, [BlurText(0)], 2.0, batched=batched):
            options = IMAGE | LENGTH | {"generator": torch.Generator().manual_seed(0)}
            images.append(pipe("a red heart", **options).images)
    torch.testing.assert_close(*images)


@pytest.mark.parametrize("name", ["flux2", "cogview3"])
def test_commands_give_the_prompt_by_name(name):
    """In some pipelines images come before it."""
    generation = GenerationConfig(steps=2, height=32, width=32, max_sequence_length=24)
    record = record_generated(made(name), "a red heart", [I2TMaps()], (1, 2), generation).record
    words = record["token_text"].values[record["token_kind"].values == "word"]
    assert set(words.ravel()) == {"a", "red", "heart"}


def test_longcat_reads_quoted_texts_letter_by_letter():
    pipe, prompt = made("longcat"), "a 'red' heart on sand's \"lava\""
    options = IMAGE | {"enable_prompt_rewrite": False, "guidance_scale": 3.0}
    calls = watched(pipe, prompt, options)
    assert checked(*calls[0], pipe)[0] == (True, "a ' r e d ' heart on sand ' s \" l a v a \"")
    assert checked(*calls[1], pipe) == [(False, "")]
    assert calls[0][0].spelling("red")[0].sum() == 3


def test_a_prompt_that_the_pipeline_would_write_anew_is_drawn_as_given():
    """The words that are looked up are those of the prompt, so the commands turn rewriting off."""
    assert generation_arguments(made("longcat"), GenerationConfig())["enable_prompt_rewrite"] is False


def test_wan_mends_the_prompt():
    pipe = diffusers.WanPipeline(tokenizer(), None, Autoencoder(), scheduler(), models_cross.wan())
    parts = family_of(pipe.transformer).text_parts(pipe, 9)
    assert find_words(parts, "  a&amp;#32; red   heart", ["heart"]) == [[3]]


def test_words_are_read_beside_a_shorter_negative_prompt():
    """In calls of its own a negative prompt has fewer text positions than the words that are looked for."""
    pipe = made("lumina2")
    parts = family_of(pipe.transformer).text_parts(pipe, 24)
    with Probe(pipe, [WordMaps(find_words(parts, "a red heart", ["heart"]))]) as probe:
        pipe("a red heart", guidance_scale=3.0, max_sequence_length=24, **IMAGE)
    maps = probe.dataset("conditional")["word_map"]
    assert (maps > 0).all()
    assert (probe.dataset("unconditional")["word_map"] == 0).all()
