"""Encoding in strips of rows: the plain encoder's numbers, and nothing is changed for good."""

import diffusers
import pytest
import torch
from small_pipelines import small_pipeline
from torch import nn

from mmdit_probe.families import strips
from mmdit_probe.families.image_input import encoded
from mmdit_probe.families.strips import in_strips


def autoencoder(dtype=torch.float32, **options):
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, layers_per_block=2, **options,
    )  # fmt: skip
    for weight in vae.requires_grad_(False).parameters():
        weight += 0.1 * torch.randn(weight.shape)
    return vae.to(dtype).eval()


def latents(vae, pixels):
    with torch.no_grad():
        return vae.encode(pixels).latent_dist.mean


@pytest.fixture
def small_strips(monkeypatch):
    """Every input is large, and a strip is of a few rows."""
    monkeypatch.setattr(strips, "LARGE", 1)
    monkeypatch.setattr(strips, "STRIP", 4096)


def used(monkeypatch):
    """Counts the blocks that go in strips."""
    calls = []
    for name in ("_residual", "_halved"):
        way = getattr(strips, name)
        monkeypatch.setattr(strips, name, lambda *given, way=way: calls.append(way.__name__) or way(*given))
    return calls


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (23, 18)])
@pytest.mark.parametrize("batch", [1, 2])
def test_latents_are_the_plain_encoders(small_strips, monkeypatch, size, batch):
    vae, pixels, calls = autoencoder(), torch.randn(batch, 3, *size), used(monkeypatch)
    plain = latents(vae, pixels)
    assert not calls
    with in_strips(vae):
        found = latents(vae, pixels)
    assert calls.count("_residual") == 6  # two in each block, two in the middle
    assert calls.count("_halved") == 1
    torch.testing.assert_close(found, plain, atol=2e-5, rtol=1e-4)
    assert torch.equal(latents(vae, pixels), plain)
    assert not any("forward" in vars(module) for module in vae.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_they_are_as_near_to_fp32_as_the_plain_ones(small_strips, dtype):
    vae, pixels = autoencoder(), torch.randn(1, 3, 32, 32)
    true, half = latents(vae, pixels), vae.to(dtype)
    plain = (latents(half, pixels.to(dtype)).float() - true).abs().mean()
    with in_strips(half):
        found = (latents(half, pixels.to(dtype)).float() - true).abs().mean()
    assert found < 1.5 * plain


def test_small_images_keep_every_bit(monkeypatch):
    vae, pixels, calls = autoencoder(), torch.randn(1, 3, 32, 32), used(monkeypatch)
    with in_strips(vae):
        assert torch.equal(latents(vae, pixels), latents(vae, pixels))
    assert not calls


def test_gradients_take_the_plain_way(small_strips, monkeypatch):
    vae, pixels, calls = autoencoder(), torch.randn(1, 3, 16, 16, requires_grad=True), used(monkeypatch)
    with in_strips(vae):
        vae.encode(pixels).latent_dist.mean.sum().backward()
    assert not calls
    assert pixels.grad.abs().sum() > 0


def test_all_is_undone_after_an_exception_and_another_wrapper_stays():
    vae = autoencoder()
    block = vae.encoder.down_blocks[0].resnets[0]
    block.forward = own = type(block).forward.__get__(block)
    with pytest.raises(RuntimeError), in_strips(vae):
        raise RuntimeError
    assert vars(block)["forward"] is own
    assert sum("forward" in vars(module) for module in vae.modules()) == 1


def test_what_has_no_such_blocks_is_left_alone():
    with in_strips(nn.Identity()), in_strips(small_pipeline("qwen-image").vae):
        pass


@pytest.mark.parametrize("name", ["flux", "flux2"])
def test_pipelines_read_images_in_strips(small_strips, monkeypatch, name):
    pipe, calls = small_pipeline(name), used(monkeypatch)
    pixels = torch.randn(1, 3, 32, 32)
    plain = latents(pipe.vae, pixels)
    with torch.no_grad():
        torch.testing.assert_close(encoded(pipe, pixels), plain, atol=2e-5, rtol=1e-4)
    assert calls
