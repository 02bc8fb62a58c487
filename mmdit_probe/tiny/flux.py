"""tiny-flux: `FluxTransformer2DModel`, a T5 whose tokens are attended to, and a CLIP of which only the pooled vector is."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from einops import rearrange
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from ..families.image_input import packed, position_ids
from .denoiser import Denoiser
from .parts import clip_config, make_scheduler, spread_tokens
from .recipe import Recipe
from .tokenizer import make_t5_tokenizer, make_tokenizer


def make_tokenizers(recipe: Recipe) -> tuple[CLIPTokenizer, T5Tokenizer]:
    """CLIP's and T5's, of the same length."""
    return make_tokenizer(recipe.text_length), make_t5_tokenizer(recipe.text_length)


def _t5(recipe: Recipe, tokenizer: T5Tokenizer) -> T5EncoderModel:
    width = recipe.text_widths[1]
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=32,
        d_ff=2 * width,
        num_layers=recipe.text_layers[1],
        num_heads=width // 32,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=False,
    )
    return T5EncoderModel(config)


def make_transformer(recipe: Recipe) -> FluxTransformer2DModel:
    """Double- then single-stream blocks, with modulations and output set to 0, so that training starts from the identity."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * recipe.latent_channels,
        num_layers=recipe.layers,
        num_single_layers=recipe.single_layers,
        attention_head_dim=recipe.head_width,
        num_attention_heads=recipe.heads,
        joint_attention_dim=recipe.text_widths[1],
        pooled_projection_dim=recipe.text_widths[0],
        guidance_embeds=False,
        axes_dims_rope=recipe.rotary,
    )
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if ".linear." in name or name.startswith("proj_out"):
                weight.zero_()
    return transformer


class FluxDenoiser(Denoiser):
    """Flux's transformer, its T5 and its CLIP."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        clip_tokenizer, t5_tokenizer = make_tokenizers(recipe)
        sizes = clip_config(recipe.text_widths[0], recipe.text_layers[0], recipe, clip_tokenizer)
        self.clip = CLIPTextModel(sizes)
        spread_tokens(self.clip, recipe)
        self.t5 = _t5(recipe, t5_tokenizer)
        self.transformer: FluxTransformer2DModel = make_transformer(recipe)

    def parts(self) -> dict[str, tuple[Any, nn.Module]]:
        return {
            "transformer": (FluxTransformer2DModel, self.transformer),
            "text_encoder": (CLIPTextModel, self.clip),
            "text_encoder_2": (T5EncoderModel, self.t5),
        }

    def forward(self, noisy: Tensor, sigma: Tensor, ids: Tensor, keep_pooled: Tensor, absent: Tensor) -> Tensor:
        """The predicted velocity; ``absent`` is not used, since T5 is there."""
        text = self.t5(ids[1]).last_hidden_state
        pooled = self.clip(ids[0]).pooler_output
        velocity = self.transformer(
            hidden_states=packed(noisy),
            encoder_hidden_states=text,
            pooled_projections=pooled * keep_pooled[:, None],
            timestep=sigma,
            img_ids=position_ids(noisy),
            txt_ids=noisy.new_zeros(text.shape[1], 3),
        ).sample
        rows = noisy.shape[-2] // 2
        return rearrange(velocity, "b (row col) (c two pair) -> b c (row two) (col pair)", row=rows, two=2, pair=2)


def make_flux(denoiser: Denoiser, vae: AutoencoderKL, recipe: Recipe) -> FluxPipeline:
    """A pipeline of the trained parts."""
    tokenizer, tokenizer_2 = make_tokenizers(recipe)
    parts = {name: part for name, (_, part) in denoiser.parts().items()}
    return FluxPipeline(**parts, scheduler=make_scheduler(), vae=vae, tokenizer=tokenizer, tokenizer_2=tokenizer_2)
