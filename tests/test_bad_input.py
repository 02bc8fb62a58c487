"""Whatever is wrong with what a command is given: exit code 2, one clear line, nothing left behind."""

import json
import os
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mmdit_probe.storage.files import write_text
from mmdit_probe.storage.locks import folder_lock
from mmdit_probe.storage.records import load_record, save_record
from mmdit_probe.storage.runs import RunFolder
from mmdit_probe.utils.text import checked_text, one_line, shown

FEW = ["--steps", "2", "--timesteps", "1"]
MAPS = ["maps", "--prompt", "a red circle", "--words", "circle", *FEW]
SEGMENT = ["segment", "good.png", "--layer", "1", "--classes", "grass,circle"]
PERTURB = ["perturb", "--layer", "1", "--steps", "1", "--seeds", "0", "--clip", "tiny-clip", "--prompt", "sand"]


def png_header(width, height):
    """A PNG file that claims a size and holds no pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture
def stage(tmp_path):
    """A folder of good and bad inputs."""
    good = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    Image.fromarray(good).save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:2000])
    (tmp_path / "zero.png").write_bytes(png_header(0, 10))
    (tmp_path / "huge.png").write_bytes(png_header(40_000, 40_000))
    (tmp_path / "large.png").write_bytes(png_header(12_000, 10_000))
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "text.nc").write_text("hello")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "blank.txt").write_text("\n# nothing\n")
    (tmp_path / "twice.txt").write_text("sand\ngrass\nsand\n")
    (tmp_path / "bell.txt").write_text("sand\x07\n")
    (tmp_path / "hollow").mkdir()
    own_data_set(tmp_path / "own", good, np.zeros((64, 64), np.uint8))
    own_data_set(tmp_path / "uneven", good, np.zeros((32, 64), np.uint8))
    own_data_set(tmp_path / "foreign", good, np.full((64, 64), 9, np.uint8))
    for name, classes in (
        ("cut", "{"),
        ("twins", '["a", "a"]'),
        ("nameless", '["a", " "]'),
        ("numbers", "[1]"),
        ("far", '{"70000": "a"}'),
        ("below", '{"-1": "a"}'),
        ("deep", "[" * 100_000),
        ("bells", '["a\\u0007"]'),
    ):
        own_data_set(tmp_path / f"classes-{name}", good, np.zeros((64, 64), np.uint8), classes)
    return tmp_path


def own_data_set(root, image, labels, classes='["grass", "circle"]'):
    for kind, values in (("images", image), ("labels", labels)):
        (root / kind).mkdir(parents=True)
        Image.fromarray(values).save(root / kind / "a.png")
    (root / "classes.json").write_text(classes)


def left(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(run, stage, arguments, message, model=True):
    before = left(stage)
    code, out, err = run(*arguments, model=model)
    lines = [line for line in err.splitlines() if not line.startswith(("layer ", "memory: "))]
    assert code == 2, err
    assert out == ""
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert left(stage) == before


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.png", "no file missing.png"),
        ("empty.png", "empty.png is empty"),
        ("cut.png", "cut.png is damaged or cut short"),
        ("zero.png", "zero.png is not an image that can be read"),
        ("huge.png", "huge.png is too large; at most 100000000 px are read; scale it down"),
        ("large.png", "large.png has 12000 x 10000 px; at most 100000000 px are read"),
        ("text.png", "text.png is not an image that can be read"),
        ("deep.png", "deep.png has more than 8 bits per channel"),
        ("moving.gif", "moving.gif has 2 frames"),
    ],
)
@pytest.mark.parametrize("command", ["maps", "segment"])
def test_images(run, stage, command, file, message):
    arguments = {"maps": [*MAPS, "--image", file], "segment": ["segment", file, *SEGMENT[2:]]}[command]
    refused(run, stage, arguments, message)


@pytest.mark.parametrize("size", [(1, 1), (3000, 2)])
def test_images_of_odd_sizes_are_read(run, stage, size):
    Image.new("RGB", size).save(stage / "odd.png")
    code, _, err = run("segment", "odd.png", *SEGMENT[2:])
    assert code == 0, err
    with Image.open(stage / "results" / "segment" / "odd_labels.png") as labels:
        assert labels.size == size


def test_cmyk_images_are_read(run, stage):
    Image.new("CMYK", (32, 32)).save(stage / "print.jpg")
    assert run("segment", "print.jpg", *SEGMENT[2:])[0] == 0


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "no empty one"),
        ("grass, ,circle", "no empty one"),
        ("\u200b,grass", "the class name is empty"),
        ("grass,grass", "'grass' is given more than once"),
        ("grass  floor,grass floor", "'grass floor' is given more than once"),
        ("x" * 5000, "has 5000 characters; at most 400 are accepted"),
        ("grass " * 40, "has 40 tokens, this model's prompts hold 1 to "),
        ("gr\x07ass", "holds the control character U+0007"),
        ("a\u202eb", "holds the control character U+202E"),
        ("a\x00", "holds the control character U+0000"),
        ("gr\ud800", "holds the control character U+D800"),
    ],
)
def test_class_names(run, stage, classes, message):
    refused(run, stage, [*SEGMENT[:-1], classes], message)


def test_emoji_and_other_scripts_are_names_like_any(run, stage):
    code, out, err = run(*SEGMENT[:-1], "\N{DOG FACE},\u8349,\u0639")
    assert code == 0, err
    assert "\N{DOG FACE}" in out


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "sand", "--prompt", " \n"], "the prompt is empty"),
        (["--prompt", "sand", "--prompt", "sand"], "'sand' is given more than once"),
        (["--prompt", "word " * 3000], "has 15000 characters; at most 10000 are accepted"),
        (["--prompt", "word " * 200], "tokens that this model reads; shorten it"),
        (["--prompt", "a\x07b"], "holds the control character U+0007"),
        (["--prompts", "blank.txt"], "blank.txt holds no prompt"),
        (["--prompts", "twice.txt"], "'sand' is given more than once"),
        (["--prompts", "bell.txt"], "holds the control character U+0007"),
        (["--prompts", "binary.txt"], "binary.txt can't be read as text"),
        (["--prompts", "hollow"], "prompts: hollow can't be read (Is a directory)"),
    ],
)
@pytest.mark.parametrize("command", ["attention-budget", "value-norms"])
def test_prompts(run, stage, command, prompts, message):
    refused(run, stage, [command, *FEW, *prompts], message)


def test_an_emoji_in_a_prompt_is_drawn_as_a_box_and_dollars_are_no_formula(run, stage, monkeypatch):
    monkeypatch.setattr("mmdit_probe.figures.fonts._named", set())  # each character is named once
    prompt = ["--prompt", "a \N{DOG FACE} $4 \\frac{", "--words", "\N{DOG FACE},$4"]
    code, _, err = run("maps", *prompt, *FEW, "--layers", "1")
    assert code == 0, err
    kinds = [line.split(":")[0] for line in err.splitlines()]
    assert set(kinds) == {"words that this model does not know", "figures"}  # the emoji, and that it is a box
    assert kinds.count("figures") == 1
    assert {"map_word.png", "map_4.png"} <= {path.name for path in (stage / "results" / "maps").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*MAPS, "--words", "star"], "'star' is not among the prompt's tokens: a red circle"),
        (["maps", "--prompt", "sand", "--words", ",", "--steps", "1"], "words: expected words of the prompt"),
        (["analyze", "--prompt", "sand", "--words", "star", *FEW], "'star' is not among the prompt's tokens"),
        ([*MAPS, "--layers", "3"], "--layers: this model has layers 0 to 2, got 3"),
        ([*MAPS, "--layers", "0,-1"], "--layers must be 0 or more, got -1"),
        ([*MAPS, "--layers", "x"], "--layers: expected numbers"),
        (["analyze", "--prompt", "sand", "--layers", "9", *FEW], "this model has layers 0 to 2"),
        (["evaluate", "scenes", "--layers", "9"], "this model has layers 0 to 2"),
        (["group", "good.png", "--layer", "3"], "this model has layers 0 to 2, got 3"),
        (["group", "good.png", "--layer", "\u00b2"], "--layers: expected numbers separated by commas"),
        ([*MAPS, "--timesteps", "0"], "--timesteps must be 1 or more, got 0"),
        ([*MAPS, "--timesteps", "3"], "timesteps: must be in 1 to 2"),
        ([*MAPS, "--timesteps", "9" * 30], "--timesteps: numbers can be 4294967295 at most"),
        (["evaluate", "scenes", "--timesteps", "29"], "--timesteps: must be in 1 to 28"),
        ([*MAPS, "--steps", "99999999999"], "'--steps'"),
        ([*MAPS, "--steps", "0"], "see mmdit-probe maps --help"),
        ([*MAPS, "--height", "63"], "divisible by 8"),
        ([*MAPS, "--height", "-64"], "'--height'"),
        ([*MAPS, "--height", "0"], "'--height'"),
        ([*MAPS, "--guidance-scale", "nan"], "--guidance-scale must be a finite number, 0 or more, got nan"),
        ([*MAPS, "--guidance-scale", "inf"], "--guidance-scale must be a finite number, 0 or more, got inf"),
        ([*MAPS, "--max-sequence-length", "-1"], "'--max-sequence-length'"),
        (["evaluate", "scenes", "--limit", "1", "--max-sequence-length", "8193"], "must be 0 to 8192, got 8193"),
        ([*MAPS, "--seed", "-1"], "'--seed'"),
        ([*MAPS, "--seed", str(2**64)], "'--seed'"),
        ([*PERTURB, "--seeds", "-5"], "--seeds must be 0 to 4294967295, got -5"),
        ([*PERTURB, "--seeds", ""], "--seeds: expected numbers"),
        ([*PERTURB, "--kernel", "4"], "kernel must be odd"),
        ([*PERTURB, "--sigma", "nan"], "--sigma must be a finite number, above 0, got nan"),
        (["guide", *PERTURB[1:], "--scale", "nan"], "--scales must be a finite number, -100 to 100, got nan"),
        (["find-expert", "--prompt", "sand", "--scene-count", "-1"], "'--scene-count'"),
        ([*MAPS, "--dtype", "fp8"], "'fp8' is not one of"),
        ([*MAPS, "--device", "meta"], "nothing can be computed on 'meta' here"),
        ([*MAPS, "--lora", "none.safetensors"], "no file 'none.safetensors'"),
        ([*MAPS, "--revision", "main"], "revision 'main' belongs to a hub id"),
        (["pca", "--scenes", "-1"], "--scenes must be 0 to"),
        (["pca", "--scenes", "0", "--image", "good.png"], "not both"),
        (["nonsense"], "No such command 'nonsense'"),
        (["analyze"], "Missing option"),
        (["maps"], "give --prompt or --prompts FILE"),
    ],
)
def test_settings(run, stage, arguments, message):
    refused(run, stage, arguments, message, model=arguments not in (["nonsense"], ["analyze"]))


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("uneven", "a.png: image and label map must have the same size, got (64, 64) and (32, 64) (height, width)"),
        ("foreign", "holds the value 9, which is not a class of this data set"),
        ("hollow", "--root hollow holds none of the folders images"),
        ("missing", "give its folder by --root; there is no folder missing"),
        ("classes-cut", "must be a list of class names"),
        ("classes-twins", "'a' is given more than once"),
        ("classes-nameless", "is empty"),
        ("classes-numbers", "all of them text"),
        ("classes-far", "label values must be 0 to 65535"),
        ("classes-below", "label values must be 0 to 65535"),
        ("classes-deep", "must be a list of class names"),
        ("classes-bells", "holds the control character U+0007"),
    ],
)
def test_data_sets(run, stage, root, message):
    refused(run, stage, ["evaluate", "folder", "--root", root], message)


@pytest.mark.parametrize("name", ["voc20", "context", "coco-object", "ade20k", "cityscapes"])
def test_a_data_set_of_another_layout_is_told_what_was_looked_for(run, stage, name):
    refused(run, stage, ["evaluate", name, "--root", "hollow"], "--root hollow holds none of the folders ")


def test_records(run, stage):
    import xarray as xr

    for name, attrs in (("new", {"format": 99}), ("none", {}), ("other", {"format": 1})):
        save_record(xr.Dataset({"x": ("a", [1.0])}, attrs=attrs), stage / f"{name}.nc")
    for files, message in (
        (("text.nc", "text.nc"), "text.nc is not a readable NetCDF file"),
        (("missing.nc", "text.nc"), "no file missing.nc"),
        (("new.nc", "new.nc"), "new.nc has format 99, this version reads 1; make it again with this version"),
        (("none.nc", "none.nc"), "none.nc has format None"),
        (("other.nc", "other.nc"), "the records have no measure in common"),
    ):
        refused(run, stage, ["diff", *files], message, model=False)


def test_a_damaged_number_is_told(tmp_path):
    """Coordinates are not compressed: only the seal tells that a byte of them is another one."""
    import xarray as xr

    places = np.arange(500, dtype=np.float64) + 0.5
    path = save_record(xr.Dataset({"x": 1.0}, {"place": places}, {"format": 1}), tmp_path / "a.nc")
    content = bytearray(path.read_bytes())
    content[content.index(places.tobytes()) + 7] ^= 64
    path.write_bytes(content)
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        assert opened["place"][0] != 0.5
    with pytest.raises(ValueError, match="is not a readable NetCDF file"):
        load_record(path)


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def pickled(path):
    from safetensors.torch import load_file

    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


@pytest.mark.parametrize(
    ("part", "harm", "message"),
    [
        ("transformer", shutil.rmtree, "lacks its part transformer"),
        ("scheduler", shutil.rmtree, "lacks its part scheduler"),
        ("tokenizer", shutil.rmtree, "lacks its part tokenizer"),
        ("tokenizer/tokenizer.json", os.unlink, "tokenizer has no vocabulary"),
        ("tokenizer/tokenizer.json", cut, "tokenizer.json is damaged or cut short"),
        ("transformer/config.json", cut, "config.json is damaged or cut short"),
        (
            "vae/diffusion_pytorch_model.safetensors",
            cut,
            "vae/diffusion_pytorch_model.safetensors is damaged or cut short",
        ),
        ("vae/diffusion_pytorch_model.safetensors", os.unlink, "no file named diffusion_pytorch_model.safetensors"),
        ("vae/diffusion_pytorch_model.safetensors", pickled, "vae has its weights in pickle files (.bin)"),
        ("text_encoder/model.safetensors", cut, "text_encoder/model.safetensors is damaged or cut short"),
        ("model_index.json", cut, "model_index.json is damaged or cut short"),
        ("model_index.json", os.unlink, "has no model_index.json"),
    ],
)
def test_model_folders(run, stage, random_folder, part, harm, message):
    shutil.copytree(random_folder, stage / "model")
    harm(stage / "model" / part)
    refused(run, stage, [*MAPS, "--model", "model"], message, model=False)


def test_damaged_defaults_of_a_model(run, stage, random_folder):
    shutil.copytree(random_folder, stage / "model")
    (stage / "model" / "probe_defaults.json").write_text("{")
    refused(run, stage, [*MAPS, "--model", "model"], "probe_defaults.json is damaged", model=False)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "is no diffusers pipeline folder"),
        ("good.png", "'good.png' is no diffusers pipeline folder but a file"),
        ("nobody/no-such-model", "neither a folder here nor a hub id that can be reached"),
        ("../../x", "neither a folder here nor a hub id such as OWNER/NAME; check the path"),
    ],
)
def test_models_that_are_not_there(run, stage, model, message):
    refused(run, stage, [*MAPS, "--model", model], message, model=False)


def test_a_hub_out_of_reach_is_one_line_though_it_is_tried_again(run, stage, monkeypatch):
    from huggingface_hub.utils import logging

    from mmdit_probe.pipelines import loading as pipelines

    def unreachable(*arguments, **named):
        logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("We couldn't connect to the hub\nand found nothing in the cache")

    monkeypatch.setattr(pipelines.DiffusionPipeline, "load_config", unreachable)
    refused(
        run,
        stage,
        [*MAPS, "--model", "x/y"],
        "hub id that can be reached, and no copy of it is in the cache",
        model=False,
    )


def test_a_model_without_access_is_told_how_to_get_it(run, stage, monkeypatch):
    from mmdit_probe.pipelines import loading as pipelines

    class GatedRepoError(OSError):
        pass

    def gated(*arguments, **named):
        raise GatedRepoError("401 Client Error\n\nAccess to model x/y is restricted.")

    monkeypatch.setattr(pipelines.DiffusionPipeline, "load_config", gated)
    refused(run, stage, [*MAPS, "--model", "x/y"], "needs access: accept its license on its hub page", model=False)


@pytest.mark.parametrize(("what", "named"), [("to_k", "attention scores"), ("to_v", "values")])
def test_activations_that_are_not_finite_name_layer_and_step(sd3, inputs, what, named):
    from mmdit_probe import Probe, RegionMass

    getattr(sd3.transformer_blocks[1].attn, what).weight.data.fill_(torch.inf)
    with (
        pytest.raises(ValueError, match=f"layer 1 has {named} that are not finite at step 0"),
        Probe(sd3, [RegionMass()]),
    ):
        sd3(**inputs)


@pytest.mark.parametrize("out", ["good.png", "good.png/x", "/proc/x", "x" * 300])
@pytest.mark.parametrize("command", ["maps", "evaluate"])
def test_folders_that_cannot_be_written(run, stage, command, out):
    arguments = MAPS if command == "maps" else ["evaluate", "scenes", "--limit", "1"]
    refused(run, stage, [*arguments, "--out", out], "can't be written")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root to mount a small disk")
@pytest.mark.parametrize("command", ["maps", "evaluate", "magnet"])
def test_a_full_disk_is_one_line_and_every_file_is_whole(run, stage, command):
    disk = stage / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        arguments = {
            "maps": MAPS,
            "evaluate": ["evaluate", "scenes", "--limit", "9", "--batch", "1"],
            "magnet": ["magnet", "train", "--steps", "2", "--batch", "1", "--save-every", "1", "--layer", "1"],
        }[command]
        code, out, err = run(*arguments, "--out", "disk/out")
        assert (code, out) == (2, "")
        line = err.strip().splitlines()[-1]
        assert line.startswith("error: disk/out/")
        assert "can't be written (No space left on device); make room or choose another --out" in line
        assert not list(disk.rglob("*.part"))
        assert all(load_record(item) for item in disk.rglob("*.nc"))
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("command", ["maps", "evaluate"])
def test_two_runs_in_one_folder(run, stage, command):
    arguments = MAPS if command == "maps" else ["evaluate", "scenes", "--limit", "1"]
    with folder_lock(stage / "out"):
        refused(
            run,
            stage,
            [*arguments, "--out", "out"],
            "out is in use by another run; wait for it or choose another --out",
        )
    assert not (stage / "out").exists()


def test_a_folder_is_left_as_it_was_found(tmp_path):
    (tmp_path / "a").mkdir()
    with folder_lock(tmp_path / "a" / "b" / "c"):
        assert (tmp_path / "a" / "b" / "c").is_dir()
    assert left(tmp_path) == {"a"}
    with folder_lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").write_text("")
    assert left(tmp_path) == {"a", "a/b", "a/b/kept"}


def test_what_a_kill_left_half_written_is_taken_away(tmp_path):
    import xarray as xr

    item = xr.Dataset({"x": 1.0}, attrs={"format": 1})
    with RunFolder(tmp_path, {"a": 1}).open() as run:
        run.write("one", item)
    (tmp_path / "items" / "two.nc.part").write_bytes(b"half")
    (tmp_path / ".lora.part").mkdir()
    (tmp_path / ".lora.part" / "weights.safetensors").write_bytes(b"half")
    with RunFolder(tmp_path, {"a": 1}).open() as run:
        assert run.item("one") is not None
    assert left(tmp_path) == {"run.json", "items", "items/one.nc"}
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"run\.json is damaged"), RunFolder(tmp_path, {"a": 1}).open():
        pass


@pytest.mark.parametrize("finished", ["items/one.nc", "scene_labels.png", None])
def test_a_run_that_fails_keeps_its_settings_with_its_work(tmp_path, finished):
    """Otherwise another run would mix with it."""
    out = tmp_path / "out"
    with pytest.raises(LookupError), RunFolder(out, {"a": 1}).open():
        if finished:
            write_text(out / finished, "work")
        raise LookupError
    if finished is None:
        assert not out.exists()
        return
    with pytest.raises(ValueError, match=r"other settings \(a\)"), RunFolder(out, {"a": 2}).open():
        pass
    assert (out / finished).is_file()


def infinite(folder, layer):
    """A model whose layer makes values that are not finite."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    weights[f"transformer_blocks.{layer}.attn.to_v.weight"].fill_(torch.inf)
    save_file(weights, folder / "transformer" / "diffusion_pytorch_model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (PERTURB, "layer 1 has values that are not finite at step 0"),
        (["guide", *PERTURB[1:]], "layer 1 has values that are not finite at step 0"),
        (["attention-budget", "--prompt", "sand", *FEW], "layer 1 has values that are not finite at step 0"),
        (["magnet", "compbench", "prompts.txt", "--each", "1", "--steps", "1"], "layer 1 has values"),
        (
            ["magnet", "train", "--steps", "1", "--batch", "1", "--layer", "1"],
            "layer 1 has values that are not finite",
        ),
        (["evaluate", "scenes", "--limit", "1"], "layer 1 has values"),
    ],
    ids=lambda part: part[0] if isinstance(part, list) else "",
)
def test_a_model_that_is_not_finite_is_told_by_layer_and_step(run, stage, random_folder, command, message):
    shutil.copytree(random_folder, stage / "model")
    infinite(stage / "model", 1)
    (stage / "prompts.txt").write_text("sand\n")
    refused(run, stage, [*command, "--model", "model"], message, model=False)


def test_images_that_are_not_finite_are_not_scored(run, stage):
    refused(run, stage, [*PERTURB, "--guidance-scale", "1e38"], "the images of seed 0 are not finite, though")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("word " * 40, "tokens that this model reads; shorten it"),
        ("a\x07b", "holds the control character U+0007"),
    ],
)
@pytest.mark.parametrize("command", ["explore", "compbench"])
def test_prompts_of_other_commands(run, stage, command, prompt, message):
    (stage / "given.txt").write_text(prompt + "\n")
    if command == "explore":
        refused(run, stage, ["explore", "--prompt", prompt, "--steps", "1"], message)
    else:
        refused(run, stage, ["magnet", "compbench", "given.txt", "--each", "1", "--steps", "1"], message)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("option", ["--mask-weight", "--lr", "--gradient-clip"])
def test_numbers_of_a_training_are_finite(run, stage, option, value):
    refused(run, stage, ["magnet", "train", "--steps", "1", option, value], "must be a finite number")


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("uneven", "a.png: image and label map must have the same size, got (64, 64) and (32, 64)"),
        ("broken", "cut short"),
    ],
)
def test_training_data_that_cannot_be_read_leave_nothing(run, stage, root, message):
    own_data_set(stage / "broken", np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8))
    (stage / "broken" / "images" / "a.png").write_bytes((stage / "good.png").read_bytes()[:2000])
    arguments = ["--steps", "1", "--batch", "1", "--layer", "1", "--matching", "token"]
    refused(run, stage, ["magnet", "train", "--data", f"folder:{root}", *arguments], message)


def test_a_missing_memory_is_one_line(run, stage, monkeypatch):
    from mmdit_probe.studies import word_maps as maps

    def greedy(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 11 GiB")

    monkeypatch.setattr(maps, "measure_maps", greedy)
    refused(run, stage, MAPS, "out of memory; a smaller --batch, fewer layers")


def test_a_mistake_of_the_program_is_no_users_mistake(run, monkeypatch):
    from mmdit_probe.studies import word_maps as maps

    def broken(*arguments):
        raise KeyError("bug")

    monkeypatch.setattr(maps, "measure_maps", broken)
    with pytest.raises(KeyError, match="bug"):
        run(*MAPS)


def test_texts_in_one_line():
    assert one_line("a\n b\x07\u202e") == "a b\\x07\\u202e"
    assert shown("x" * 999).count("x") < 60
    assert checked_text("prompt", "\u0915\u093f \N{DOG FACE}\n1\t2") == "\u0915\u093f \N{DOG FACE}\n1\t2"
    assert len(one_line(json.dumps(list(range(9999))))) <= 500
