"""No pickle, no foreign code, no file outside the output folder, no HTML from prompts."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdit_probe import load_pipeline
from mmdit_probe.segmentation.image_files import image_files
from mmdit_probe.segmentation.result import Segmentation
from mmdit_probe.studies.word_maps import file_names

ROOT = Path(__file__).parent.parent
FILES = sorted(path for part in ("mmdit_probe", "benchmarks", "analyses") for path in (ROOT / part).rglob("*.py"))
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HOSTILE = [
    "../../x",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "a\\b",
    "C:\\x",
    "nul",
    "x" * 400,
    "a\x00b",
    "~",
    "-rf",
    "a:b",
    "<script>",
]


def calls(tree):
    """(dotted name, {keyword: constant value}) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            known = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            yield ast.unparse(node.func), known


def dangers(source):
    """What a file does that could run code of a data file's choice."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in named if name.split(".")[0] in PICKLES)
    for name, known in calls(tree):
        if name == "torch.load" and known.get("weights_only") is not True:
            yield name
        if known.get("weights_only") is False or known.get("allow_pickle") or known.get("trust_remote_code"):
            yield name
        if name.split(".")[-1] in ("read_pickle", "exec", "eval") and name in ("exec", "eval", "pd.read_pickle"):
            yield name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_loaded_can_run_code(path):
    assert not list(dangers(path.read_text()))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "X.from_pretrained(m, trust_remote_code=True)",
        "eval(text)",
        "pd.read_pickle(f)",
    ],
)
def test_the_check_sees_each_danger(source):
    assert list(dangers(source))


def foreign_code(folder, how):
    index = json.loads((folder / "model_index.json").read_text())
    if how == "pipeline":
        index["_class_name"] = ["pipeline", "Evil"]
        code = folder / "pipeline.py"
    else:
        index["transformer"] = ["evil", "SD3Transformer2DModel"]
        code = folder / "transformer" / "evil.py"
    (folder / "model_index.json").write_text(json.dumps(index))
    code.write_text(f"open({str(folder / 'RAN')!r}, 'w')\nfrom diffusers import *\n")


@pytest.mark.parametrize("how", ["pipeline", "component"])
def test_code_in_a_model_folder_is_not_run(random_folder, tmp_path, how):
    shutil.copytree(random_folder, tmp_path / "model")
    foreign_code(tmp_path / "model", how)
    with pytest.raises(ValueError, match="brings code of its own, which is not run"):
        load_pipeline(str(tmp_path / "model"))
    assert not (tmp_path / "model" / "RAN").exists()


class _Bomb:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_pickled_weights_of_a_score_model_run_nothing(tmp_path):
    from mmdit_probe.metrics.image_metrics import Clip
    from mmdit_probe.tiny.clip import make_clip, make_processor
    from mmdit_probe.tiny.recipe import Recipe
    from mmdit_probe.tiny.tokenizer import make_tokenizer

    recipe = Recipe(clip_layers=1, clip_width=32)
    make_clip(recipe, make_tokenizer(24)).save_pretrained(tmp_path)
    make_processor(recipe).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"logit_scale": _Bomb(tmp_path / "RAN")}))
    with pytest.raises(ValueError, match="has its weights in pickle files"):
        Clip(str(tmp_path))
    assert not (tmp_path / "RAN").exists()


def test_file_names_of_words_stay_in_the_folder():
    for name in file_names(HOSTILE):
        assert name
        assert name == Path(name).name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert len(f"map_{name}_heads_t28.pdf") < 100


def test_words_that_look_like_paths_leave_files_in_the_folder(run, tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    prompt = "../../x and /etc/y"
    words = ["--prompt", prompt, "--words", "../../x,/etc/y", "--steps", "1", "--timesteps", "1", "--layers", "1"]
    code, _, err = run("maps", *words, "--out", str(deep / "out"))
    assert code == 0, err
    made = set(tmp_path.rglob("*")) - before
    assert {path.name for path in made if path.suffix == ".png"} == {"map_x.png", "map_etc-y.png", "image.png"}
    assert all(path.is_relative_to(deep / "out") for path in made)


def test_class_names_that_look_like_paths_are_only_text(run, tmp_path):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    names = "../../x,/etc/passwd,<script>alert(1)</script>"
    code, _, err = run("segment", "a.png", "--classes", names, "--layer", "1", "--out", "in/out")
    assert code == 0, err
    assert all(path.parent.parts[-1] == "out" or path.is_dir() or path.name == "a.png" for path in tmp_path.rglob("*"))
    assert [item["class"] for item in json.loads((tmp_path / "in/out/a_legend.json").read_text())] == names.split(",")


@pytest.mark.parametrize("name", ["a..hidden", "-rf", "a b", "CON", "\u202e", "a" * 200])
def test_images_of_any_file_name_leave_their_files_in_the_folder(run, tmp_path, name):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "in" / f"{name}.png")
    code, _, err = run("segment", "in", "--classes", "sand", "--layer", "1", "--out", "out")
    assert code == 0, err
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    assert (tmp_path / "out" / f"{name}_labels.png").is_file()


def test_a_link_to_a_image_is_written_under_its_own_name(tmp_path):
    (tmp_path / "real").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "real" / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "real" / "a.png")
    assert list(image_files([tmp_path / "link.png"])) == ["link"]


def test_html_shows_class_names_as_text():
    names = ("<script>alert(1)</script>", '" onload="alert(1)')
    image = np.zeros((4, 4, 3), np.uint8)
    made = Segmentation(np.zeros((4, 4), np.uint8), np.ones((2, 1, 1), np.float32), names, image)
    page = made._repr_html_()
    assert "<script" not in page
    assert 'onload="' not in page.replace("&quot;", "")
    assert "&lt;script&gt;" in page
