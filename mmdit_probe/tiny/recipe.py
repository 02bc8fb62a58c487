"""Every setting of the embedded models' training, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Sizes and training settings; the defaults are those of a tiny-sd3 from random weights, `RECIPES` has both models'.

    The settings that shipped weights were made with are in the recipe.json beside them.
    """

    model: Literal["tiny-sd3", "tiny-flux"] = "tiny-sd3"
    started_from: str | None = None
    """The weights that were gone on from; None for random ones."""
    seed: int = 0
    scenes: int = 100_000
    """Number of training scenes, each with ``caption_variants`` captions."""
    caption_variants: int = 4
    text_length: int = 24
    """Positions of each CLIP tokenizer, start and end tokens included."""

    # autoencoder: 64x64 px -> 8x8x16; tiny-flux: 16x16x4, of which 2x2 are one token
    latent_channels: int = 16
    autoencoder_channels: tuple[int, ...] = (16, 32, 64, 96)
    autoencoder_steps: int = 4_500
    autoencoder_batch: int = 16
    autoencoder_crop: int = 64
    """Side in px of the squares that it is trained on; multiples of 8."""
    autoencoder_rate: float = 2e-3
    kl_weight: float = 1e-4

    # text encoders: two CLIPs, whose embeddings are concatenated; tiny-flux: CLIP and T5
    text_widths: tuple[int, int] = (64, 128)
    text_layers: tuple[int, int] = (2, 3)
    token_std: float = 0.5

    # transformer
    layers: int = 12
    """Blocks with two streams; tiny-flux has ``single_layers`` more behind them."""
    single_layers: int = 0
    heads: int = 4
    head_width: int = 32
    rotary: tuple[int, int, int] = (8, 12, 12)
    """Channels of a head that turn with the image's number, the row and the column; tiny-flux only."""

    # flow matching
    samples: int = 250_000
    batch: int = 32
    rate: float = 1e-3
    warmup_steps: int = 500
    decay_samples: int = 75_000
    """The last samples, over which the rate falls to 0 by a cosine."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: for the matrices of the blocks' attention and feed-forward layers; all else has AdamW."""
    loss: Literal["mse", "whitened"] = "mse"
    """whitened: each direction of latent space counts by the inverse of its residual's variance, see residuals.py."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: of the model's products while it is trained; weights, their averages and the loss stay in float32."""
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

    # how the pipeline is called
    text_positions: int = 0
    """``max_sequence_length``: positions of T5, all of them zero in tiny-sd3, which has none."""
    guidance: float | None = 7.5
    """Scale of classifier-free guidance; None for the pipeline's own."""

    # what is looked at after each checkpoint, and logged
    log_scenes: int = 50
    log_prompts: int = 40

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


RECIPES: Mapping[str, Recipe] = {
    "tiny-sd3": Recipe(),
    "tiny-flux": Recipe(
        model="tiny-flux",
        autoencoder_channels=(16, 32, 64),
        autoencoder_steps=3_000,
        autoencoder_crop=48,
        latent_channels=4,
        layers=4,
        single_layers=8,
        absent_t5=(0,),
        scenes=50_000,
        samples=128_000,
        decay_samples=32_000,
        optimizer="muon",
        text_positions=24,
        guidance=None,
    ),
}
"""The recipe of each embedded model."""
