"""Every setting of tiny-sd3's training, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Sizes and training settings; the defaults are those of the shipped weights."""

    seed: int = 0
    scenes: int = 100_000
    """Number of training scenes, each with ``caption_variants`` captions."""
    caption_variants: int = 4
    text_length: int = 24
    """Positions of each CLIP tokenizer, start and end tokens included."""

    # autoencoder: 64x64 px -> 8x8x16
    latent_channels: int = 16
    autoencoder_channels: tuple[int, ...] = (16, 32, 64, 96)
    autoencoder_steps: int = 4_500
    autoencoder_batch: int = 16
    autoencoder_rate: float = 2e-3
    kl_weight: float = 1e-4

    # text encoders, whose embeddings are concatenated: the widths add up to the joint attention width
    text_widths: tuple[int, int] = (64, 128)
    text_layers: tuple[int, int] = (2, 3)
    token_std: float = 0.5

    # transformer
    layers: int = 12
    heads: int = 4
    head_width: int = 32

    # flow matching
    samples: int = 250_000
    batch: int = 32
    rate: float = 1e-3
    warmup_steps: int = 500
    decay_fraction: float = 0.3
    """Share of the steps, the last ones, over which the rate falls to 0 by a cosine."""
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema: float = 0.998
    noise_mean: float = 1.0
    """Mean of the logit-normal noise level; more noise than SD3's 0, because with little noise the image itself shows what each
    token is, and the caption is not learned."""
    noise_std: float = 1.0
    pooled_keep: float = 0.2
    """Share of the samples that see the pooled text vector; without it the words must come through attention."""
    absent_t5: tuple[int, ...] = (0, 77, 256)
    """Numbers of all-zero T5 positions, drawn evenly; diffusers appends ``max_sequence_length`` of them if T5 is absent."""

    # tiny CLIP
    clip_width: int = 128
    clip_layers: int = 4
    clip_steps: int = 2_500
    clip_batch: int = 128
    clip_rate: float = 1e-3

    # scene reader
    reader_scenes: int = 24_000
    reader_steps: int = 4_000
    reader_batch: int = 32

    @property
    def width(self) -> int:
        """Model width of the transformer."""
        return self.heads * self.head_width

    @property
    def text_width(self) -> int:
        """Width of the text embeddings that the transformer takes."""
        return sum(self.text_widths)
