"""The untrained parts of tiny-sd3: classes of diffusers and transformers, built by their constructors."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from .recipe import Recipe
from .tokenizer import make_tokenizer


def make_tokenizers(recipe: Recipe) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Two tokenizers with the same vocabulary; as in SD3, the first pads with the end token, the second with "!"."""
    return make_tokenizer(recipe.text_length), make_tokenizer(recipe.text_length, pad="!")


def make_autoencoder(recipe: Recipe) -> AutoencoderKL:
    """An autoencoder without attention that downsamples 8 times to 16 channels."""
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


def make_text_encoder(recipe: Recipe, which: int, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Text encoder 0 or 1; the pooled vector is taken at the first end token."""
    width = recipe.text_widths[which]
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=recipe.text_layers[which],
        num_attention_heads=width // 32,
        max_position_embeddings=recipe.text_length,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModelWithProjection(config)
    for name, weight in encoder.named_parameters():
        if name.endswith("token_embedding.weight"):
            nn.init.normal_(weight, std=recipe.token_std)
    return encoder


def make_transformer(recipe: Recipe) -> SD3Transformer2DModel:
    """The MM-DiT, with modulations and output set to 0, so that training starts from the identity."""
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        num_layers=recipe.layers,
        attention_head_dim=recipe.head_width,
        num_attention_heads=recipe.heads,
        joint_attention_dim=recipe.text_width,
        caption_projection_dim=recipe.width,
        pooled_projection_dim=recipe.text_width,
        pos_embed_max_size=16,
    )
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if "norm1" in name or "norm_out" in name or name.startswith("proj_out"):
                weight.zero_()
    return transformer


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """SD3's scheduler: 1000 steps, shift 3."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
