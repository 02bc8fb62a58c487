"""Before and after MAGNET: the numbers, their intervals, and the commands from training to comparison."""

import contextlib
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmdit_probe.cli import main
from mmdit_probe.configs import CompareConfig, GenerationConfig
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.magnet.compare import compare_attention, compare_masks, miou_gain
from mmdit_probe.magnet.lora import add_lora
from mmdit_probe.magnet.mask_sheet import mask_rows
from mmdit_probe.metrics.bootstrap import bootstrap_weights
from mmdit_probe.metrics.iou import mean_iou
from mmdit_probe.metrics.segmentation import measure_labels
from mmdit_probe.pipelines.forward import noise_level
from mmdit_probe.pipelines.loading import embedded_folder, load_pipeline
from mmdit_probe.storage.records import load_record
from mmdit_probe.utils.tables import json_rows


def counts_of(labels, guess, classes):
    confusion = measure_labels(labels, guess, classes).confusion
    hits = np.diag(confusion)
    return np.stack([hits, confusion.sum(0) - hits, confusion.sum(1) - hits])


def test_miou_is_the_metrics_own():
    rng = np.random.default_rng(0)
    labels, guess = rng.integers(0, 4, (2, 10, 12))
    assert mean_iou(counts_of(labels, guess, 6)) == pytest.approx(measure_labels(labels, guess, 6).miou)


def test_bootstrap_weights_draw_as_many_as_there_are():
    weights = bootstrap_weights(7, 500)
    assert (weights.sum(1) == 7).all()
    assert weights.mean() == pytest.approx(1)
    assert weights[:, 0].std() == pytest.approx((6 / 7) ** 0.5, rel=0.1)  # multinomial


def test_the_gain_is_paired_by_image():
    """The same counts on both sides gain exactly 0 in every draw; a gain in every image is outside chance."""
    rng = np.random.default_rng(1)
    pairs = [rng.integers(0, 3, (2, 8, 8)) for _ in range(20)]
    before = np.stack([counts_of(labels, guess, 3) for labels, guess in pairs])
    assert miou_gain(before, before) == (0, 0, 0, 20)
    after = np.stack([counts_of(labels, np.where(guess == 1, labels, guess), 3) for labels, guess in pairs])
    gain, low, high, _ = miou_gain(before, after)
    assert low > 0
    assert low <= gain <= high
    assert gain == pytest.approx(mean_iou(after.sum(0)) - mean_iou(before.sum(0)))


def test_the_interval_is_that_of_a_loop():
    rng = np.random.default_rng(2)
    before, after = rng.integers(1, 9, (2, 5, 3, 4))
    weights = bootstrap_weights(5, 2000)
    gains = []
    for row in weights[:50]:
        old, new = (sum(n * side[image] for image, n in enumerate(row)) for side in (before, after))
        gains.append(mean_iou(new) - mean_iou(old))
    vectorized = [mean_iou(np.tensordot(weights[:50], side.astype(float), 1)) for side in (before, after)]
    np.testing.assert_allclose(vectorized[1] - vectorized[0], gains)


@pytest.fixture
def adapted_pipe(random_folder):
    """A random pipeline with a LoRA that changes it."""
    pipe = load_pipeline(str(random_folder))
    for weight in add_lora(pipe, 2):
        weight.data.normal_(std=0.1)
    return pipe


def sigmas_seen(pipe, compute):
    """What ``compute`` returns, and the noise levels of all forward passes on the way."""
    seen = set()

    def note(module, arguments, given):
        seen.update((given["timestep"] / 1000).tolist())

    hook = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        return compute(), sorted(seen)
    finally:
        hook.remove()


def test_masks_and_attention_are_read_at_the_same_timestep_of_the_runs_steps(adapted_pipe, tmp_path):
    """Timestep 2 of 4 sampling steps is one noise level for the masks, the example masks and the attention."""
    generation = GenerationConfig(steps=4, guidance_scale=1.0)
    config = CompareConfig(prompts=("snow",), layer=1, timesteps=(2,), generation=generation)
    expected = noise_level(adapted_pipe, 2, 4)
    assert expected != pytest.approx(noise_level(adapted_pipe, 2, 28))
    images = open_dataset("scenes", limit=2)

    def masks():
        return compare_masks(adapted_pipe, images, 1, config, tmp_path, "random", lambda *_: None)

    table, seen = sigmas_seen(adapted_pipe, masks)
    assert table["sigma"].tolist() == pytest.approx([expected] * 3)
    assert seen == pytest.approx([expected])
    rows, seen = sigmas_seen(adapted_pipe, lambda: mask_rows(adapted_pipe, images, 1, 2, generation))
    assert len(rows) == 2
    assert seen == pytest.approx([expected])
    compare_attention(adapted_pipe, config, tmp_path, "random", lambda *_: None)
    record = load_record(tmp_path / "attention-after" / "items" / "prompt-0000.nc")
    assert record["sigma"].item() == pytest.approx(expected)
    run = json.loads((tmp_path / "masks-open-vocabulary-after" / "run.json").read_text())
    assert run["steps"] == 4


TRAIN = [
    "magnet",
    "train",
    "--steps",
    "2",
    "--batch",
    "2",
    "--layer",
    "1",
    "--rank",
    "2",
    "--lr",
    "0.05",
    "--warmup",
    "0",
]
COMPARE = [
    "magnet", "compare", "--lora", "m", "--layer", "1", "--limit", "5", "--prompt", "a red circle on grass",
    "--prompt", "snow", "--steps", "28", "--timesteps", "1", "--out", "c"]  # fmt: skip


def command(*arguments):
    """The command's exit code and what it prints, in the present folder."""
    said, complained = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(complained):
        patch.setattr(sys, "argv", ["mmdit-probe", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
            sys.exit(0)
    return stopped.value.code or 0, said.getvalue(), complained.getvalue()


@pytest.fixture(scope="module")
def compared(random_folder, tmp_path_factory):
    """A folder with a LoRA (m) and its comparison (c), the command, and what it printed."""
    clip = embedded_folder().parent / "tiny-clip"
    model = ["--model", str(random_folder)]
    with contextlib.chdir(tmp_path_factory.mktemp("magnet")):
        assert command(*TRAIN, *model, "--out", "m")[0] == 0
        comparing = [*COMPARE, *model, "--clip", str(clip)]
        code, output, error = command(*comparing)
        assert code == 0, error
        yield comparing, model, output


def test_train_then_compare(compared):
    comparing, _, output = compared
    assert sorted(path.name for path in Path("m").iterdir() if path.is_file() and path.name[0] != ".") == [
        "checkpoint.pt", "losses.csv", "losses.pdf", "losses.png", "pytorch_lora_weights.safetensors", "run.json"]  # fmt: skip
    masks, metrics = pd.read_csv("c/compare_masks.csv"), pd.read_csv("c/compare_metrics.csv")
    assert list(masks["matching"]) == ["names", "paper", "order-independent"]
    assert set(metrics["metric"]) == {"clip_t", "clip_score"}
    known = masks.dropna(subset=["low"])  # none from too few images
    assert ((known["low"] <= known["gain"]) & (known["gain"] <= known["high"])).all()
    np.testing.assert_allclose(masks["gain"], masks["after"] - masks["before"])
    assert (masks["gain"] != 0).any()
    attention = pd.read_csv("c/compare_attention.csv").set_index(["side", "layer"])
    assert (attention.loc["before", "i2t"] != attention.loc["after", "i2t"]).all()
    for line in ("open-vocabulary, by names, timestep 1", "layer 1: an image token gives text", "clip_score, average:"):
        assert line in output
    for name in ("compare_masks", "compare_attention", "compare_sheet"):
        assert Path("c", f"{name}.pdf").stat().st_size > 1000
    written = {path: path.stat().st_mtime_ns for path in Path("c").rglob("*.nc")}
    code, again, _ = command(*comparing, "--json")
    assert code == 0
    assert json.loads(again)["masks"] == json_rows(masks)
    assert {path: path.stat().st_mtime_ns for path in Path("c").rglob("*.nc")} == written  # nothing is computed twice


def test_before_and_after_are_what_evaluate_says(compared):
    _, model, _ = compared
    options = ["--layers", "1", "--limit", "5", "--timesteps", "1", "--batch", "4", *model]
    masks = pd.read_csv("c/compare_masks.csv").set_index("task")
    for name, lora in (("before", []), ("after", ["--lora", "m"])):
        assert command("evaluate", "scenes", *options, *lora, "--out", name)[0] == 0
        said = pd.read_csv(f"{name}/evaluate.csv")["miou"].item()
        assert masks.loc["open-vocabulary", name] == pytest.approx(said)


def test_other_images_of_the_same_names_are_another_comparison(compared):
    comparing, _, _ = compared
    scenes = open_dataset("scenes", limit=2)
    for root, sample in zip("xy", scenes.samples, strict=True):
        for kind, values in (("images", sample.image), ("labels", sample.read())):
            Path(root, kind).mkdir(parents=True)
            Image.fromarray(values).save(Path(root, kind, "0.png"))
        Path(root, "classes.json").write_text(json.dumps(scenes.classes))
    folder = [*comparing, "--limit", "1", "--dataset", "folder", "--out", "d", "--root"]
    assert command(*folder, "x")[0] == 0
    code, _, error = command(*folder, "y")
    assert code == 2
    assert "holds a run with other settings (data)" in error


def test_a_lora_trained_anew_is_another_one(compared):
    comparing, model, _ = compared
    assert command(*TRAIN, *model, "--seed", "1", "--out", "n")[0] == 0
    Path("n/pytorch_lora_weights.safetensors").replace("m/pytorch_lora_weights.safetensors")
    code, _, error = command(*comparing)
    assert code == 2
    assert "holds a run with other settings (model)" in error
