"""How tiny-sd3 is made, on a few samples; what it knows is in test_embedded.py."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmdit_probe.studies.scene_grounding import baselines
from mmdit_probe.tiny.autoencoder import encode_all, train_autoencoder
from mmdit_probe.tiny.clip import contrastive_loss, make_clip, make_processor, train_clip
from mmdit_probe.tiny.corpus import make_corpus
from mmdit_probe.tiny.denoiser import token_ids
from mmdit_probe.tiny.kinds import make_denoiser, make_tokenizers
from mmdit_probe.tiny.parts import make_autoencoder
from mmdit_probe.tiny.recipe import Recipe
from mmdit_probe.tiny.tokenizer import WORDS, make_tokenizer

SMALL = replace(
    Recipe(), layers=2, batch=4, samples=24, decay_samples=8, warmup_steps=2, log_scenes=2, log_prompts=2, scenes=6,
    autoencoder_channels=(8, 8, 8, 8),
    reader_scenes=8, reader_steps=2, reader_batch=4,
    autoencoder_steps=3, autoencoder_batch=2, clip_steps=4, clip_batch=4, clip_layers=1,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_one_token_and_comes_back(word):
    tokenizer = make_tokenizer(8)
    ids = tokenizer(word, add_special_tokens=False).input_ids
    assert len(ids) == 1
    assert tokenizer.decode(ids).strip() == word


def test_any_text_has_tokens():
    tokenizer = make_tokenizer(24)
    assert tokenizer.unk_token_id not in tokenizer("Émile saw 7 cats!", add_special_tokens=False).input_ids


@pytest.mark.parametrize("absent", [0, 5, 77])
def test_one_biased_zero_position_stands_exactly_for_many(absent):
    denoiser = make_denoiser(SMALL).eval().requires_grad_(False)
    for weight in denoiser.transformer.parameters():
        weight += 0.05 * torch.randn_like(weight)
    ids = token_ids(np.array([["a red star"], ["sand"]]), make_tokenizers(SMALL))[:, :, 0].long()
    noisy, sigma = torch.randn(2, 16, 8, 8), torch.tensor([0.3, 0.8])
    ours = denoiser(noisy, sigma, ids, torch.ones(2), torch.full((2,), absent))
    text, pooled = denoiser.encode(ids)
    text = torch.cat([text, torch.zeros(2, absent, text.shape[-1])], 1)
    explicit = denoiser.transformer(
        hidden_states=noisy, encoder_hidden_states=text, pooled_projections=pooled, timestep=1000 * sigma
    ).sample
    torch.testing.assert_close(ours, explicit, atol=1e-5, rtol=0)


def test_training_logs_the_loss_the_grounding_of_every_layer_and_what_is_found(tmp_path):
    from mmdit_probe.tiny import train

    corpus = make_corpus(SMALL.scenes, 2, tmp_path)
    vae = train.fit_autoencoder(corpus, SMALL, tmp_path, CPU)
    denoiser = train.fit_flow(corpus, vae, SMALL, tmp_path, CPU)
    assert not any(weight.requires_grad for weight in denoiser.parameters())
    logged = [json.loads(line) for line in (tmp_path / "flow.jsonl").read_text().splitlines()]
    *_, grounding = [line["miou"] for line in logged if "miou" in line]
    assert list(grounding) == ["0", "1", "mean of all layers"]
    assert all(0 <= value <= 1 for value in grounding.values())
    *_, found = [line["found"] for line in logged if "found" in line]
    assert found.pop("count") == 2
    assert list(found) == ["grounds", "shapes", "colored shapes"]
    assert all(0 <= share <= 1 for share in found.values())
    again = train.fit_flow(corpus, vae, SMALL, tmp_path, CPU)  # all is done: nothing is trained
    for a, b in zip(denoiser.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_scene_reader_is_trained_once(tmp_path):
    from mmdit_probe.tiny import train

    vae = make_autoencoder(SMALL).eval()
    first = train.fit_reader(vae, SMALL, tmp_path, CPU)
    again = train.fit_reader(vae, SMALL, tmp_path, CPU)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_autoencoder_keeps_its_images_when_its_latents_are_evened_out(tmp_path, monkeypatch):
    corpus = make_corpus(4, 1, tmp_path)
    from mmdit_probe.tiny import autoencoder

    kept = {}
    original = autoencoder._standardize

    def noted(vae, pixels):
        with torch.no_grad():
            kept["before"] = vae.decode(vae.encode(pixels).latent_dist.mean).sample
            original(vae, pixels)
            kept["after"] = vae.decode(vae.encode(pixels).latent_dist.mean).sample

    monkeypatch.setattr(autoencoder, "_standardize", noted)
    vae = train_autoencoder(make_autoencoder(SMALL), corpus.images, SMALL, CPU)
    torch.testing.assert_close(kept["before"], kept["after"], atol=1e-4, rtol=0)
    latents = encode_all(vae, corpus.images, CPU).float()
    assert latents.std() == pytest.approx(1, abs=0.02)
    assert latents.mean() == pytest.approx(0, abs=0.02)


def test_the_corpus_is_the_scenes(tmp_path):
    from mmdit_probe.datasets.scenes import scene

    for _ in range(2):  # drawn, then read
        corpus = make_corpus(3, 2, tmp_path)
        np.testing.assert_array_equal(corpus.images[2], scene("train", 2).image)
        assert corpus.captions[2, 1] == scene("train", 2).caption(1)


def test_the_contrastive_loss_shares_the_target_among_equal_captions():
    logits = torch.randn(3, 3)
    plain = contrastive_loss(logits, np.array(["a", "b", "c"]))
    target = torch.arange(3)
    twin = (torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(plain, twin)
    perfect = torch.tensor([[50.0, 50, 0], [50, 50, 0], [0, 0, 50]])
    assert contrastive_loss(perfect, np.array(["a", "a", "b"])) == pytest.approx(2 / 3 * np.log(2), abs=1e-4)


def test_the_tiny_clip_trains_and_resumes(tmp_path):
    corpus = make_corpus(6, 2, tmp_path)
    whole = train_clip(corpus, SMALL, tmp_path, CPU, save_every=2)
    file = tmp_path / "clip.pt"
    assert torch.load(file, weights_only=True)["step"] == 4
    again = train_clip(corpus, SMALL, tmp_path, CPU)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_processor_gives_the_pixels_that_clip_was_trained_on(tmp_path):
    from mmdit_probe.datasets.scenes import scene
    from mmdit_probe.tiny.autoencoder import to_model

    image = scene("test", 0).image
    given = make_processor(SMALL)(images=[image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(given, to_model(image[None], CPU), atol=1e-5, rtol=0)
    assert make_clip(SMALL, make_tokenizer(24)).config.vision_config.image_size == 64


def test_baselines_know_their_order():
    from mmdit_probe.datasets.scenes import scenes

    found = baselines(list(scenes("test", 20)))
    assert (
        found["random present class"]["miou"]
        < found["largest class"]["miou"]
        < found["ceiling of the grid"]["miou"]
        < 1
    )
