"""Pipeline folders of real models' sizes, made by their constructors with random weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from mmdit_probe.pipelines.loading import DTYPES
from mmdit_probe.pipelines.pretrained import quiet_loading
from mmdit_probe.tiny.tokenizer import make_tokenizer

CLIP_POSITIONS = 77
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
NARROW = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VAE_CHANNELS, NARROW_CHANNELS = (128, 256, 512, 512), (8, 8, 8, 8)


@dataclass(frozen=True)
class RealModel:
    """A folder that can be made.

    Attributes:
        about: what of the model has its real size.
        make: the pipeline, from whether it is the narrow one of ``--quick``.
    """

    about: str
    make: Callable[[bool], Any]


def sd3(quick: bool) -> Any:
    """Stable Diffusion 3 medium: 24 layers, 77 CLIP + 77 absent T5 positions, 4096 image tokens."""
    width = (
        {"attention_head_dim": 8, "num_attention_heads": 2}
        if quick
        else {"attention_head_dim": 64, "num_attention_heads": 24}
    )
    widths = (NARROW, NARROW) if quick else (CLIP_L, CLIP_G)
    first, second = (clip(CLIPTextModelWithProjection, sizes) for sizes in widths)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16 if quick else 128, patch_size=2, in_channels=16, out_channels=16, num_layers=24,
        joint_attention_dim=64 if quick else 4096, pos_embed_max_size=16 if quick else 192,
        caption_projection_dim=width["attention_head_dim"] * width["num_attention_heads"],
        pooled_projection_dim=sum(sizes["hidden_size"] for sizes in widths), **width,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer, schedule(), autoencoder(quick), first, make_tokenizer(CLIP_POSITIONS),
        second, make_tokenizer(CLIP_POSITIONS, pad="!"), None, None,
    )  # fmt: skip


def flux(quick: bool) -> Any:
    """Flux.1-dev with 2 double- and 4 single-stream blocks; its T5 has one narrow layer of the real output width."""
    return _flux(2, 4, quick)


def flux_57(quick: bool) -> Any:
    """Flux.1's 19 + 38 blocks and 512 text tokens, 2 narrow heads: for the figures."""
    return _flux(19, 38, True)


def _flux(double: int, single: int, quick: bool) -> Any:
    return diffusers.FluxPipeline(
        schedule(use_dynamic_shifting=True), autoencoder(quick), clip(CLIPTextModel, NARROW if quick else CLIP_L),
        make_tokenizer(CLIP_POSITIONS), t5(64 if quick else 4096), make_tokenizer(512),
        flux_transformer(double, single, quick),
    )  # fmt: skip


def flux_transformer(double: int, single: int, quick: bool) -> Any:
    """Of Flux.1-dev's width, 24 heads of 128; of 2 heads of 8 if ``quick``."""
    rope = (2, 2, 4) if quick else (16, 56, 56)
    return diffusers.FluxTransformer2DModel(
        in_channels=64, num_layers=double, num_single_layers=single, attention_head_dim=sum(rope),
        num_attention_heads=2 if quick else 24, joint_attention_dim=64 if quick else 4096,
        pooled_projection_dim=32 if quick else 768, guidance_embeds=True, axes_dims_rope=rope,
    )  # fmt: skip


def video(quick: bool) -> Any:
    """CogVideoX-2B with 2 blocks: 13 x 30 x 45 video tokens (49 frames of 480 x 720 px) and 226 text tokens, 30 heads.

    Its autoencoder is narrow, as decoding 49 frames is not what is measured.
    """
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2 if quick else 30, attention_head_dim=16 if quick else 64, in_channels=16, out_channels=16,
        time_embed_dim=16 if quick else 512, text_embed_dim=64 if quick else 4096, num_layers=2, patch_size=2,
        sample_width=12 if quick else 90, sample_height=8 if quick else 60, sample_frames=9 if quick else 49,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=NARROW_CHANNELS, layers_per_block=1, norm_num_groups=4, latent_channels=16,
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return diffusers.CogVideoXPipeline(make_tokenizer(226), t5(64 if quick else 4096), vae, transformer, scheduler)


MODELS = {
    "sd3": RealModel("SD3 medium: all sizes real", sd3),
    "flux": RealModel("Flux.1: width, heads and tokens real, 2 + 4 blocks", flux),
    "flux-57": RealModel("Flux.1: 19 + 38 blocks and 512 text tokens real, width and image small", flux_57),
    "video": RealModel("CogVideoX-2B: width, heads and 480p tokens real, 2 blocks", video),
}


def schedule(**options: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **options)


def clip(kind: Any, sizes: dict[str, int]) -> Any:
    config = CLIPTextConfig(
        vocab_size=49408, max_position_embeddings=CLIP_POSITIONS, projection_dim=sizes["hidden_size"], **sizes
    )
    return kind(config)


def t5(width: int) -> Any:
    """One layer that is narrow inside."""
    return T5EncoderModel(T5Config(vocab_size=1000, d_model=width, d_kv=8, d_ff=64, num_layers=1, num_heads=2))


def autoencoder(quick: bool) -> Any:
    """The autoencoder of SD3 and Flux.1: 8 px to one latent pixel of 16 channels, 84 million parameters."""
    return diffusers.AutoencoderKL(
        block_out_channels=NARROW_CHANNELS if quick else VAE_CHANNELS, norm_num_groups=4 if quick else 32,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
        latent_channels=16, sample_size=1024, use_quant_conv=False, use_post_quant_conv=False,
        scaling_factor=1.5305, shift_factor=0.0609,
    )  # fmt: skip


def folder_of(name: str, work: Path, quick: bool, dtype: str, device: str = "cpu") -> Path:
    """The model's folder below ``work``: made if it is not there, whole or not at all."""
    folder = work / f"{name}-{'quick' if quick else 'real'}-{dtype}"
    if (folder / "parameters.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    with quiet_loading(), torch.device(device):
        pipe = MODELS[name].make(quick)
    parts = {part: module for part, module in pipe.components.items() if isinstance(module, nn.Module)}
    with quiet_loading():
        for module in parts.values():
            module.to(DTYPES[dtype])
        pipe.save_pretrained(folder)
    counts = {part: sum(weight.numel() for weight in module.parameters()) for part, module in parts.items()}
    (folder / "parameters.json").write_text(json.dumps(counts, indent=1))
    return folder


def made_apart(name: str, work: Path, quick: bool, dtype: str, device: str) -> Path:
    """The same in a process of its own: what a process has once held counts as its children's peak on Linux."""
    code = (
        "import sys; from pathlib import Path; from benchmarks.real_models import folder_of; "
        "name, work, quick, *more = sys.argv[1:]; print(folder_of(name, Path(work), bool(int(quick)), *more))"
    )
    given = [name, str(work), str(int(quick)), dtype, device]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-2000:]}")
    return Path(done.stdout.splitlines()[-1])


def weight_bytes(folder: Path, dtype: str) -> int:
    """Bytes of a folder's weights in this number format."""
    counts = json.loads((folder / "parameters.json").read_text())
    return sum(counts.values()) * DTYPES[dtype].itemsize
