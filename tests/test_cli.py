"""Each command as a user runs it: what it prints, what it leaves, and how it refuses."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from mmdit_probe import load_record

FEW = ["--prompt", "a red circle on grass", "--steps", "2", "--timesteps", "1,2"]


def test_attention_budget_leaves_figure_table_and_record(run, tmp_path):
    code, out, _ = run("attention-budget", *FEW)
    assert code == 0
    assert "gives text the most" in out
    folder = tmp_path / "results" / "attention-budget"
    for kind in ("pdf", "png", "csv", "nc"):
        assert f"attention_budget.{kind}" in out
        assert (folder / f"attention_budget.{kind}").stat().st_size > 0
    assert len(pd.read_csv(folder / "attention_budget.csv")) == 2 * 3 * 4
    assert load_record(folder / "attention_budget.nc")["region_mass"].sizes["prompt"] == 1
    assert not list(folder.glob("*.part"))


def test_json_is_the_only_thing_on_standard_output(run):
    code, out, _ = run("attention-budget", *FEW, "--json")
    assert code == 0
    result = json.loads(out)
    assert len(result["summary"]) == 5
    assert len(result["table"]) == 24
    assert {"timestep", "sigma", "layer", "region", "mass", "spread", "uniform", "ratio", "n"} == set(
        result["table"][0]
    )


def test_prompts_from_a_file(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("# scenes\nsand\n\n  a blue star on snow \n")
    code, _, _ = run("attention-budget", "--prompts", "prompts.txt", "--steps", "2", "--timesteps", "1", "--out", "o")
    assert code == 0
    assert list(load_record(tmp_path / "o" / "attention_budget.nc")["prompt"].values) == ["sand", "a blue star on snow"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "sand", "--timesteps", "29"], "timesteps: must be in 1 to 28"),
        (["--prompt", "sand", "--timesteps", "8;9"], "--timesteps: expected numbers separated by commas"),
        (["--prompts", "missing.txt"], "missing.txt can't be read"),
        (["--prompt", "sand", "--prompts", "x.txt"], "not both"),
        ([], "give --prompt or --prompts FILE"),
        (["--prompt", "sand", "--device", "cuda"], "sees no CUDA GPU"),
        (["--prompt", "sand", "--device", "abacus"], "'abacus' is not a device"),
        (["--prompt", "sand", "--height", "63"], "height"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, arguments, message):
    if "cuda" in arguments and __import__("torch").cuda.is_available():
        pytest.skip("this machine has a CUDA GPU, so that asking for one is no mistake")
    code, out, err = run("attention-budget", *arguments)
    assert code == 2
    assert out == ""
    lines = err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("attention_budget.*"))


def test_an_empty_prompt_file_is_refused(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n# nothing\n")
    code, _, err = run("attention-budget", "--prompts", "prompts.txt")
    assert code == 2
    assert "holds no prompt" in err


def test_an_output_folder_that_is_a_file_is_refused(run, tmp_path):
    (tmp_path / "taken").write_text("")
    code, _, err = run("attention-budget", *FEW, "--out", "taken")
    assert code == 2
    assert "taken can't be written" in err


def test_a_missing_model_is_one_line(run):
    code, _, err = run("attention-budget", *FEW, "--model", "nobody/no-such-model", model=False)
    assert code == 2
    assert "neither a folder here nor a hub id that can be reached" in err


def test_a_folder_that_is_no_model_is_named(run, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = run("attention-budget", *FEW, "--model", "empty", model=False)
    assert code == 2
    assert "has no model_index.json" in err


def test_a_model_with_a_damaged_part_is_one_line(run, tmp_path, random_folder):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(random_folder, copy)
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, _, err = run("attention-budget", *FEW, "--model", str(copy), model=False)
    assert code == 2
    assert "diffusion_pytorch_model.safetensors is damaged or cut short" in err.strip().splitlines()[-1]


def test_models_lists_the_embedded_model_and_the_families(run):
    code, out, _ = run("models", model=False)
    assert code == 0
    assert "tiny-sd3  expert layer" in out
    assert "SD3Transformer2DModel  expert layer 9 of 24\n" in out
    code, out, _ = run("models", "--json", model=False)
    families = {row["family"]: row for row in json.loads(out)["families"]}
    assert families["sd3"]["transformer"] == "SD3Transformer2DModel"
    assert families["sd3"]["words"]
    assert families["sd3"]["images"]
    assert not families["glm-image"]["words"]
    assert families["wan"]["frames"]
    assert families["qwen-image"]["references"]
    assert "DiTTransformer2DModel" in json.loads(out)["out_of_scope"]
    assert not families["unet"]["images"]


def test_help_needs_no_torch():
    """--help answers at once, because nothing heavy is imported for it."""
    code = "import sys, mmdit_probe.cli; sys.exit(any(m in sys.modules for m in ('torch', 'diffusers', 'matplotlib', 'xarray')))"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


def test_help_teaches(run):
    code, out, _ = run("attention-budget", "--help", model=False)
    assert code == 0
    for words in ("--timesteps", "counted from the clean end", "attention_budget.pdf", "an interrupted run continues"):
        assert words.replace(" ", "") in "".join(out.replace("│", "").split())


def test_a_folder_is_continued_only_with_the_same_weights(run):
    assert run("attention-budget", *FEW)[0] == 0
    code, _, err = run("attention-budget", *FEW, "--dtype", "bf16")
    assert code == 2
    assert "holds a run with other settings (model)" in err


def test_offload_needs_a_gpu_and_a_lora_must_be_there(run):
    code, _, err = run("attention-budget", *FEW, "--offload", "model")
    assert code == 2
    assert "offload" in err.strip().splitlines()[-1]
    code, _, err = run("attention-budget", *FEW, "--lora", "missing.safetensors")
    assert code == 2
    assert "missing.safetensors" in err.strip().splitlines()[-1]


@pytest.mark.parametrize("command", ["attention-budget", "value-norms"])
def test_a_unet_has_text_keys_alone_and_says_so(run, tmp_path, command):
    from models_baselines import stable_diffusion

    stable_diffusion().save_pretrained(tmp_path / "unet")
    size = ["--height", "32", "--width", "32", "--steps", "2", "--timesteps", "1"]
    code, out, err = run(command, "--model", "unet", "--prompt", "sand", *size, model=False)
    assert code == 0, err
    assert {"attention-budget": "it has no T2I attention", "value-norms": "image tokens are no keys"}[command] in out
