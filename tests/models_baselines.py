"""Small random models of the baselines' backbones, made by constructors."""

from __future__ import annotations

from typing import Any

import torch


def _text(tokenizer: Any, projection: bool = False, width: int = 16) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=tokenizer.model_max_length, projection_dim=width,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _autoencoder() -> Any:
    from diffusers import AutoencoderKL

    kinds = 3
    return AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * kinds, up_block_types=("UpDecoderBlock2D",) * kinds,
        block_out_channels=(8,) * kinds, latent_channels=4, norm_num_groups=4, sample_size=64)  # fmt: skip


def _scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
    )


def _unet(width: int, **options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(8, 8, 8),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=width, attention_head_dim=2, **options)  # fmt: skip


def stable_diffusion(length: int = 77) -> Any:
    """Stable Diffusion 1: latents a quarter of the image's width, 2 and 3 attention blocks down and up and one amid."""
    from diffusers import StableDiffusionPipeline

    from mmdit_probe.tiny.tokenizer import make_tokenizer

    torch.manual_seed(0)
    tokenizer = make_tokenizer(length)
    pipe = StableDiffusionPipeline(vae=_autoencoder(), text_encoder=_text(tokenizer), tokenizer=tokenizer,
        unet=_unet(16), scheduler=_scheduler(), safety_checker=None, feature_extractor=None, image_encoder=None,
        requires_safety_checker=False)  # fmt: skip
    return _frozen(pipe)


def stable_diffusion_xl() -> Any:
    """Stable Diffusion XL, with two text encoders."""
    from diffusers import StableDiffusionXLPipeline

    from mmdit_probe.tiny.tokenizer import make_tokenizer

    torch.manual_seed(0)
    tokenizer = make_tokenizer(77)
    unet = _unet(32, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16)  # fmt: skip
    pipe = StableDiffusionXLPipeline(vae=_autoencoder(), text_encoder=_text(tokenizer),
        text_encoder_2=_text(tokenizer, projection=True), tokenizer=tokenizer, tokenizer_2=tokenizer, unet=unet,
        scheduler=_scheduler(), add_watermarker=False)  # fmt: skip
    return _frozen(pipe)


def _frozen(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def clip() -> tuple[Any, Any]:
    """A CLIPModel for 32 px in patches of 8, and its processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from mmdit_probe.tiny.tokenizer import make_tokenizer

    torch.manual_seed(0)
    tokenizer = make_tokenizer(32)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 4}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    config = CLIPConfig(
        text_config={**shared, **text}, vision_config={**shared, "image_size": 32, "patch_size": 8}, projection_dim=12
    )
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    model = CLIPModel(config).eval().requires_grad_(False)
    return model, CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def dino() -> Any:
    """A ViTModel for 32 px in patches of 4."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
        patch_size=4)  # fmt: skip
    return ViTModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def sam() -> Any:
    """A SamModel for 64 px."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
              "output_channels": 16, "mlp_dim": 32, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 8}  # fmt: skip
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 16,
        "mlp_dim": 32,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
        "num_hidden_layers": 2,
    }
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    return SamModel(config).eval().requires_grad_(False)


def sam2() -> Any:
    """A Sam2Model for 64 px."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    torch.manual_seed(0)
    backbone = Sam2HieraDetConfig(hidden_size=8, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 4, 2, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4])  # fmt: skip
    vision = Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=16)  # fmt: skip
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    return Sam2Model(config).eval().requires_grad_(False)
