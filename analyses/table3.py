"""Table 3: CLIPScore of generated images, without and with MAGNET, the paper's figures beside ours.

python analyses/table3.py [--lora NAME=PATH ...] [--model MODEL --prompts FILE --clip CLIP] [--quick]

Each LoRA's images start from the same seeds as the model's own; the gain is paired by prompt and seed, with its 95%
bootstrap interval over prompts. The paper's figures are means over Pick-a-Pic, COCO and SA-1B prompts, with another CLIP.
"""

from contextlib import nullcontext

import numpy as np
import pandas as pd
from _analysis import Analysis, main

from mmdit_probe.configs import GenerationConfig
from mmdit_probe.metrics.image_metrics import EMBEDDED_CLIP, Clip
from mmdit_probe.metrics.inference import mean_interval
from mmdit_probe.storage.digests import model_fingerprint
from mmdit_probe.storage.runs import RunFolder
from mmdit_probe.studies.image_grid import PLAIN, Variant, generate_grid
from mmdit_probe.utils.distributed import leave_to_first, stage

PROMPTS = 60
SEEDS = (0, 1)
STEPS = 28
BATCH = 8
PAPER = {"SD3": 27.1437, "SD3 + MAGNET (SA-1B)": 27.2447, "SD3 + MAGNET (COCO)": 27.2760}


def run(analysis: Analysis) -> list[str]:
    if analysis.clip is None and analysis.model != "tiny-sd3":
        raise ValueError("give --clip, such as openai/clip-vit-base-patch16; the embedded CLIP knows scenes only")
    clip = Clip(analysis.clip or EMBEDDED_CLIP, analysis.device)
    every: dict[str, np.ndarray] = {}
    for name, path in {"": None, **analysis.loras}.items():
        with stage():
            every[name] = scores(analysis, clip, name, path)
    leave_to_first()
    plain = every.pop("")
    rows = [{"model": analysis.model, "n": len(plain), "ours": plain.mean()}]
    for name, own in every.items():
        gain, low, high, n = mean_interval(own - plain)
        found = {"n": n, "ours": own.mean(), "gain": gain, "low": low, "high": high}
        rows.append({"model": f"{analysis.model} + {name}", **found})
    rows += [{"model": name, "paper": value} for name, value in PAPER.items()]
    table = pd.DataFrame(rows).reindex(columns=["model", "paper", "n", "ours", "gain", "low", "high"])
    analysis.table(table, "table3_clipscore")
    return [
        table.to_string(index=False, float_format="%.3f", na_rep="-"),
        "n is the number of prompts; ours are averages",
    ]


def scores(analysis: Analysis, clip: Clip, name: str, lora: str | None) -> np.ndarray:
    """CLIPScore (prompts, seeds)."""
    prompts, seeds = analysis.prompts(PROMPTS), analysis.fewer(SEEDS, SEEDS[:1])
    generation = GenerationConfig(steps=analysis.fewer(STEPS, 2))
    own = {"lora": lora and model_fingerprint(lora), "prompts": prompts, "seeds": seeds, "steps": generation.steps}
    with RunFolder.for_study(analysis.folder(f"-{name or 'plain'}"), "table3", analysis.label, **own).open() as folder:
        made = generate_grid(
            analysis.pipe(lora),
            folder,
            [Variant(PLAIN, nullcontext)],
            prompts,
            seeds,
            analysis.at_once(BATCH, BATCH),
            generation,
            axis="side",
        )
    images = made.images[PLAIN]
    return np.stack([clip.clip_score(images[:, n], images[:, n], prompts) for n in range(len(seeds))], 1)


if __name__ == "__main__":
    main(run, __doc__, lora=True)
