"""Which batch rows and calls are the prompt's, the negative prompt's or perturbed, whosever loop it is."""

import contextlib

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from small_pipelines import small_pipeline

from mmdit_probe import BlurText, I2TMaps, Knockout, Probe, RegionMass
from mmdit_probe.studies.recording import by_timestep

SD3 = {"num_inference_steps": 2, "output_type": "latent", "max_sequence_length": 0}
FLUX = {"num_inference_steps": 2, "output_type": "latent", "max_sequence_length": 16, "height": 32, "width": 32}


def seeded():
    return torch.Generator().manual_seed(0)


def read(target, pipe, *prompts, **given):
    with Probe(target, [I2TMaps()]) as probe, torch.no_grad():
        pipe(*prompts, generator=seeded(), **given)
    return probe


def branches(probe):
    return [list(call.branches) for call in probe._calls]


@pytest.fixture
def embeddings(random_pipe):
    names = "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"
    with torch.no_grad():
        return dict(
            zip(names, random_pipe.encode_prompt("a red circle", None, None, max_sequence_length=0), strict=True)
        )


def test_given_embeddings_have_branches_but_no_words(random_pipe, embeddings):
    wanted = read(random_pipe, random_pipe, "a red circle", **SD3).dataset("conditional")
    record = read(random_pipe, random_pipe, **embeddings, **SD3).dataset("conditional")
    np.testing.assert_array_equal(record["i2t"], wanted["i2t"])
    assert "token_text" not in record.coords
    assert record.attrs["words"].startswith("unknown: no prompt was seen")
    with (
        pytest.raises(ValueError, match="need the prompt's tokens, which are unknown here"),
        Probe(random_pipe, [], edits=[Knockout(1, words=["red"])]),
    ):
        random_pipe(**embeddings, **SD3)


def test_edits_of_given_embeddings_leave_the_negative_rows_alone(random_pipe, embeddings):
    def outputs(edits):
        seen = []
        hook = random_pipe.transformer.register_forward_hook(lambda m, a, out: seen.append(out[0]))
        with Probe(random_pipe, [], edits=edits), torch.no_grad():
            random_pipe(generator=seeded(), **embeddings, **{**SD3, "num_inference_steps": 1})
        hook.remove()
        return seen[0]

    plain, edited = outputs([]), outputs([BlurText(1)])
    assert torch.equal(plain[0], edited[0])
    assert not torch.equal(plain[1], edited[1])


def test_embeddings_encoded_inside_have_their_words_in_every_run(random_pipe):
    with Probe(random_pipe, [I2TMaps()]) as probe, torch.no_grad():
        made = [
            random_pipe.encode_prompt(p, None, None, max_sequence_length=0) for p in ("a red circle", "sand", "lava")
        ]
        for prompt, negative, pooled, negative_pooled in made:
            random_pipe(
                prompt_embeds=prompt, negative_prompt_embeds=negative, pooled_prompt_embeds=pooled,
                negative_pooled_prompt_embeds=negative_pooled, **SD3,
            )  # fmt: skip
    record = probe.dataset("conditional")
    assert record.sizes["call"] == 6
    words = [" ".join(text[kind == "word"]) for text, kind in zip(
        record["token_text"].values[:, 0], record["token_kind"].values[:, 0], strict=True)]  # fmt: skip
    assert words == ["a red circle"] * 2 + ["sand"] * 2 + ["lava"] * 2


def test_embeddings_that_a_callback_puts_in_the_prompts_place_are_not_labelled_as_the_prompt(random_pipe):
    with torch.no_grad():
        other = random_pipe.encode_prompt("a blue star", None, None, max_sequence_length=0)

    def swap(pipe, step, timestep, tensors):
        return {**tensors, "prompt_embeds": torch.cat([other[1], other[0]])}

    probe = read(
        random_pipe, random_pipe, "a red circle", callback_on_step_end=swap,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"], **SD3,
    )  # fmt: skip
    assert [call.text is None for call in probe._calls] == [False, True]
    with pytest.raises(ValueError, match="which batch rows are conditional is unknown"):
        probe.dataset("conditional")
    with (
        pytest.raises(ValueError, match="give the edit batch='all' or row numbers"),
        Probe(random_pipe, [], edits=[BlurText(1)]),
    ):
        random_pipe(
            "a red circle",
            callback_on_step_end=swap,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
            **SD3,
        )


@pytest.mark.parametrize("negative", ["a red circle", "", None])
def test_a_negative_prompt_equal_to_the_prompt_is_told_by_its_place(random_pipe, negative):
    prompt = "a red circle" if negative else ""
    probe = read(random_pipe, random_pipe, prompt, negative_prompt=negative, **SD3)
    assert branches(probe) == [["unconditional", "conditional"]] * 2


def test_a_negative_prompt_equal_to_the_prompt_is_told_by_its_call():
    pipe = small_pipeline("flux")
    probe = read(pipe, pipe, "a red circle", negative_prompt="a red circle", true_cfg_scale=3.0, **FLUX)
    assert branches(probe) == [["conditional"], ["unconditional"]] * 2
    assert probe.dataset("conditional").sizes["call"] == probe.dataset("unconditional").sizes["call"] == 2


def test_the_same_embeddings_for_both_are_refused():
    pipe = small_pipeline("flux")
    with torch.no_grad():
        prompt, pooled, _ = pipe.encode_prompt("a red circle", None, max_sequence_length=16)
    both = {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled}
    probe = read(
        pipe, pipe, true_cfg_scale=3.0, **both, **{f"negative_{name}": one for name, one in both.items()}, **FLUX
    )
    with pytest.raises(ValueError, match="which batch rows are conditional is unknown"):
        probe.dataset("conditional")


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_perturbed_rows_of_pag_are_neither_the_prompts_nor_the_negatives(random_pipe, guidance_scale, images):
    parts = {k: v for k, v in random_pipe.components.items() if k not in ("image_encoder", "feature_extractor")}
    pipe = diffusers.StableDiffusion3PAGPipeline(**parts, pag_applied_layers=["blocks.1"])
    pipe.set_progress_bar_config(disable=True)
    given = {"pag_scale": 0.7, "guidance_scale": guidance_scale, "num_images_per_prompt": images}
    probe = read(pipe, pipe, "a red circle", **given, **SD3)
    expected = ["unconditional"] * images * (guidance_scale > 1) + ["conditional"] * images + ["perturbed"] * images
    assert branches(probe) == [expected] * 2
    assert probe.dataset("conditional").sizes["batch"] == images
    assert probe.dataset()["branch"].values.tolist() == expected
    assert probe.dataset()["branch"].attrs["long_name"].startswith("branch of guidance")


def test_the_call_with_layers_left_out_is_perturbed(random_pipe):
    given = {"skip_guidance_layers": [1], "skip_layer_guidance_start": -0.1, "skip_layer_guidance_stop": 0.6}
    probe = read(random_pipe, random_pipe, "a red circle", **given, **{**SD3, "num_inference_steps": 4})
    assert probe.dataset("conditional")["step"].values.tolist() == [0, 1, 2, 3]
    assert ["perturbed"] in branches(probe)
    record = by_timestep(probe, (0, 3), (4, 1), (0, 3))
    assert record["i2t"].notnull().all()


def test_guidance_that_ends_in_mid_run_leaves_the_prompts_rows(random_pipe):
    def cut(pipe, step, timestep, tensors):
        pipe._guidance_scale = 1.0
        halved = ("prompt_embeds", "pooled_prompt_embeds") if step == 0 else ()
        return {**tensors, **{name: tensors[name].chunk(2)[-1] for name in halved}}

    probe = read(
        random_pipe, random_pipe, "a red circle", negative_prompt="moon", callback_on_step_end=cut,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds", "pooled_prompt_embeds"], **SD3,
    )  # fmt: skip
    assert branches(probe) == [["unconditional", "conditional"], ["conditional"]]


def test_a_twin_pipeline_is_known_by_its_transformer(random_pipe):
    twin = diffusers.StableDiffusion3Img2ImgPipeline.from_pipe(random_pipe)
    twin.set_progress_bar_config(disable=True)
    given = {**SD3, "image": Image.new("RGB", (64, 64), "red"), "height": 64, "width": 64, "num_inference_steps": 4}
    for target in (twin, twin.transformer, random_pipe):
        record = read(target, twin, "a red circle", strength=0.5, **given).dataset("conditional")
        assert record["step"].values.tolist() == [0, 1]
        assert record["timestep"].values.tolist() == [2, 1]
        assert list(record["token_text"].values[0, 1:4]) == ["a", "red", "circle"]


def test_pipelines_are_as_they_were(random_pipe):
    kind = type(random_pipe)
    before = kind.__call__, kind.encode_prompt
    with Probe(random_pipe, []), Probe(random_pipe.transformer, []):
        assert kind.__call__ is not before[0]
    assert (kind.__call__, kind.encode_prompt) == before
    with pytest.raises(LookupError), Probe(random_pipe, []):
        raise LookupError
    assert (kind.__call__, kind.encode_prompt) == before


def modular(base):
    from diffusers.modular_pipelines import FluxAutoBlocks

    pipe = FluxAutoBlocks().init_pipeline()
    parts = base.components
    pipe.update_components(**{k: v for k, v in parts.items() if k in pipe._component_specs and v is not None})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_modular_pipelines_words_and_steps_are_known():
    pipe = modular(small_pipeline("flux"))
    with Probe(pipe, [RegionMass()]) as probe, torch.no_grad():
        pipe(prompt="a red circle", output="images", generator=seeded(), **{**FLUX, "num_inference_steps": 3})
    record = probe.dataset("conditional")
    assert record["step"].values.tolist() == [0, 1, 2]
    assert list(record["token_text"].values[0, 1:4]) == ["a", "red", "circle"]


def modular_qwen(guider):
    from diffusers.modular_pipelines import QwenImageAutoBlocks

    parts = small_pipeline("qwen-image").components
    pipe = QwenImageAutoBlocks().init_pipeline()
    known = {name: part for name, part in parts.items() if name in pipe._component_specs and part is not None}
    pipe.update_components(**known, guider=guider)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def guided(pipe, *, probe=None, **arguments):
    settings = {"height": 32, "width": 32, "num_inference_steps": 3, "max_sequence_length": 512, "output_type": "pt"}
    with probe or contextlib.nullcontext(), torch.no_grad():
        return pipe(output="images", generator=seeded(), **settings, **arguments)


BOTH = ["conditional", "unconditional"]


@pytest.mark.parametrize(
    ("guider", "later"),
    [
        ("ClassifierFreeGuidance", BOTH),
        ("AdaptiveProjectedGuidance", BOTH),
        ("SkipLayerGuidance", [*BOTH, "perturbed"]),
        ("PerturbedAttentionGuidance", [*BOTH, "perturbed"]),
        ("SmoothedEnergyGuidance", [*BOTH, "perturbed"]),
        ("AutoGuidance", BOTH),
    ],
)
def test_the_calls_of_a_modular_pipelines_guider_are_told_apart(guider, later):
    """A negative prompt has a call of its own, and so has the prompt with a layer left out or blurred."""
    from diffusers import guiders
    from diffusers.hooks import LayerSkipConfig, SmoothedEnergyGuidanceConfig

    place = {"indices": [1], "fqn": "transformer_blocks"}
    skip = LayerSkipConfig(**place, skip_attention=False, skip_ff=False, skip_attention_scores=True)
    settings = {
        "SkipLayerGuidance": {
            "skip_layer_config": [skip],
            "skip_layer_guidance_start": 0.0,
            "skip_layer_guidance_stop": 1.0,
        },
        "PerturbedAttentionGuidance": {
            "perturbed_guidance_config": skip,
            "perturbed_guidance_start": 0.0,
            "perturbed_guidance_stop": 1.0,
        },
        "SmoothedEnergyGuidance": {"seg_guidance_config": SmoothedEnergyGuidanceConfig(**place)},
        "AutoGuidance": {"auto_guidance_config": skip},
    }
    pipe = modular_qwen(getattr(guiders, guider)(guidance_scale=3.0, **settings.get(guider, {})))
    prompts = {"prompt": "a red circle", "negative_prompt": "blue"}
    plain = guided(pipe, **prompts)
    probe = Probe(pipe, [RegionMass()])
    assert torch.equal(guided(pipe, probe=probe, **prompts)[0], plain[0])
    calls = [(call.step, *call.branches) for call in probe._calls]
    assert calls[-len(later) :] == [(2, branch) for branch in later]
    record = probe.dataset("conditional")
    assert record["step"].values.tolist() == [0, 1, 2]
    assert not record["region_mass"].isnull().any()
    assert "circle" in "".join(record["token_text"].values[0])


def test_one_prompt_for_both_branches_is_told_by_the_guider():
    from diffusers.guiders import ClassifierFreeGuidance

    pipe = modular_qwen(ClassifierFreeGuidance(guidance_scale=3.0))
    probe = Probe(pipe, [RegionMass()])
    guided(pipe, probe=probe, prompt="a red circle", negative_prompt="a red circle")
    assert [branch for call in probe._calls for branch in call.branches] == BOTH * 3


def test_a_call_without_text_is_refused_in_one_line(random_pipe):
    with (
        Probe(random_pipe, [RegionMass()]),
        pytest.raises(ValueError, match="was called without encoder_hidden_states"),
    ):
        random_pipe.transformer(hidden_states=torch.zeros(1, 16, 8, 8), timestep=torch.ones(1))


def test_the_second_call_of_a_modular_sd3_is_the_guiders_unconditional_one(random_pipe):
    """Its text step encodes no negative prompt, so that both calls carry the prompt's embeddings."""
    from diffusers.modular_pipelines import StableDiffusion3AutoBlocks

    pipe = StableDiffusion3AutoBlocks().init_pipeline()
    parts = random_pipe.components.items()
    pipe.update_components(**{name: part for name, part in parts if name in pipe._component_specs and part is not None})
    pipe.set_progress_bar_config(disable=True)
    with Probe(pipe, [RegionMass()]) as probe, torch.no_grad():
        size = {"height": 32, "width": 32, "num_inference_steps": 2, "max_sequence_length": 16}
        pipe(prompt="a red circle", output="images", output_type="pt", generator=seeded(), **size)
    assert [(call.step, *call.branches) for call in probe._calls] == [
        (0, BOTH[0]),
        (0, BOTH[1]),
        (1, BOTH[0]),
        (1, BOTH[1]),
    ]
