"""Images given to other families than SD3: the twin is the pipeline's own call."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from small_pipelines import MAKERS, small_pipeline

from mmdit_probe import I2TMaps, OpenVocabularySegmenter, UnsupervisedSegmenter
from mmdit_probe.baselines.counters import refined_segmenter
from mmdit_probe.configs import EvaluateConfig, GenerationConfig, GroupConfig, SegmentConfig
from mmdit_probe.configs.baselines import RefineConfig
from mmdit_probe.datasets.registry import held_out_scenes
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.evaluation.tables import tabulate
from mmdit_probe.families import FAMILIES, family_of, named_inputs
from mmdit_probe.pipelines.defaults import model_defaults
from mmdit_probe.pipelines.forward import encode_images, encode_prompts, forward_once, noise_level
from mmdit_probe.pipelines.generation import generation_arguments
from mmdit_probe.pipelines.image_size import token_pixels
from mmdit_probe.segmentation.class_prompts import class_prompts
from mmdit_probe.storage.images import fitted
from mmdit_probe.studies.recording import record_image

TIMESTEP, STEPS, TEXT = 3, 5, 32
NO_GUIDANCE = {
    diffusers.AuraFlowPipeline: 0.0,
    diffusers.ZImagePipeline: 0.0,
    diffusers.BriaPipeline: 1.0,
    diffusers.ChromaPipeline: 1.0,
    diffusers.Flux2KleinPipeline: 1.0,
    diffusers.LongCatImagePipeline: 1.0,
    diffusers.Lumina2Pipeline: 1.0,
    diffusers.OvisImagePipeline: 1.0,
}
"""Of models that are distilled with guidance nothing has to be said."""
PROMPTS = ["a red circle", "sand"]
IMAGE = fitted(scene("test", 0).image, 8, 32)[:24]


@pytest.fixture(scope="module", params=list(MAKERS))
def pipe(request):
    return small_pipeline(request.param)


def recorded(pipe, monkeypatch):
    """The arguments of each call of the transformer, which predicts that nothing moves."""
    calls, transformer = [], pipe.transformer
    main = family_of(transformer).image_argument

    def forward(*args, return_dict=True, **kwargs):
        inputs = dict(named_inputs(transformer, args, kwargs))
        inputs.pop("self", None)
        calls.append(inputs)
        still = [torch.zeros_like(one) for one in inputs[main]] if main == "x" else torch.zeros_like(inputs[main])
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        return Transformer2DModelOutput(still) if return_dict else (still,)

    monkeypatch.setattr(transformer, "forward", forward)
    return calls


def unguided(pipe):
    """Arguments of a call without classifier-free guidance, whose prompt is not written anew."""
    family, known = family_of(pipe.transformer), inspect.signature(type(pipe).__call__).parameters
    wanted = {"max_sequence_length": TEXT, "guidance_scale": NO_GUIDANCE.get(type(pipe)), **family.verbatim_prompt_args}
    return {name: value for name, value in wanted.items() if name in known and value is not None}


def test_the_transformer_is_given_what_the_pipeline_gives_it(pipe, monkeypatch):
    """All of it: packed latents, ids, masks, guidance, text and timestep; and the pipeline decodes our latents as they
    were encoded, since its transformer moves nothing."""
    height, width = IMAGE.shape[:2]
    latents = encode_images(pipe, [IMAGE, IMAGE[::-1]])
    encoded = posterior(pipe)
    sigma = noise_level(pipe, TIMESTEP, STEPS, (height, width))
    calls = recorded(pipe, monkeypatch)
    forward_once(pipe, latents, sigma, encode_prompts(pipe, PROMPTS, TEXT))
    ours, decoded = calls.pop(), []

    def decode(sent, **_):
        decoded.append(sent)
        return (torch.zeros(2, 3, *[1] * (sent.ndim - 4), 8, 8),)

    monkeypatch.setattr(pipe.vae, "decode", decode)
    itself = family_of(pipe.transformer).name in ("flux2", "z-image")  # the pipeline packs them
    start = latents if itself else ours["hidden_states"].clone()
    pipe(
        prompt=PROMPTS,
        latents=start,
        num_inference_steps=STEPS,
        height=height,
        width=width,
        output_type="np",
        **unguided(pipe),
    )
    theirs = calls[STEPS - TIMESTEP]
    for name, value in theirs.items():
        if name in ours:
            torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)
        else:
            assert name in ("joint_attention_kwargs", "attention_kwargs", "guidance"), name
            assert not value
    assert not set(ours) - set(theirs)
    torch.testing.assert_close(decoded[0].reshape(encoded.shape), encoded, rtol=1e-5, atol=1e-5)


def posterior(pipe):
    """What the autoencoder makes of the images, by hand."""
    pixels = torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1) / 127.5 - 1 for p in (IMAGE, IMAGE[::-1])])
    frames = pixels[:, :, None] if family_of(pipe.transformer).name == "qwen-image" else pixels
    return (
        pipe.vae.encode(frames)
        .latent_dist.mode()
        .reshape(2, 4, *(2 * size // token_pixels(pipe) for size in pixels.shape[2:]))
    )


def test_the_timestep_argument_means_the_noise_level(pipe):
    family = family_of(pipe.transformer)
    value = torch.tensor([family.image_input.time(0.3)])
    assert float(family.sigmas(pipe.transformer, value)) == pytest.approx(0.3)


@pytest.mark.parametrize(("steps", "sigma"), [(28, 0.558), (50, 0.376)])
def test_flux_noise_levels_at_its_own_size(steps, sigma):
    """With the proper mu: 1.15 at 4096 tokens."""
    flux = small_pipeline("flux")
    size = 64 * token_pixels(flux)
    assert noise_level(flux, 8, steps, (size, size)) == pytest.approx(sigma, abs=1e-3)
    assert noise_level(flux, 8, steps, (size // 2, size // 2)) < sigma - 0.05
    assert noise_level(flux, steps, steps) == pytest.approx(1)


def test_masks_of_given_images(pipe):
    """A name's map is that of its own tokens, by the strings that the probe has seen there."""
    assert model_defaults(pipe).guidance_scale is None
    names = ["red circle", "sand"]
    config = SegmentConfig(max_sequence_length=TEXT)
    segmentation = OpenVocabularySegmenter(pipe, 1, config)(IMAGE, names)
    assert segmentation.labels.shape == IMAGE.shape[:2]
    (part,) = class_prompts(pipe, names, TEXT)
    squared = fitted(IMAGE[:, :24], token_pixels(pipe), 32)
    generation = GenerationConfig(max_sequence_length=TEXT)
    record = record_image(pipe, squared, part.prompt, [I2TMaps()], (8,), generation).record
    strings = record["token_text"].values
    assert [" ".join(strings[list(span)]) for span in part.spans] == names
    assert record.attrs["source"] == "image"
    assert float(record["sigma"].values[0]) == pytest.approx(noise_level(pipe, 8, 28, squared.shape[:2]))
    regions = UnsupervisedSegmenter(pipe, 1, GroupConfig(max_sequence_length=TEXT))(IMAGE)
    assert np.isfinite(regions.logits).all()


def test_iseg_makes_the_class_words_longer_in_every_family(pipe, monkeypatch):
    """What the transformer is given of the text is the prompt's, the names' rows alone times ``word_scale``."""
    names, seen = ["red circle", "sand"], []
    config = SegmentConfig(refine="iseg", max_sequence_length=TEXT)
    argument = family_of(pipe.transformer).text_argument
    before = pipe.transformer.register_forward_pre_hook(lambda m, a, given: seen.append(given), with_kwargs=True)
    found = refined_segmenter(pipe, 1, config, RefineConfig(word_scale=2.0))(IMAGE, names)
    before.remove()
    assert np.isfinite(found.logits).all()
    assert found.labels.shape == IMAGE.shape[:2]
    (part,) = class_prompts(pipe, names, TEXT)
    plain = encode_prompts(pipe, [part.prompt], TEXT).inputs[argument][0]
    changed = sorted(position for span in part.spans for position in span)
    scale = torch.ones(len(plain), 1)
    scale[changed] = 2.0
    torch.testing.assert_close(seen[0][argument][0], scale * plain)


def test_evaluate_on_flux(tmp_path):
    config = EvaluateConfig(layers=(0, 1), batch=2, max_sequence_length=TEXT)
    flux = small_pipeline("flux")
    whole = tabulate(run_evaluation(flux, held_out_scenes(3), config, tmp_path / "a", "flux"))
    single = tabulate(run_evaluation(flux, held_out_scenes(3), config.__class__(layers=(1,), batch=1, max_sequence_length=TEXT),
                                     tmp_path / "b", "flux"))  # fmt: skip
    assert len(whole.settings) == 2
    assert single.settings["pacc"].item() == pytest.approx(whole.settings["pacc"].iloc[1], abs=1e-3)


def test_defaults_of_other_families_are_their_pipelines_own():
    flux = small_pipeline("flux")
    arguments = generation_arguments(flux, GenerationConfig())
    assert "guidance_scale" not in arguments
    assert arguments["max_sequence_length"] == 512
    assert generation_arguments(flux, GenerationConfig(guidance_scale=2.0))["guidance_scale"] == 2


def test_families_that_cannot_be_given_images_say_which_can():
    able = [family.name for family in FAMILIES if family.image_input is not None]
    assert able == [
        "sd3",
        "flux",
        "flux2",
        "chroma",
        "bria",
        "longcat-image",
        "ovis-image",
        "flux3",
        "qwen-image",
        "auraflow",
        "z-image",
        "lumina2",
    ]


def test_bria_without_a_flow_matching_schedule_says_so():
    """Its pipeline also takes schedules that mix noise in otherwise."""
    pipe = small_pipeline("bria")
    pipe.scheduler = diffusers.DDIMScheduler()
    with pytest.raises(ValueError, match=r"not with DDIMScheduler; set pipe.scheduler to a FlowMatchEuler"):
        noise_level(pipe, 8, 28)


@pytest.mark.parametrize("edit", [diffusers.QwenImageEditPipeline, diffusers.LongCatImageEditPipeline])
def test_pipelines_that_read_images_among_the_words_are_not_given_any(edit):
    """Their prompts are encoded with an image of their own, which is none that a mask is asked of."""
    family = "qwen-image" if edit is diffusers.QwenImageEditPipeline else "longcat-image"
    small = small_pipeline(family)
    parts = {
        name: getattr(small, name) for name in ("transformer", "vae", "scheduler", "components", "_execution_device")
    }
    pipe = type(edit.__name__, (), {**parts, "encode_prompt": edit.encode_prompt, "__call__": edit.__call__})()
    with pytest.raises(ValueError, match=f"{edit.__name__} takes images as part of the prompt"):
        encode_prompts(pipe, ["sand"])


def test_a_length_that_the_template_fills_is_told():
    from mmdit_probe.segmentation.class_prompts import class_prompts

    with pytest.raises(ValueError, match="max_sequence_length: 3 leaves no room for class names next to the"):
        class_prompts(small_pipeline("flux2"), ["sand"], 3)
