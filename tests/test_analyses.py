"""Every script of a figure or table runs with --quick on a small random model, and leaves its files."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

MORE = {"reading_generated": ["--model", "tiny-sd3"]}
"""Options of scripts that take no other model."""
SCRIPTS = Path(__file__).parent.parent / "analyses"
FILES = {
    "fig02_budget": ["fig02_budget.csv", "fig02_budget.pdf"],
    "fig03_fig29_pca": ["fig03_fig29_pca.csv", "fig03_r2.pdf", "fig29_pca.pdf", "fig29_pca_text.pdf"],
    "fig04_fig28_value_norms": ["fig04_value_norms.pdf", "fig28_value_norms_heads.csv"],
    "fig05_fig18_fig31_perturbation": ["fig05_sheet.pdf", "fig18_drops.csv", "fig18_drops.pdf", "fig31_sheet.pdf"],
    "fig06_fig32_guidance": ["fig06_fig32_sheet.pdf", "fig06_gains.csv", "fig06_gains.pdf"],
    "fig08_layers": ["fig08_layers.csv", "fig08_layers.pdf"],
    "fig09_fig30_heads_and_padding": ["fig09_heads.csv", "fig30_padding_scene0.pdf"],
    "expert_layer_law": ["expert_layer_law_model.csv", "expert_layer_law_model.pdf"],
    "fig15_timesteps": ["fig15_timesteps.csv", "fig15_timesteps.pdf"],
    "fig16_i2t_against_t2i": ["fig16_i2t.pdf", "fig16_t2i.pdf", "fig16_masks.csv", "fig16_masks.pdf"],
    "fig17_heads": ["fig17_heads.csv", "fig17_heads.pdf"],
    "layers_side_by_side": ["layers_side_by_side.csv", "layers_side_by_side.pdf"],
    "baselines_on_mmdit": ["baselines_on_mmdit.csv", "baselines_on_mmdit_tuning.csv"],
    "edits_on_scenes": ["edits_on_scenes.csv", "edits_sheet.pdf", "edits_drops.pdf"],
    "reading": ["reading.csv"],
    "reading_generated": ["reading_generated.csv"],
    "subjects_apart": ["subjects_apart.csv"],
    "table1": ["table1.csv"],
    "table2": ["table2.csv"],
    "table3": ["table3_clipscore.csv"],
    "table5": ["table5_normalization.csv"],
}


@pytest.fixture
def analysis(random_folder, tmp_path, monkeypatch, capsys):
    """Run a script in an empty folder; its standard output."""
    model = tmp_path / "model"
    shutil.copytree(random_folder, model)
    (model / "probe_defaults.json").write_text(json.dumps({"expert_layer": 1, "max_sequence_length": 0}))
    (tmp_path / "prompts.txt").write_text("a red circle on sand\na star on grass\na moon\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(name, *more):
        options = ["--model", "model", "--quick", "--prompts", "prompts.txt", "--clip", "tiny-clip", *more]
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / f"{name}.py"), *options])
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", list(FILES))
def test_a_script_leaves_its_figures_and_tables(analysis, tmp_path, name):
    printed = analysis(name, *MORE.get(name, []))
    for file in FILES[name]:
        assert file in printed
        assert (tmp_path / "results" / "quick" / file).stat().st_size > 0
    for pdf in (tmp_path / "results" / "quick").glob("*.pdf"):
        assert b"/FontFile2" in pdf.read_bytes()  # TrueType, embedded


def test_the_readings_means_are_those_of_evaluate(analysis, tmp_path):
    """The script reads every mean in one pass; the commands read each by itself."""
    import pandas as pd

    from mmdit_probe import load_pipeline
    from mmdit_probe.configs import EvaluateConfig
    from mmdit_probe.datasets.registry import open_dataset
    from mmdit_probe.evaluation.run import run_evaluation
    from mmdit_probe.evaluation.tables import tabulate

    assert "The highest:" in analysis("reading")
    results = tmp_path / "results" / "quick"
    table = pd.read_csv(results / "reading.csv").set_index(["read", "layers"])["miou"]
    pipe, images = load_pipeline("model"), open_dataset("scenes", limit=2)
    for read, aggregate, name in (
        ("i2t", "mean", "mean of all layers"),
        (
            "contribution",
            f"weights:{results / 'reading_weights_contribution.csv'}",
            "mean weighted by mIoU (validation)",
        ),
    ):
        config = EvaluateConfig(read=read, aggregate=aggregate, timesteps=(2,), limit=2, batch=4)
        found = tabulate(run_evaluation(pipe, images, config, tmp_path / read, "random"))
        assert found.settings["miou"].item() == pytest.approx(table[read, name])


def test_a_mistake_is_one_line(analysis, capsys):
    with pytest.raises(SystemExit) as stopped:
        analysis("table3", "--lora", "no-equals-sign")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: --lora: expected NAME=PATH")


def test_every_script_takes_the_same_options(analysis, capsys):
    """docs/reproducing.md says so."""
    for name in FILES:
        with pytest.raises(SystemExit) as stopped:
            analysis(name, "--help")
        assert stopped.value.code == 0
        said = capsys.readouterr().out
        for option in ("--model", "--prompts", "--clip", "--device", "--dtype", "--batch", "--quick"):
            assert f"{option} " in said, (name, option)


@pytest.mark.parametrize(
    ("name", "embedded", "larger"),
    [("fig08_layers", 50, 8), ("fig15_timesteps", 50, 4), ("fig17_heads", 20, 1), ("table5", 50, 8)],
)
def test_a_larger_model_reads_fewer_images_at_once(analysis, monkeypatch, name, embedded, larger):
    """And --batch says otherwise; a script's run is its batches, so that another --batch is another run."""
    import mmdit_probe.evaluation.run as evaluation

    taken = []

    def noted(pipe, images, config, *_, **__):
        taken.append(config.batch)
        raise ValueError("seen")

    monkeypatch.setattr(evaluation, "run_evaluation", noted)
    for more in ([], ["--model", "tiny-sd3"], ["--batch", "3"]):
        with pytest.raises(SystemExit):
            analysis(name, *more)
    assert taken == [larger, embedded, 3]


def test_tables_are_given_device_dtype_and_loras(analysis, monkeypatch):
    """Every row of Tables 1 and 2 is loaded where and as --device and --dtype say."""
    asked = []

    def load(source, device, dtype, lora=None):
        asked.append((device, dtype, lora))
        raise ValueError("not here")

    def parts(method, source, dino, sam, device, dtype):
        load(source, device, dtype)

    for module in ("mmdit_probe", "_analysis"):
        monkeypatch.setattr(f"{module}.load_pipeline", load)
    monkeypatch.setattr("mmdit_probe.baselines.loaded.load_clip_parts", parts)
    monkeypatch.setattr("_analysis.Analysis.fewer", lambda self, usual, quick: usual)
    options = ["--device", "meta", "--dtype", "fp16", "--lora", "COCO=mine"]
    for name, count in (("table1", 9), ("table2", 6)):
        asked.clear()
        assert "not run: Seg4Diff + MAGNET (SA-1B)" in analysis(name, *options)
        assert asked.count(("meta", "fp16", "mine")) == 1
        assert asked.count(("meta", "fp16", None)) == count - 1
    with pytest.raises(SystemExit):
        analysis("table2", "--lora", "other=mine")


def test_a_lora_trained_anew_is_not_scored_from_old_images(analysis, tmp_path, capsys):
    from mmdit_probe import load_pipeline
    from mmdit_probe.magnet.lora import add_lora, save_lora

    pipe = load_pipeline("model")
    add_lora(pipe, 2)
    file = save_lora(pipe, tmp_path / "lora")
    assert "+ magnet" in analysis("table3", "--lora", "magnet=lora")
    assert "+ magnet" in analysis("table3", "--lora", "magnet=lora")  # the same one continues
    save_file({name: weight + 1 for name, weight in load_file(file).items()}, file)
    with pytest.raises(SystemExit):
        analysis("table3", "--lora", "magnet=lora")
    assert "holds a run with other settings (lora)" in capsys.readouterr().err


def test_every_script_is_tested():
    own = {path.stem for path in SCRIPTS.glob("[!_]*.py")}
    assert set(FILES) == own
