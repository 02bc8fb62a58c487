"""Modular pipelines: loaded from a folder, read and generated with as the ordinary pipelines of the same model."""

import contextlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from modular_pipelines import (
    flux2_pair,
    flux3,
    flux_pair,
    modular_of,
    qwen_pair,
    saved,
    stable_diffusion_3_pair,
    z_image_pair,
)
from PIL import Image
from small_pipelines import small_pipeline

from mmdit_probe import BlurText, I2TMaps, Patch, Probe, RegionMass, ValueNorms, load_pipeline, read_image, trace
from mmdit_probe.cli import main
from mmdit_probe.configs import GenerationConfig
from mmdit_probe.families import denoiser_of, family_of, quiet, registry, steps_of, text_parts_of
from mmdit_probe.families.modular import text_step
from mmdit_probe.pipelines.defaults import model_defaults
from mmdit_probe.pipelines.forward import encode_images, encode_prompts, forward_once, noise_level
from mmdit_probe.pipelines.generation import generation_arguments
from mmdit_probe.pipelines.layer_count import layer_count
from mmdit_probe.pipelines.loading import embedded_folder
from mmdit_probe.pipelines.modular_call import call_pipeline
from mmdit_probe.probe.states import record_states
from mmdit_probe.studies.image_grid import generate_batch
from mmdit_probe.studies.recording import record_generated, record_image

PROMPT = "a red circle on grass"
SIZE = {"height": 32, "width": 32}
MAKERS = {"flux": lambda: flux_pair()[1], "qwen": lambda: qwen_pair()[1], "flux3": flux3}
LAYERS = {"flux": 2, "qwen": 2, "flux3": 2}
LENGTHS = {"flux": 24, "qwen": 512, "flux3": 24}
READOUTS = [RegionMass(), I2TMaps(), ValueNorms()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The three models, each saved by its modular pipeline."""
    made = tmp_path_factory.mktemp("modular")
    return {name: Path(saved(make(), made / name)) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def pipes(folders):
    return {name: load_pipeline(str(folder)) for name, folder in folders.items()}


def generation(**more):
    return GenerationConfig(**{"steps": 2, "max_sequence_length": 512, **SIZE, **more})


def same(record, other):
    assert set(record.data_vars) == set(other.data_vars)
    for name in record.data_vars:
        np.testing.assert_allclose(record[name], other[name], rtol=0, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(record["token_text"], other["token_text"])
    np.testing.assert_array_equal(record["sigma"], other["sigma"])
    return True


@pytest.mark.parametrize("pair", [flux_pair, qwen_pair])
def test_the_ordinary_and_the_modular_pipeline_of_one_model_give_one_record(pair):
    ordinary, modular = pair()
    quiet(modular)
    given = generation(guidance_scale=1.0)
    one, other = (record_generated(pipe, PROMPT, READOUTS, (2, 1), given, decode=True) for pipe in (ordinary, modular))
    assert same(one.record, other.record)
    assert abs(one.image.astype(int) - other.image).max() <= 1
    picture = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    one, other = (record_image(pipe, picture, PROMPT, READOUTS, (1,), given) for pipe in (ordinary, modular))
    assert same(one.record, other.record)


@pytest.mark.parametrize("name", ["flux2", "flux2-klein", "z-image", "sd3"])
def test_given_images_of_other_modular_pipelines(name, random_pipe):
    """The ordinary pipeline of the same parts gives the same record of one image, and the same words."""
    makers = {
        "flux2": flux2_pair, "flux2-klein": lambda: flux2_pair(klein=True), "z-image": z_image_pair,
        "sd3": lambda: stable_diffusion_3_pair(random_pipe),
    }  # fmt: skip
    ordinary, modular = makers[name]()
    quiet(modular)
    side = 64 if name == "sd3" else 32
    given = generation(height=side, width=side)
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    one, other = (record_image(pipe, picture, PROMPT, READOUTS, (1,), given) for pipe in (ordinary, modular))
    assert same(one.record, other.record)
    words = other.record["token_text"].values[other.record["token_kind"].values == "word"]
    assert "".join(words).replace(PROMPT.replace(" ", ""), "") == ""


def test_guided_by_the_guider_as_by_the_ordinary_argument():
    ordinary, modular = qwen_pair(guider=ClassifierFreeGuidance(guidance_scale=3.0))
    quiet(modular)
    shared = {"prompt": PROMPT, "negative_prompt": "sand", "num_inference_steps": 2, **SIZE}
    records = []
    for pipe, own in ((ordinary, {"true_cfg_scale": 3.0, "output_type": "latent"}), (modular, {"output": "latents"})):
        with Probe(pipe, READOUTS) as probe, torch.no_grad():
            pipe(generator=torch.Generator().manual_seed(0), **shared, **own)
        records.append(probe)
    for branch in ("conditional", "unconditional"):
        assert same(*(probe.dataset(branch) for probe in records))


@pytest.mark.parametrize("name", MAKERS)
def test_a_saved_folder_is_loaded_and_read(folders, pipes, name):
    pipe, made, given = pipes[name], MAKERS[name](), generation(max_sequence_length=LENGTHS[name])
    quiet(made)
    assert type(pipe) is type(made)
    assert layer_count(str(folders[name])) == LAYERS[name]
    record = record_generated(pipe, PROMPT, READOUTS, (2, 1), given).record
    assert same(record, record_generated(made, PROMPT, READOUTS, (2, 1), given).record)
    words = record["token_text"].values[record["token_kind"].values == "word"]
    assert "".join(words) == PROMPT.replace(" ", "")
    assert record["step"].values.tolist() == [0, 1]


def test_dtype_device_and_a_moved_folder(folders, tmp_path):
    shutil.copytree(folders["flux"], tmp_path / "elsewhere")
    index = tmp_path / "elsewhere" / "modular_model_index.json"
    index.write_text(index.read_text().replace(str(folders["flux"]), "/nowhere/at/all"))
    pipe = load_pipeline(str(tmp_path / "elsewhere"), dtype="bf16", device="cpu")
    assert {pipe.transformer.dtype, pipe.vae.dtype, pipe.text_encoder_2.dtype} == {torch.bfloat16}
    record = record_generated(pipe, PROMPT, [RegionMass()], (1,), generation()).record
    assert bool(record["region_mass"].notnull().all())


def test_the_defaults_of_a_folder_are_read(folders, tmp_path):
    shutil.copytree(folders["flux"], tmp_path / "own")
    (tmp_path / "own" / "probe_defaults.json").write_text('{"expert_layer": 1, "max_sequence_length": 24}')
    assert model_defaults(load_pipeline(str(tmp_path / "own"))).expert_layer == 1


def altered(folders, tmp_path, name="flux"):
    folder = tmp_path / "altered"
    shutil.copytree(folders[name], folder)
    return folder, json.loads((folder / "modular_model_index.json").read_text())


def write(folder, index):
    (folder / "modular_model_index.json").write_text(json.dumps(index))
    return str(folder)


def test_steps_of_other_people_are_refused_and_not_run(folders, tmp_path):
    folder, index = altered(folders, tmp_path)
    for names, message in (
        ({"_blocks_class_name": "TheirBlocks"}, "was made of TheirBlocks, which are no steps of diffusers"),
        ({"_blocks_class_name": "SequentialPipelineBlocks"}, "was made of SequentialPipelineBlocks"),
        ({"_class_name": "FluxPipeline"}, "was made of FluxPipeline"),
        (
            {"vae": ["theirs", "VAE", {**index["vae"][2], "type_hint": ["theirs", "VAE"]}]},
            r"brings a part vae of theirs, which is not run here",
        ),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            load_pipeline(write(folder, {**index, **names}))
        assert "\n" not in str(refused.value)
    write(folder, index)
    ran = folder / "RAN"
    (folder / "block.py").write_text(f"open({str(ran)!r}, 'w')\nfrom diffusers import FluxAutoBlocks as Blocks\n")
    (folder / "modular_config.json").write_text(json.dumps({"auto_map": {"ModularPipelineBlocks": "block.Blocks"}}))
    with pytest.raises(ValueError, match=r"brings steps of its own .*, which is not run here"):
        load_pipeline(str(folder))
    with pytest.raises(ValueError, match="not loaded with trust_remote_code"):
        load_pipeline(str(folder), trust_remote_code=True)
    assert not ran.exists()


def test_what_a_modular_pipeline_is_not_loaded_with_is_named(folders):
    for options in ({"quantize": "int8"}, {"custom_pipeline": "x"}):
        with (
            contextlib.suppress(ModuleNotFoundError),
            pytest.raises(ValueError, match=f"not loaded with {next(iter(options))}|needs torchao"),
        ):
            load_pipeline(str(folders["flux"]), **options)


def test_a_part_that_is_missing_or_cut_short_is_named(folders, tmp_path):
    folder, index = altered(folders, tmp_path)
    weights = next((folder / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or cut short"):
        load_pipeline(str(folder))
    shutil.rmtree(folder / "vae")
    with pytest.raises(ValueError, match="lacks its part vae; copy the model again"):
        load_pipeline(str(folder))
    index["vae"] = [None, None, {**index["vae"][2], "pretrained_model_name_or_path": None}]
    with pytest.raises(ValueError, match="lacks its part vae; copy the model again"):
        load_pipeline(write(folder, index))


def test_flux3s_prompts_are_encoded_as_they_are_given(pipes):
    """Its step that rewrites prompts, and the 9B model for it, are left out."""
    pipe = pipes["flux3"]
    assert not [step for step in steps_of(pipe) if "Upsample" in type(step).__name__]
    assert "prompt_upsampler" not in pipe.components


def test_flux3_is_given_what_its_pipeline_gives(pipes):
    """One forward pass on given latents is the first step of the pipeline's own run."""
    pipe, seen = pipes["flux3"], []
    hook = pipe.transformer.register_forward_hook(lambda m, a, k, out: seen.append((k, out)), with_kwargs=True)
    call_pipeline(
        pipe, "sand", num_inference_steps=3, guidance_scale=1.0, generator=torch.Generator().manual_seed(3), **SIZE
    )
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    made = forward_once(pipe, noise, noise_level(pipe, 3, 3, (32, 32)), encode_prompts(pipe, ["sand"], 0))
    levels = [float(given["timestep"]) for given, _ in seen[:3]]
    hook.remove()
    torch.testing.assert_close(made, seen[0][1][0])
    given, own = seen[0][0], seen[-1][0]
    for name in ("hidden_states", "encoder_hidden_states", "img_ids", "txt_ids", "timestep"):
        torch.testing.assert_close(own[name].expand_as(given[name]), given[name], rtol=0, atol=1e-6)
    assert [noise_level(pipe, timestep, 3) for timestep in (3, 2, 1)] == pytest.approx(levels)


def test_images_are_encoded_as_flux3_encodes_its_references(pipes):
    pipe, picture = pipes["flux3"], Image.fromarray(np.arange(64 * 32 * 3, dtype=np.uint8).reshape(64, 32, 3))
    step = next(step for step in steps_of(pipe) if type(step).__name__ == "Flux3VaeEncoderStep")
    prepared = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    state = sys.modules[type(pipe).__mro__[1].__module__].PipelineState()
    state.set("condition_images", [prepared])
    step(pipe, state)
    torch.testing.assert_close(encode_images(pipe, [np.array(picture)]), state.get("image_cond_latents")[0])


def test_flux3_encodes_one_prompt_at_a_time(pipes):
    pipe = pipes["flux3"]
    images = generate_batch(pipe, ["sand", "a red circle"], 0, generation())
    assert images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(images[1:], generate_batch(pipe, ["a red circle"], 0, generation()))
    assert encode_prompts(pipe, ["sand", "a red circle"], 0).inputs["encoder_hidden_states"].shape[:2] == (2, 80)
    with pytest.raises(ValueError, match=r"encodes one prompt at a time, and these have \[80, 160\] text positions"):
        encode_prompts(pipe, ["sand", "a red circle " * 40], 0)


def test_flux3s_references_are_a_stream(pipes):
    picture = Image.fromarray(np.zeros((32, 48, 3), np.uint8))
    with Probe(pipes["flux3"], [RegionMass()]) as probe:
        call_pipeline(pipes["flux3"], "sand", image=picture, num_inference_steps=1, guidance_scale=1.0, **SIZE)
    record = probe.dataset("conditional")
    mass = record["region_mass"]
    assert "I2R" in mass["region"].values
    np.testing.assert_allclose(
        mass.sel(region=[name for name in mass["region"].values if name[0] == "I"]).sum("region"), 1, atol=1e-5
    )


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_guidance_scale_is_the_guiders_for_one_call(pipes, scale):
    pipe = pipes["flux3"]
    own = pipe.guider.guidance_scale
    arguments = generation_arguments(pipe, generation(guidance_scale=scale))
    assert arguments["guidance_scale"] == scale
    with Probe(pipe, [RegionMass()]) as probe:
        call_pipeline(pipe, PROMPT, **arguments)
    assert [branch for call in probe._calls for branch in call.branches] == (
        ["conditional", "unconditional"] * 2 if scale > 1 else ["conditional"] * 2
    )
    assert pipe.guider.guidance_scale == own


def test_a_guider_of_several_scales_keeps_them():
    _, pipe = qwen_pair()
    pipe.guider = SimpleNamespace(guidance_scales=[3.0, 2.0])
    with pytest.raises(ValueError, match="has a SimpleNamespace, which has no single scale"):
        call_pipeline(pipe, PROMPT, guidance_scale=2.0)


def test_arguments_that_a_modular_call_does_not_take_are_named(pipes):
    with pytest.raises(ValueError, match=r"FluxModularPipeline takes no true_cfg_scale; it takes .*prompt"):
        call_pipeline(pipes["flux"], PROMPT, true_cfg_scale=2.0)


def test_modular_pipelines_whose_prompts_need_an_image_cannot_read_one():
    base = small_pipeline("qwen-image")
    editing = modular_of(base, "QwenImageEditAutoBlocks")
    with pytest.raises(ValueError, match="QwenImageEditModularPipeline takes images as part of the prompt"):
        encode_prompts(editing, [PROMPT])
    assert text_parts_of(editing) == []


def test_a_modular_pipeline_of_a_family_that_reads_images_only_in_ordinary_ones_is_refused(pipes, monkeypatch):
    family = family_of(denoiser_of(pipes["flux"]))
    ordinary_alone = replace(family, image_input=replace(family.image_input, modular_text=None))
    monkeypatch.setattr(registry, "family_of", lambda transformer: ordinary_alone)
    with pytest.raises(
        ValueError, match=r"of modular pipelines, images can be read by .*Qwen-Image.*load the Flux.1 as"
    ):
        encode_prompts(pipes["flux"], [PROMPT])


EMBEDDINGS = "prompt_embeds", "prompt_embeds_mask", "negative_prompt_embeds", "negative_prompt_embeds_mask"


@pytest.mark.parametrize("guider", [ClassifierFreeGuidance, AdaptiveProjectedGuidance])
@pytest.mark.parametrize("images", [1, 2])
def test_given_embeddings_have_branches_but_no_words(guider, images):
    _, pipe = qwen_pair(guider=guider(guidance_scale=3.0, start=0.5))
    quiet(pipe)
    state = pipe(prompt=PROMPT, negative_prompt="sand", num_inference_steps=1, **SIZE)
    step = text_step(pipe)
    given = {"num_images_per_prompt": images, "num_inference_steps": 2, **SIZE}
    encoded = sys.modules[type(pipe).__mro__[1].__module__].PipelineState()
    encoded.set("prompt", PROMPT)
    encoded.set("negative_prompt", "sand")
    step(pipe, encoded)
    embeddings = {name: encoded.get(name) for name in EMBEDDINGS}
    assert state.get("images") is not None

    def read(words, **arguments):
        with Probe(pipe, [RegionMass()]) as probe:
            if words:
                step(pipe, encoded)
                arguments |= {name: encoded.get(name) for name in EMBEDDINGS}
            pipe(generator=torch.Generator().manual_seed(0), **given, **arguments)
        return probe

    wanted = read(False, prompt=PROMPT, negative_prompt="sand")
    calls = [["conditional"] * images, ["conditional"] * images, ["unconditional"] * images]
    for probe in (wanted, read(False, **embeddings), read(True)):
        assert [list(call.branches) for call in probe._calls] == calls
        np.testing.assert_array_equal(
            probe.dataset("conditional")["region_mass"], wanted.dataset("conditional")["region_mass"]
        )
    assert "token_text" not in read(False, **embeddings).dataset("conditional").coords
    np.testing.assert_array_equal(
        read(True).dataset("conditional")["token_text"], wanted.dataset("conditional")["token_text"]
    )


def test_edits_of_given_embeddings_leave_the_negative_calls_alone():
    _, pipe = qwen_pair(guider=ClassifierFreeGuidance(guidance_scale=3.0))
    quiet(pipe)
    encoded = sys.modules[type(pipe).__mro__[1].__module__].PipelineState()
    encoded.set("prompt", PROMPT)
    text_step(pipe)(pipe, encoded)
    embeddings = {name: encoded.get(name) for name in EMBEDDINGS}

    def outputs(edits):
        seen = []
        hook = pipe.transformer.register_forward_hook(lambda m, a, out: seen.append(out[0]))
        with Probe(pipe, [], edits=edits):
            pipe(generator=torch.Generator().manual_seed(0), num_inference_steps=1, **SIZE, **embeddings)
        hook.remove()
        return seen

    plain, edited = outputs([]), outputs([BlurText(0)])
    assert not torch.equal(plain[0], edited[0])
    assert torch.equal(plain[1], edited[1])


@pytest.mark.parametrize("name", MAKERS)
def test_states_are_recorded_and_patched(pipes, name):
    pipe = pipes[name]
    arguments = {name: value for name, value in generation_arguments(pipe, generation()).items() if name != "generator"}
    states = record_states(pipe, PROMPT, layers=[1], **arguments)
    plain = generate_batch(pipe, [PROMPT], 0, generation())
    with Probe(pipe, [], edits=[Patch(states, 1)]):
        patched = generate_batch(pipe, [PROMPT], 0, generation())
    assert abs(plain.astype(int) - patched).max() <= 1


@pytest.mark.parametrize("output", [None, "images", ["images", "latents"]])
def test_a_traced_call_has_its_image(pipes, output):
    with trace(pipes["flux3"]) as seen:
        made = pipes["flux3"](prompt=PROMPT, output=output, num_inference_steps=1, **SIZE)
    images = made if output == "images" else made["images"] if output else made.get("images")
    assert seen.word("circle").overlay(images[0]).size == (32, 32)


@pytest.mark.parametrize("name", MAKERS)
def test_a_given_image_is_read(pipes, name):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    given = generation(steps=4, max_sequence_length=LENGTHS[name], height=None, width=None)
    seen = read_image(pipes[name], picture, ["circle", "grass"], timesteps=(1,), longest=32, generation=given)
    assert seen.words["word"].tolist() == ["circle", "grass"]
    assert text_parts_of(pipes[name], 24)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mmdit-probe", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
            sys.exit(0)
        output = capsys.readouterr()
        assert not stopped.value.code, output.err
        assert "%|" not in output.err  # the steps' own progress bars
        return output.out

    return run


SMALL = ["--height", "32", "--width", "32", "--steps", "2"]
ONE = ["--prompt", PROMPT, *SMALL, "--timesteps", "1"]
CLIP = embedded_folder().parent / "tiny-clip"
COMMANDS = {
    "attention-budget": ONE,
    "value-norms": ONE,
    "maps": [*ONE, "--words", "circle", "--layers", "1"],
    "pca": ONE,
    "perturb": ["--prompt", PROMPT, *SMALL, "--layers", "1", "--seeds", "0", "--clip", CLIP],
    "analyze": [*ONE, "--layers", "1", "--words", "circle"],
}


OTHERS = [("attention-budget", "flux"), ("maps", "qwen"), ("perturb", "flux")]


@pytest.mark.parametrize(("command", "name"), [*((command, "flux3") for command in COMMANDS), *OTHERS])
def test_commands_work_on_a_modular_folder(run, folders, command, name):
    length = ["--max-sequence-length", LENGTHS[name]]
    run(command, *COMMANDS[command], *length, "--model", folders[name], "--out", "o")
    assert list(Path("o").glob("*.pdf")) or list(Path("o").glob("*.png"))


@pytest.mark.parametrize("name", ["flux3", "qwen"])
def test_segment_works_on_a_modular_folder(run, folders, name):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("in.png")
    length = ["--max-sequence-length", LENGTHS[name]]
    run(
        "segment",
        "in.png",
        "--classes",
        "circle,grass",
        "--layer",
        "1",
        *length,
        "--model",
        folders[name],
    )
