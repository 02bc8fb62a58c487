"""Small random pipelines of families that can be given images, made by their constructors."""

from __future__ import annotations

import warnings
from typing import Any

import diffusers
import torch
from models_flux import SMALL
from models_image import lumina2 as lumina2_transformer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    MistralConfig,
    MistralModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from mmdit_probe.tiny.tokenizer import make_tokenizer

T5 = {"vocab_size": 1000, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
LENGTH = 20
CHAT = (
    "{% for m in messages %}a {{ m['content'] if m['content'] is string else m['content'][0]['text'] }} on {% endfor %}"
)


def scheduler(**options: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**options)


def dynamic() -> Any:
    """Flux.1-dev's schedule."""
    return scheduler(shift=3.0, use_dynamic_shifting=True)


def autoencoder(channels: int = 4) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels, norm_num_groups=2, shift_factor=0.25, scaling_factor=0.7,
    )  # fmt: skip


def tokenizer() -> Any:
    made = make_tokenizer(LENGTH)
    made.chat_template = CHAT
    return made


def flux() -> Any:
    clip = CLIPTextConfig(
        vocab_size=1000, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=LENGTH, projection_dim=8,
    )  # fmt: skip
    options = {**SMALL, "in_channels": 16, "pooled_projection_dim": 16, "guidance_embeds": True}
    return diffusers.FluxPipeline(
        dynamic(), autoencoder(), CLIPTextModel(clip), tokenizer(), T5EncoderModel(T5Config(**T5)), tokenizer(),
        diffusers.FluxTransformer2DModel(**options),
    )  # fmt: skip


def flux2(klein: bool = False) -> Any:
    """Its text encoder is read at layers up to the 30th."""
    layers = MistralConfig(
        vocab_size=1000, hidden_size=8, intermediate_size=8, num_hidden_layers=31, num_attention_heads=2,
        num_key_value_heads=2, head_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=2,
    )  # fmt: skip
    vae.bn.running_mean.uniform_(-0.5, 0.5)
    vae.bn.running_var.uniform_(0.5, 2.0)
    options = {
        "in_channels": 16,
        "axes_dims_rope": (2, 2, 2, 2),
        "joint_attention_dim": 24,
        "guidance_embeds": not klein,
    }
    transformer = diffusers.Flux2Transformer2DModel(**{**SMALL, **options, "timestep_guidance_channels": 8})
    used = tokenizer()
    used.padding_side = "left"
    kind = diffusers.Flux2KleinPipeline if klein else diffusers.Flux2Pipeline
    pipe = kind(dynamic(), vae, MistralModel(layers), used, transformer)
    if not klein:
        pipe.system_message = "on a moon"
    return pipe


def longcat() -> Any:
    """Its pipeline makes latents of 16 channels, whatever the transformer takes."""
    options = {**SMALL, "in_channels": 16, "pooled_projection_dim": 8}
    transformer = diffusers.LongCatImageTransformer2DModel(**options)
    encoder = T5EncoderModel(T5Config(**T5))
    pipe = diffusers.LongCatImagePipeline(dynamic(), autoencoder(), encoder, tokenizer(), None, transformer)
    pipe.tokenizer_max_length = 32
    pipe.prompt_template_encode_prefix, pipe.prompt_template_encode_suffix = "on a moon ", " above"
    return pipe


def ovis() -> Any:
    transformer = diffusers.OvisImageTransformer2DModel(**{**SMALL, "in_channels": 16, "out_channels": 16})
    encoder = T5EncoderModel(T5Config(**T5))
    pipe = diffusers.OvisImagePipeline(dynamic(), autoencoder(), encoder, tokenizer(), transformer)
    pipe.system_prompt, pipe.user_prompt_begin_id = "above sand ", 3
    return pipe


def bria(schedule: Any = None) -> Any:
    """Its pipeline counts one halving more than its autoencoder makes, so that one of its px units is one token wide."""
    transformer = diffusers.BriaTransformer2DModel(**{**SMALL, "axes_dims_rope": [2, 2, 4], "in_channels": 16})
    encoder = T5EncoderModel(T5Config(**T5))
    return diffusers.BriaPipeline(transformer, schedule or dynamic(), autoencoder(), encoder, tokenizer())


def chroma() -> Any:
    approximator = {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1}
    return diffusers.ChromaPipeline(
        scheduler(), autoencoder(), T5EncoderModel(T5Config(**T5)), tokenizer(),
        diffusers.ChromaTransformer2DModel(**{**SMALL, "in_channels": 16, **approximator}),
    )  # fmt: skip


def auraflow() -> Any:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=16, out_channels=4, pos_embed_max_size=64,
    )  # fmt: skip
    vae = autoencoder()
    vae.register_to_config(shift_factor=None)
    return diffusers.AuraFlowPipeline(
        tokenizer(), UMT5EncoderModel(UMT5Config(**T5)), vae, transformer, scheduler(shift=1.73)
    )


def qwen() -> Any:
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e4}
    words = {"vocab_size": 1000, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 2, "rope_parameters": rope}  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    text_encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=words, vision_config=vision))
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 1.0, 2.0],
    )  # fmt: skip
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    pipe = diffusers.QwenImagePipeline(dynamic(), vae, text_encoder, tokenizer(), transformer)
    pipe.prompt_template_encode, pipe.prompt_template_encode_start_idx = "a moon on {} above sand", 3
    return pipe


def z_image() -> Any:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=16, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=16, axes_dims=[2, 2, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    return diffusers.ZImagePipeline(
        scheduler(shift=3.0), autoencoder(), T5EncoderModel(T5Config(**T5)), tokenizer(), transformer
    )


def lumina2() -> Any:
    pipe = diffusers.Lumina2Pipeline(
        lumina2_transformer(), dynamic(), autoencoder(), T5EncoderModel(T5Config(**T5)), tokenizer()
    )
    pipe.system_prompt, pipe.vae_scale_factor = "on a moon", 2
    return pipe


MAKERS = {
    "flux": flux,
    "flux2": flux2,
    "flux2-klein": lambda: flux2(klein=True),
    "longcat-image": longcat,
    "ovis-image": ovis,
    "bria": bria,
    "bria-unmoved": lambda: bria(scheduler(shift=3.0)),
    "chroma": chroma,
    "auraflow": auraflow,
    "qwen-image": qwen,
    "z-image": z_image,
    "lumina2": lumina2,
}


def small_pipeline(name: str) -> Any:
    """Every weight random, also those that start at zero; a native size of 32 px."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that diffusers itself uses and means to drop
        pipe = MAKERS[name]()
    generator = torch.Generator().manual_seed(1)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # no dropout, as when they are loaded
    for part in (pipe.transformer, pipe.vae):
        for weight in part.requires_grad_(False).parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    pipe.default_sample_size = 32 // pipe.vae_scale_factor
    pipe.set_progress_bar_config(disable=True)
    return pipe
