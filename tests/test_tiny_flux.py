"""How tiny-flux is made, on 32 scenes: a genuine Flux folder that trains, resumes, loads and is probed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from mmdit_probe import Probe, RegionMass, load_pipeline
from mmdit_probe.configs import GenerationConfig
from mmdit_probe.datasets.scenes import CLASSES, scenes
from mmdit_probe.families import layers_of, text_parts_of
from mmdit_probe.pipelines.defaults import model_defaults
from mmdit_probe.pipelines.forward import add_noise
from mmdit_probe.pipelines.generation import generation_arguments
from mmdit_probe.pipelines.image_size import native_size
from mmdit_probe.pipelines.loading import embedded_folder
from mmdit_probe.pipelines.prompts import find_words
from mmdit_probe.studies.layer_signs import stream_of
from mmdit_probe.studies.scene_grounding import MEAN_OF_LAYERS, blur_harm, mean_loss, measure_layers, scene_batches
from mmdit_probe.tiny import train
from mmdit_probe.tiny.card import outline, write_card
from mmdit_probe.tiny.corpus import make_corpus
from mmdit_probe.tiny.denoiser import token_ids
from mmdit_probe.tiny.export import digests, load_recipe, name_of_weights, save_defaults, save_half, save_recipe
from mmdit_probe.tiny.flow import FlowTrainer
from mmdit_probe.tiny.kinds import make_denoiser, make_pipeline, make_tokenizers
from mmdit_probe.tiny.parts import make_autoencoder
from mmdit_probe.tiny.recipe import RECIPES, Recipe
from mmdit_probe.tiny.tokenizer import WORDS, make_t5_tokenizer

SMALL = replace(
    RECIPES["tiny-flux"], layers=1, single_layers=2, batch=4, samples=16, decay_samples=8, warmup_steps=2, scenes=32,
    caption_variants=2, autoencoder_channels=(8, 8, 8), autoencoder_steps=2, autoencoder_batch=2, text_layers=(1, 1), log_scenes=2,
    log_prompts=2,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def trained(work):
    """The autoencoder and the denoiser after the whole training, whose folder is ``work``."""
    corpus = make_corpus(SMALL.scenes, SMALL.caption_variants, work)
    vae = train.fit_autoencoder(corpus, SMALL, work, CPU)
    return vae, train.fit_flow(corpus, vae, SMALL, work, CPU)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    vae, denoiser = trained
    generator = torch.Generator().manual_seed(0)
    for weight in denoiser.transformer.parameters():  # the output starts at 0, and four steps are few
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    folder = tmp_path_factory.mktemp("model") / "tiny-flux"
    save_half(make_pipeline(denoiser, vae, SMALL), folder)
    save_recipe(SMALL, folder)
    save_defaults(SMALL, folder)
    return folder


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_one_t5_token_and_comes_back(word):
    tokenizer = make_t5_tokenizer(8)
    ids = tokenizer(word, add_special_tokens=False).input_ids
    assert len(ids) == 1
    assert tokenizer.decode(ids).strip() == word


def test_what_is_no_word_is_spelled():
    tokenizer = make_t5_tokenizer(24)
    ids = tokenizer("7 cats!", add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == "7 cats!"


def test_the_whole_model_is_small_enough_to_ship():
    recipe = RECIPES["tiny-flux"]
    parts = [make_denoiser(recipe), make_autoencoder(recipe)]
    assert 2 * sum(weight.numel() for part in parts for weight in part.parameters()) < 25e6


def test_training_starts_from_the_identity():
    denoiser = make_denoiser(SMALL)
    ids = token_ids(np.array([["a red star"]]), make_tokenizers(SMALL))[:, :, 0].long()
    noisy = torch.randn(1, 4, 16, 16)
    assert not denoiser(noisy, torch.tensor([0.5]), ids, torch.ones(1), torch.zeros(1)).any()


def trainer(work):
    ids = token_ids(np.array([["a red star", "", "star sand"]] * 6), make_tokenizers(SMALL))
    latents = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(0)).half()
    return FlowTrainer(latents, ids, SMALL, work, CPU)


def test_a_resumed_training_is_the_undisturbed_one(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = trainer(tmp_path / "whole")
    assert list(whole.run(save_every=1)) == [1, 2, 3, 4]
    killed = trainer(tmp_path / "killed").run(save_every=1)
    assert next(killed) == 1
    killed.close()
    resumed = trainer(tmp_path / "killed")
    assert list(resumed.run(save_every=1)) == [2, 3, 4]
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_weight_matters_to_the_velocity(trained, folder):
    """Save the biases of CLIP's keys, which the softmax cancels."""
    denoiser = make_denoiser(SMALL)
    denoiser.load(folder)
    ids = token_ids(np.array([["a red star on sand"]]), make_tokenizers(SMALL))[:, :, 0].long()
    velocity = denoiser(torch.randn(1, 4, 16, 16), torch.tensor([0.5]), ids, torch.ones(1), torch.zeros(1))
    velocity.square().mean().backward()
    for name, weight in denoiser.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.any() or name.endswith("k_proj.bias"), name


def test_the_folder_is_a_flux_whose_words_are_found(folder):
    pipe = load_pipeline(str(folder))
    assert type(pipe) is FluxPipeline
    assert len(layers_of(pipe)) == 3
    parts = text_parts_of(pipe, SMALL.text_positions)
    ((circle,), (grass,)) = find_words(parts, "a red circle on grass", ("circle", "grass"))
    ids = pipe.tokenizer_2("a red circle on grass").input_ids
    assert pipe.tokenizer_2.decode([ids[circle]]).strip() == "circle"
    assert pipe.tokenizer_2.decode([ids[grass]]).strip() == "grass"
    assert set(" ".join(CLASSES).split()) <= set(WORDS)


def test_the_pipeline_sees_what_training_saw(folder):
    """One step of the pipeline from noise is the denoiser's velocity, in the same order of latents and tokens."""
    pipe = load_pipeline(str(folder))
    denoiser = make_denoiser(SMALL).eval().requires_grad_(False)
    denoiser.load(folder)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    made = pipe(
        "a red circle on grass", height=64, width=64, num_inference_steps=1, max_sequence_length=SMALL.text_positions,
        latents=pipe._pack_latents(noise, 1, 4, 16, 16), output_type="latent",
    ).images  # fmt: skip
    ids = token_ids(np.array([["a red circle on grass"]]), make_tokenizers(SMALL))[:, :, 0].long()
    velocity = denoiser(noise, torch.ones(1), ids, torch.ones(1), torch.zeros(1))
    assert velocity.std() > 0.01
    torch.testing.assert_close(made, pipe._pack_latents(noise - velocity, 1, 4, 16, 16), atol=1e-4, rtol=0)


def test_the_folder_says_how_it_was_made_and_how_it_is_called(folder):
    """Flux's pipeline makes images of 128 latent pixels a side unless told otherwise, and 512 text positions."""
    assert load_recipe(folder) == SMALL
    pipe = load_pipeline(str(folder))
    assert native_size(pipe) == 64
    arguments = generation_arguments(pipe, GenerationConfig())
    assert (arguments["height"], arguments["width"], arguments["max_sequence_length"]) == (64, 64, 24)
    assert generation_arguments(pipe, GenerationConfig(height=128))["height"] == 128
    assert model_defaults(pipe).expert_layer is None


def test_the_command_goes_on_where_it_was_and_exports(trained, work, tmp_path, monkeypatch):
    """The constant phase of ``trained`` ended after 2 steps of 4; two more, then a decay of two."""
    monkeypatch.setitem(train.RECIPES, "tiny-flux", SMALL)
    threads = torch.get_num_threads()
    train.main(model="tiny-flux", work=work, out=tmp_path, threads=threads, samples=24)
    logged = [json.loads(line) for line in (work / "flow.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "found" in line] == [2, 4, 4, 6]
    assert load_recipe(tmp_path / "tiny-flux").samples == 24
    assert type(load_pipeline(str(tmp_path / "tiny-flux"))) is FluxPipeline
    assert not (tmp_path / "tiny-clip").exists()


def test_a_recipe_of_another_version_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text('{"no_such_setting": 1}')
    with pytest.raises(ValueError, match="is no recipe of this version"):
        load_recipe(tmp_path)
    (tmp_path / "recipe.json").unlink()
    assert load_recipe(tmp_path) == RECIPES["tiny-sd3"]


def test_the_card_tells_what_kind_of_model_it_is(tmp_path):
    numbers = json.loads((embedded_folder() / "evaluation.json").read_text())
    text = write_card({**numbers, "eye": None}, RECIPES["tiny-flux"], tmp_path / "card.md").read_text()
    assert text.startswith("# tiny-flux")
    assert "4 double- and 8 single-stream blocks" in text
    assert "StableDiffusion3" not in text


def test_the_card_tells_what_the_weights_were_made_from(tmp_path):
    numbers = json.loads((embedded_folder() / "evaluation.json").read_text())
    name = name_of_weights(embedded_folder())
    [digest] = digests(embedded_folder() / "transformer").values()
    assert name == f"tiny-sd3, transformer {digest[:12]}"
    recipe = replace(RECIPES["tiny-sd3"], started_from=name, loss="whitened", precision="bfloat16")
    text = write_card({**numbers, "eye": None, "before": None}, recipe, tmp_path / "card.md").read_text()
    assert f"- Started from {name}.\n" in text
    assert "inverse of its residual's variance" in text
    assert "arithmetic in bfloat16" in text
    assert "edition before" not in text


def test_the_card_compares_an_edition_with_the_one_before_it(tmp_path):
    numbers = json.loads((embedded_folder() / "evaluation.json").read_text())
    earlier = {"weights": "tiny-sd3, transformer 0123456789ab", **outline(numbers), "shapes": 0.123, "mass": 3}
    text = write_card({**numbers, "eye": None, "before": earlier}, Recipe(), tmp_path / "card.md").read_text()
    assert "|  | tiny-sd3, transformer 0123456789ab | this one |" in text
    assert f"| shapes found, % | 12.3 | {100 * numbers['samples']['shapes']:.1f} |" in text
    best = max(numbers["layers"], key=lambda row: row["miou"])
    assert f"| mIoU of the best layer | {100 * best['miou']:.1f} | {100 * best['miou']:.1f} |" in text
    most = max(numbers["layers"], key=lambda row: row["i2t_mass"])["layer"]
    assert f"| layer with the most I2T mass | 3 | {most} |" in text


def test_the_probe_reads_both_kinds_of_blocks(folder):
    pipe = load_pipeline(str(folder))
    with Probe(pipe, [RegionMass()]) as probe:
        pipe(
            "a red circle on grass", height=64, width=64, num_inference_steps=2, max_sequence_length=24,
            generator=torch.Generator().manual_seed(0), output_type="latent",
        )  # fmt: skip
    mass = probe.dataset()["region_mass"]
    assert mass.sizes["layer"] == 3
    rows = mass.sel(region=["I2T", "I2I"]).sum("region")
    np.testing.assert_allclose(rows, 1, atol=1e-5)
    masks, _ = measure_layers(pipe, list(scenes("val", 2)), 8, 0, SMALL.text_positions)
    assert list(masks["layer"]) == [0, 1, 2, MEAN_OF_LAYERS]
    assert masks["miou"].between(0, 1).all()
    harm = blur_harm(pipe, list(scenes("val", 2)), 8, 0, SMALL.text_positions)
    assert (list(harm["layer"]), np.isfinite(harm["harm"]).all()) == ([0, 1, 2], True)


def test_double_and_single_stream_blocks_are_told_apart(folder, tiny):
    assert [stream_of(load_pipeline(str(folder)), layer) for layer in range(3)] == ["double", "single", "single"]
    assert stream_of(tiny, 0) == "double"


def test_the_loss_of_packed_latents_is_that_of_the_latents_themselves(folder):
    """The denoiser's own velocity, which is not packed, has the same distance from the true one."""
    pipe, denoiser = load_pipeline(str(folder)), make_denoiser(SMALL).eval().requires_grad_(False)
    denoiser.load(folder)
    (batch,) = scene_batches(pipe, list(scenes("val", 3)), SMALL.text_positions)
    noisy = add_noise(batch.latents, 0.6, 0)
    velocity = (noisy - batch.latents) / 0.6
    texts = np.array([[scene.class_list()] for scene in batch.scenes])
    ids = token_ids(texts, make_tokenizers(SMALL))[:, :, 0].long()
    own = (denoiser(noisy, torch.full((3,), 0.6), ids, torch.ones(3), torch.zeros(3)) - velocity).square().mean()
    assert mean_loss(pipe, noisy, 0.6, batch.prompts, velocity) == pytest.approx(float(own), rel=1e-3)
