"""Small random modular pipelines: of the parts of an ordinary one, and Flux.3, which is modular alone."""

from __future__ import annotations

import warnings
from typing import Any

import diffusers
import torch
from small_pipelines import CHAT, LENGTH, small_pipeline
from transformers import CLIPImageProcessor, LlavaProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from mmdit_probe.tiny.tokenizer import make_tokenizer

QWEN_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""Qwen-Image's own, which the modular pipeline always takes."""


def modular_of(base: Any, blocks: str, **more: Any) -> Any:
    """The modular pipeline of these blocks, of an ordinary pipeline's parts."""
    pipe = getattr(diffusers.modular_pipelines, blocks)().init_pipeline()
    known = {name: part for name, part in base.components.items() if name in pipe.component_names and part is not None}
    pipe.update_components(**known, **more)
    return pipe


def flux_pair() -> tuple[Any, Any]:
    """An ordinary and a modular Flux.1 of the same parts."""
    base = small_pipeline("flux")
    return base, modular_of(base, "FluxAutoBlocks")


def qwen_pair(**more: Any) -> tuple[Any, Any]:
    """An ordinary and a modular Qwen-Image of the same parts, with the same template."""
    base = small_pipeline("qwen-image")
    base.prompt_template_encode, base.prompt_template_encode_start_idx = QWEN_TEMPLATE, 34
    return base, modular_of(base, "QwenImageAutoBlocks", **more)


def flux2_pair(klein: bool = False) -> tuple[Any, Any]:
    """An ordinary and a modular Flux.2 of the same parts, with the same system message."""
    base = small_pipeline("flux2-klein" if klein else "flux2")
    base.tokenizer = make_tokenizer(512)
    base.tokenizer.chat_template, base.tokenizer.padding_side = CHAT, "left"
    modular = modular_of(base, "Flux2KleinAutoBlocks" if klein else "Flux2AutoBlocks")
    if not klein:
        base.system_message = next(
            step.DEFAULT_SYSTEM_MESSAGE
            for step in modular.blocks.sub_blocks.values()
            if hasattr(step, "DEFAULT_SYSTEM_MESSAGE")
        )
    return base, modular


def z_image_pair() -> tuple[Any, Any]:
    """An ordinary and a modular Z-Image of the same parts."""
    base = small_pipeline("z-image")
    return base, modular_of(base, "ZImageAutoBlocks")


def stable_diffusion_3_pair(base: Any) -> tuple[Any, Any]:
    """An ordinary Stable Diffusion 3 and a modular one of the same parts."""
    return base, modular_of(base, "StableDiffusion3AutoBlocks")


def flux3() -> Any:
    """Its text encoder is read at layers up to the 32nd; its image processor's grid is of 16 px, its autoencoder's of 4."""
    torch.manual_seed(0)
    words = {
        "vocab_size": 1000, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 32, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 8,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    text_encoder = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=words, vision_config=vision)).eval()
    tokenizer = make_tokenizer(LENGTH)
    processor = LlavaProcessor(
        CLIPImageProcessor(), tokenizer, patch_size=14, vision_feature_select_strategy="default", chat_template=CHAT
    )
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=2,
    ).eval()  # fmt: skip
    vae.bn.running_mean.uniform_(-0.5, 0.5)
    vae.bn.running_var.uniform_(0.5, 2.0)
    transformer = diffusers.Flux3Transformer2DModel(
        in_channels=16, cond_in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=64, timestep_channels=16, axes_dims_rope=(4, 4, 4, 4),
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for part in (transformer, vae, text_encoder):
        for weight in part.requires_grad_(False).parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    blocks = diffusers.modular_pipelines.Flux3AutoBlocks()
    blocks.sub_blocks.pop("prompt_upsampler")
    pipe = blocks.init_pipeline()
    pipe.update_components(text_encoder=text_encoder, tokenizer=processor, vae=vae, transformer=transformer)
    return pipe


def saved(pipe: Any, folder: Any) -> str:
    """The folder in which a modular pipeline was saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.save_pretrained(str(folder), overwrite_modular_index=True)
    return str(folder)
