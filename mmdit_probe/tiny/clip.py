"""The tiny CLIP: a transformers CLIPModel trained contrastively on the same scenes, for CLIP metrics offline."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from .autoencoder import to_model
from .corpus import Corpus
from .recipe import Recipe
from .tokenizer import make_tokenizer


def make_clip(recipe: Recipe, tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP for 64 x 64 px in patches of 8."""
    shared = {
        "hidden_size": recipe.clip_width,
        "intermediate_size": 4 * recipe.clip_width,
        "num_attention_heads": recipe.clip_width // 32,
        "num_hidden_layers": recipe.clip_layers,
        "hidden_act": "gelu",
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": recipe.text_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(
        text_config={**shared, **text},
        vision_config={**shared, "image_size": 64, "patch_size": 8},
        projection_dim=recipe.clip_width,
    )
    torch.manual_seed(recipe.seed)
    model = CLIPModel(config)
    nn.init.normal_(model.text_model.embeddings.token_embedding.weight, std=recipe.token_std)
    return model


def make_processor(recipe: Recipe) -> CLIPProcessor:
    """Its processor, which scales pixels to [-1, 1] like `to_model`."""
    images = CLIPImageProcessor(
        size={"height": 64, "width": 64}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return CLIPProcessor(image_processor=images, tokenizer=make_tokenizer(recipe.text_length))


def contrastive_loss(logits: Tensor, captions: np.ndarray) -> Tensor:
    """Symmetric cross-entropy; images with the same caption share the target evenly."""
    same = torch.from_numpy(captions[:, None] == captions[None, :]).to(logits)
    target = same / same.sum(1, keepdim=True)
    return 0.5 * (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target))


def train_clip(corpus: Corpus, recipe: Recipe, work: Path, device: torch.device, save_every: int = 250) -> CLIPModel:
    """Train to the end; continues from the checkpoint in the work folder if there is one."""
    tokenizer = make_tokenizer(recipe.text_length)
    model = make_clip(recipe, tokenizer).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.clip_rate, weight_decay=0.05, betas=(0.9, 0.98))
    file, first = work / "clip.pt", 0
    if file.exists():
        state = torch.load(file, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    bar = tqdm(range(first, recipe.clip_steps), "tiny CLIP", recipe.clip_steps, initial=first, mininterval=10)
    for step in bar:
        loss = _step(model, corpus, tokenizer, recipe, step, device)
        for group in optimizer.param_groups:
            group["lr"] = recipe.clip_rate * _schedule(step, recipe.clip_steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(max=math.log(100))
        if step % 25 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % save_every == 0 or step + 1 == recipe.clip_steps:
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, f"{file}.tmp"
            )
            os.replace(f"{file}.tmp", file)
    return model.eval()


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _step(
    model: CLIPModel, corpus: Corpus, tokenizer: CLIPTokenizer, recipe: Recipe, step: int, device: torch.device
) -> Tensor:
    rng = np.random.default_rng([recipe.seed, step])
    chosen = np.sort(rng.choice(len(corpus.images), recipe.clip_batch, replace=False))
    captions = corpus.captions[chosen, rng.integers(corpus.captions.shape[1], size=len(chosen))]
    kept = captions != ""
    tokens = tokenizer(list(captions[kept]), padding="max_length", truncation=True, return_tensors="pt").to(device)
    pixels = to_model(corpus.images[chosen[kept]], device)
    return contrastive_loss(model(pixel_values=pixels, **tokens).logits_per_image, captions[kept])
