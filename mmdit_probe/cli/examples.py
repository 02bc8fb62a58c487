"""Examples: those at the end of each command's --help, and what `mmdit-probe` alone shows, task by task."""

from __future__ import annotations

from collections.abc import Mapping

import typer

_CIRCLE = '--prompt "a red circle on grass"'
_SD3 = "--model stabilityai/stable-diffusion-3-medium-diffusers --device cuda --dtype fp16"
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "attention-budget": (_CIRCLE, f"--prompts prompts.txt {_SD3}"),
    "value-norms": (_CIRCLE, "--prompts prompts.txt --timesteps 8,28"),
    "sinks": (_CIRCLE, "--prompts prompts.txt --timesteps 2,28"),
    "neglect": (_CIRCLE, "--prompts prompts.txt --layers 3-8"),
    "maps": (
        f"{_CIRCLE} --words circle,grass",
        f"{_CIRCLE} --words circle --layers 3-8 --timesteps 2,8,28 --heads all --format png",
        "--prompts prompts.txt --seeds 0,1,2",
        f"{_CIRCLE} --words circle,grass --animate gif,strip",
        f'--prompt "a dog on a bench" --words dog,bench --image photo.jpg {_SD3}',
    ),
    "correspondence": ("--timesteps 2,8", "--first one.png --second other.png --match output"),
    "pca": (_CIRCLE, "--scenes 0,1,2 --layers all"),
    "report": (_CIRCLE, f"--image photo.jpg --words dog,bench --out dog/dog.html {_SD3}"),
    "analyze": (_CIRCLE, f"{_CIRCLE} --words circle --timesteps 2,8 --format png"),
    "explore": (_CIRCLE, "results/analyze/analyze.nc --out again/again.html", "one.nc other.nc --out both/both.html"),
    "serve": ("--browser", f"--port 7860 {_SD3}"),
    "diff": ("one/analyze.nc other/analyze.nc",),
    "perturb": (f"--layers all {_CIRCLE} --seeds 0,1", "--layer 7 --edit knockout --prompts prompts.txt"),
    "guide": (f"--scales 0,2,4 {_CIRCLE}",),
    "patch": (
        '--from "a red circle on grass" --to "a blue circle on grass"',
        "--what block --tokens text --layers 3-8",
    ),
    "bind": ('--prompt "a red circle and a blue square on grass" --region "red circle=0,0,0.5,1"',),
    "find-heads": ("--prompts prompts.txt --layers 5-8",),
    "find-expert": ("", "--prompts prompts.txt --model stabilityai/stable-diffusion-3.5-medium --device cuda"),
    "segment": (f'photo.jpg --classes "dog,bench,grass" {_SD3}', "photos/ --classes dog,cat --layer auto"),
    "group": ("photo.jpg --threshold 0.5", "photo.jpg --method diffcut"),
    "evaluate": ("scenes --limit 100 --layers all", "voc20 --root data/voc --method seg4diff"),
    "leakage": ("scenes --limit 100 --read i2t,contribution", "voc20 --root data/voc --objects cat,dog,cow"),
    "models": ("", "--json"),
    "magnet train": ("--steps 100", "--data coco:data/coco --preset coco"),
    "magnet compare": ("--lora results/magnet --timesteps 2,8",),
    "magnet caption": ("data/sa_000020 --model Qwen/Qwen2-VL-7B-Instruct --device cuda --dtype bf16",),
    "magnet import-official": ("lora_weights.pth --out magnet-official",),
    "magnet compbench": ("color_val.txt", f"color_val.txt --lora results/magnet {_SD3}"),
}
"""By command, the arguments of its examples."""

TASKS = (
    ("See where the words of a prompt are", "maps", f"{_CIRCLE} --words circle"),
    ("See it for many prompts and seeds, with a contact sheet", "maps", "--prompts prompts.txt --seeds 0,1,2"),
    ("See everything about one image on one page", "report", _CIRCLE),
    ("Look around in it, pixel by pixel and word by word", "explore", _CIRCLE),
    ("Try prompts on a page in the browser", "serve", "--browser"),
    ("Read an image of yours", "report", "--image photo.jpg --words dog,bench"),
    ("Find the layer that grounds words", "find-expert", ""),
    ("Break a layer and see what the images lose", "perturb", f"--layer 7 {_CIRCLE}"),
    ("Find the layers that carry a fact", "patch", '--from "a red circle on grass" --to "a blue circle on grass"'),
    ("Put words in their places", "bind", '--prompt "a red circle and a blue square" --region "red circle=0,0,0.5,1"'),
    ("Cut out masks by name", "segment", "photo.jpg --classes dog,bench"),
    ("Measure masks on a data set", "evaluate", "scenes --limit 100"),
    ("Compare two prompts, models or LoRAs", "diff", "one/analyze.nc other/analyze.nc"),
    ("See which models can be probed", "models", ""),
)
"""What one wants, the command that does it, and its arguments."""


def line(command: str, arguments: str) -> str:
    """An example as it is typed."""
    return f"mmdit-probe {command} {arguments}".rstrip()


def add_examples(app: typer.Typer, group: str = "") -> None:
    """Put each command's examples at the end of its --help."""
    for info in app.registered_commands:
        name = info.name or getattr(info.callback, "__name__", "").replace("_", "-")
        full = f"{group} {name}".strip()
        if full in EXAMPLES:
            shown = "\n\n".join(f"- `{line(full, arguments)}`" for arguments in EXAMPLES[full])
            info.epilog = f"Examples:\n\n{shown}"


def tasks() -> str:
    """What can be done, task by task, in a line and a command each."""
    lines = [f"{wanted}:\n    {line(command, arguments)}" for wanted, command, arguments in TASKS]
    return "\n".join(
        [
            "mmdit-probe: see and change what the joint attention of diffusion transformers does.",
            "Without --model the embedded tiny-sd3 answers, offline.",
            "",
            *lines,
            "",
            "mmdit-probe --help lists all commands, mmdit-probe COMMAND --help its options and examples.",
        ]
    )
