"""Parts that the embedded models have in common: classes of diffusers and transformers, built by their constructors."""

from __future__ import annotations

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import CLIPTextConfig, CLIPTokenizer

from .recipe import Recipe


def make_autoencoder(recipe: Recipe) -> AutoencoderKL:
    """An autoencoder without attention; each level but the last halves the sides."""
    levels = len(recipe.autoencoder_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=recipe.autoencoder_channels,
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def clip_config(width: int, layers: int, recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """A CLIP text encoder's sizes; the pooled vector is taken at the first end token."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=recipe.text_length,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def spread_tokens(encoder: nn.Module, recipe: Recipe) -> None:
    """Draw the token embeddings anew with ``token_std``; CLIP's 0.02 is too small here."""
    for name, weight in encoder.named_parameters():
        if name.endswith("token_embedding.weight"):
            nn.init.normal_(weight, std=recipe.token_std)


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """SD3's scheduler: 1000 steps, shift 3."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
