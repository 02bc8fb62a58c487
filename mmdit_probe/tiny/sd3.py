"""tiny-sd3: `SD3Transformer2DModel` and two CLIP text encoders, as in Stable Diffusion 3; no T5."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from .denoiser import Denoiser
from .key_bias import KeyBias
from .parts import clip_config, make_scheduler, spread_tokens
from .recipe import Recipe
from .tokenizer import make_tokenizer


def make_tokenizers(recipe: Recipe) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Two tokenizers with the same vocabulary; as in SD3, the first pads with the end token, the second with "!"."""
    return make_tokenizer(recipe.text_length), make_tokenizer(recipe.text_length, pad="!")


def _text_encoder(recipe: Recipe, which: int, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    config = clip_config(recipe.text_widths[which], recipe.text_layers[which], recipe, tokenizer)
    encoder = CLIPTextModelWithProjection(config)
    spread_tokens(encoder, recipe)
    return encoder


def make_transformer(recipe: Recipe) -> SD3Transformer2DModel:
    """The MM-DiT, with modulations and output set to 0, so that training starts from the identity."""
    width = sum(recipe.text_widths)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        num_layers=recipe.layers,
        attention_head_dim=recipe.head_width,
        num_attention_heads=recipe.heads,
        joint_attention_dim=width,
        caption_projection_dim=recipe.width,
        pooled_projection_dim=width,
        pos_embed_max_size=16,
    )
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if "norm1" in name or "norm_out" in name or name.startswith("proj_out"):
                weight.zero_()
    return transformer


class Sd3Denoiser(Denoiser):
    """SD3's transformer and its two CLIP encoders, whose embeddings are concatenated."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        tokenizers = make_tokenizers(recipe)
        self.text_encoders = nn.ModuleList(_text_encoder(recipe, i, t) for i, t in enumerate(tokenizers))
        self.transformer: SD3Transformer2DModel = make_transformer(recipe)

    def parts(self) -> dict[str, tuple[Any, nn.Module]]:
        return {
            "transformer": (SD3Transformer2DModel, self.transformer),
            "text_encoder": (CLIPTextModelWithProjection, self.text_encoders[0]),
            "text_encoder_2": (CLIPTextModelWithProjection, self.text_encoders[1]),
        }

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (batch, length, width) and pooled vectors (batch, width) of token ids (2, batch, length)."""
        outputs = [encoder(i, output_hidden_states=True) for encoder, i in zip(self.text_encoders, ids, strict=True)]
        features = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        return features, torch.cat([output.text_embeds for output in outputs], -1)

    def forward(self, noisy: Tensor, sigma: Tensor, ids: Tensor, keep_pooled: Tensor, absent: Tensor) -> Tensor:
        """The predicted velocity.

        The all-zero T5 positions are equal in every layer, so that one of them with ``log(absent)`` added to its scores exactly
        replaces them all.
        """
        text, pooled = self.encode(ids)
        text = nn.functional.pad(text, (0, 0, 0, 1))
        bias = noisy.new_zeros(len(noisy), 1, 1, noisy.shape[-1] * noisy.shape[-2] + text.shape[1])
        bias[:, 0, 0, -1] = absent.float().log()
        with KeyBias(bias.clamp(min=-1e4)):
            return self.transformer(
                hidden_states=noisy,
                encoder_hidden_states=text,
                pooled_projections=pooled * keep_pooled[:, None],
                timestep=1000 * sigma,
            ).sample


def make_sd3(denoiser: Denoiser, vae: AutoencoderKL, recipe: Recipe) -> StableDiffusion3Pipeline:
    """A pipeline of the trained parts."""
    tokenizer, tokenizer_2 = make_tokenizers(recipe)
    parts = {name: part for name, (_, part) in denoiser.parts().items()}
    return StableDiffusion3Pipeline(
        **parts,
        scheduler=make_scheduler(),
        vae=vae,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        text_encoder_3=None,
        tokenizer_3=None,
    )
