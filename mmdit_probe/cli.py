"""The command line: parse, call, print where the files are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .configs import BudgetConfig, GenerationConfig

app = typer.Typer(
    help="See and change what the joint attention of multi-modal diffusion transformers does.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_RESULTS = Path("results")

Model = Annotated[
    str,
    typer.Option(
        help="tiny-sd3 (embedded), a diffusers folder, or a hub id such as stabilityai/stable-diffusion-3-medium-diffusers."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="Number format of the weights.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, messages on standard error.")
]


@app.command("attention-budget")
def attention_budget(
    model: Model = "tiny-sd3",
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be given several times.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file with one prompt a line.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = GenerationConfig.steps,
    timesteps: Annotated[
        str, typer.Option(help="Timesteps to read, counted from the clean end: 8 of 28 is the 21st step.")
    ] = ",".join(map(str, BudgetConfig.timesteps)),
    guidance_scale: Annotated[
        float | None, typer.Option(help="Classifier-free guidance; the model's own default if not given.")
    ] = None,
    max_sequence_length: Annotated[
        int | None,
        typer.Option(
            help="T5 positions; the model's own default if not given (77 for SD3: the paper's 154 text tokens)."
        ),
    ] = None,
    height: Annotated[int | None, typer.Option(help="Picture height in px.")] = None,
    width: Annotated[int | None, typer.Option(help="Picture width in px.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the starting noise.")] = GenerationConfig.seed,
    dtype: Dtype = "fp32",
    device: Device = "cpu",
    revision: Revision = None,
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")] = _RESULTS
    / "attention-budget",
    as_json: AsJson = False,
) -> None:
    """Who attends to whom: I2I, I2T, T2I and T2T attention per layer, against uniform attention.

    Generates a picture for each prompt and reads the attention of the prompt's half of classifier-free guidance.
    Without --prompt and --prompts it takes 20 prompts of held-out synthetic scenes, which is what tiny-sd3 knows.

    Writes attention_budget.pdf / .png (Seg4Diff, Fig. 2), attention_budget.csv and attention_budget.nc.
    """
    from .budget import budget_table, read_aloud, run_budget
    from .figures import budget_figure, save_figure
    from .records import save_record
    from .runs import write_text

    config = BudgetConfig(
        _prompts(model, prompt, prompts),
        _numbers("--timesteps", timesteps),
        GenerationConfig(steps, guidance_scale, max_sequence_length, height, width, seed),
    )
    pipe = _load(model, dtype, device, revision)
    with _Bar("prompts", as_json) as bar:
        record = run_budget(pipe, config, out, model, bar.update)
    table = budget_table(record)
    files = [
        *save_figure(budget_figure(table), out / "attention_budget"),
        write_text(out / "attention_budget.csv", table.to_csv(index=False)),
        save_record(record, out / "attention_budget.nc"),
    ]
    _finish(read_aloud(table), files, as_json, table=json.loads(table.to_json(orient="records")))


@app.command()
def models(as_json: AsJson = False) -> None:
    """The embedded model and the families of transformers that can be probed."""
    from .families import FAMILIES
    from .pipelines import EMBEDDED, embedded_folder

    defaults = json.loads((embedded_folder() / "probe_defaults.json").read_text())
    rows = [
        {"family": f.name, "transformer": f.transformer, "models": f.models, "expert_layer": f.expert} for f in FAMILIES
    ]
    if as_json:
        typer.echo(json.dumps({"embedded": {"name": EMBEDDED, **defaults}, "families": rows}, indent=1))
        return
    typer.echo(f"Embedded:\n  {EMBEDDED}  expert layer {defaults['expert_layer']} ({defaults['why']})\n")
    typer.echo("Families (--model FOLDER or hub id):")
    for row in rows:
        expert = "" if row["expert_layer"] is None else f"  expert layer {row['expert_layer']}"
        typer.echo(f"  {row['family']:<12} {row['models']:<28} {row['transformer']}{expert}")


def _prompts(model: str, prompt: list[str] | None, file: Path | None) -> tuple[str, ...]:
    from .prompt_sets import read_prompts, scene_prompts

    if prompt and file:
        raise ValueError("give --prompt or --prompts, not both")
    if prompt:
        return tuple(prompt)
    if file is not None:
        return read_prompts(file)
    if model != "tiny-sd3":
        raise ValueError("give --prompt or --prompts FILE: the built-in prompts are scenes that only tiny-sd3 knows")
    return scene_prompts()


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ValueError(f"{option}: expected numbers separated by commas, such as 8,28; got {text!r}") from None


def _load(model: str, dtype: str, device: str, revision: str | None) -> Any:
    from .pipelines import load_pipeline

    return load_pipeline(model, dtype=dtype, device=device, revision=revision)


def _finish(lines: list[str], files: list[Path], as_json: bool, **data: Any) -> None:
    if as_json:
        typer.echo(json.dumps({"reading": lines, "files": [str(file) for file in files], **data}))
        return
    typer.echo("\n".join(lines))
    typer.echo("\nWritten:\n" + "\n".join(f"  {file}" for file in files))


class _Bar:
    """A progress bar on standard error; closed before any error is shown."""

    def __init__(self, unit: str, quiet: bool) -> None:
        self.unit, self.quiet = unit, quiet

    def __enter__(self) -> _Bar:
        from tqdm.auto import tqdm

        self.bar = tqdm(unit=f" {self.unit}", disable=self.quiet or None)
        return self

    def update(self, done: int, total: int) -> None:
        self.bar.total = total
        self.bar.n = done
        self.bar.refresh()

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def main() -> None:
    """Run; user errors are one line on standard error and exit code 2."""
    try:
        app()
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("stopped; finished work is kept", err=True)
        sys.exit(130)
