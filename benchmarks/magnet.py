"""What MAGNET's mask loss costs beside a plain LoRA step: ``python -m benchmarks.magnet``.

SD3-size blocks, forward and backward, rank 16 on every attention projection; the variants are run in turn and the ratios
taken round by round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch

from mmdit_probe import JointAttention, Probe
from mmdit_probe.configs import MagnetConfig
from mmdit_probe.magnet.i2t_logits import AttentionTap
from mmdit_probe.magnet.lora import add_lora
from mmdit_probe.magnet.objective import Target, mask_loss

from .cost import in_turn, ratios
from .models import block_stack, inputs

SIDE, LAYER, MASKS = 64, 0, 8
LIMIT = 1.10


def targets() -> list[Target]:
    """Eight masks, each of a class of two tokens; all of the 77 CLIP positions may be matched."""
    masks = (torch.rand(MASKS, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    return [Target(masks, [(1 + 2 * n, 2 + 2 * n) for n in range(MASKS)], range(77))]


def materialized(attention: JointAttention) -> torch.Tensor:
    """The scores of the whole matrix, of which the text columns are then read: how attention is usually tapped."""
    scores = attention.query @ attention.key.transpose(-1, -2) * attention.scale
    layout = attention.layout
    maps = scores.mean(1)[:, layout.image_slice, layout.text_slice].transpose(-1, -2).unflatten(-1, (SIDE, SIDE))
    return maps.square().mean()


def variants(blocks: int) -> dict[str, Callable[[], None]]:
    model, given = block_stack(blocks), inputs(SIDE)
    weights = add_lora(SimpleNamespace(transformer=model, components={"transformer": model}), 16)
    target, wanted = torch.randn_like(given["hidden_states"]), targets()

    def step(mask: Callable[[JointAttention], torch.Tensor] | None = None) -> None:
        tap = AttentionTap(LAYER)
        if mask is None:
            loss = (model(**given).sample - target).square().mean()
        else:
            with Probe(model, [], edits=[tap]):
                velocity = model(**given).sample
            loss = (velocity - target).square().mean() + mask(tap.take())
        loss.backward()
        for weight in weights:
            weight.grad = None

    def magnet(config: MagnetConfig) -> Callable[[JointAttention], torch.Tensor]:
        def mask(attention: JointAttention) -> torch.Tensor:
            found = mask_loss(attention, wanted, config)
            return found.focal + found.dice

        return mask

    config = MagnetConfig()
    return {
        "plain": step,
        "mask loss, token matching": lambda: step(magnet(config)),
        "mask loss, head matching": lambda: step(magnet(replace(config, matching="head"))),
        "mask loss, token matching, probs": lambda: step(magnet(replace(config, read="probs"))),
        "straw man: scores of the whole matrix": lambda: step(materialized),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/benchmark"))
    options = parser.parse_args()
    table = pd.DataFrame(ratios(in_turn(variants(options.blocks), options.rounds), "time")).drop(columns="kind")
    table["at most"] = [LIMIT if "matching" in what and "probs" not in what else None for what in table["what"]]
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "magnet.csv", index=False)
    print(
        f"{options.blocks} SD3-size blocks, {SIDE * SIDE} image tokens, {torch.get_num_threads()} threads, step / plain step"
    )
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep=""))


if __name__ == "__main__":
    main()
