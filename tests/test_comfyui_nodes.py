"""The ComfyUI nodes, loaded and called as ComfyUI does: by path, in inference mode, with links between results."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from mmdit_probe.figures.overlay import overlay
from mmdit_probe.tracing import read_image

FOLDER = Path(__file__).parent.parent / "integrations" / "comfyui"
WORKFLOW = json.loads((FOLDER / "example_workflow.json").read_text())
PREVIEW = {"required": {"images": ("IMAGE",)}}


@pytest.fixture(scope="module")
def nodes():
    """The package, by its path and under a name of ComfyUI's making."""
    name = str(FOLDER).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module.NODE_CLASS_MAPPINGS
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(name)]:
        del sys.modules[loaded]


def taken(kind, name):
    """The type of an input."""
    inputs = kind.INPUT_TYPES()
    return {**inputs["required"], **inputs.get("optional", {})}[name]


def called(kind, **given):
    """A node's results, in inference mode."""
    with torch.inference_mode():
        found = getattr(kind(), kind.FUNCTION)(**given)
    return found["result"] if isinstance(found, dict) else found


def executed(nodes, workflow):
    """The results of a workflow's nodes, each run once after those that it takes from."""
    found = {}

    def result(number):
        if number not in found:
            node = workflow[number]
            given = {
                name: result(value[0])[value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            }
            shown = node["class_type"] == "PreviewImage"
            found[number] = (given["images"],) if shown else called(nodes[node["class_type"]], **given)
        return found[number]

    for number in workflow:
        result(number)
    return found


@pytest.fixture(scope="module")
def run(nodes, tmp_path_factory):
    """The example workflow, in few steps and in ComfyUI's output folder."""
    folder = tmp_path_factory.mktemp("output")
    few = json.loads(json.dumps(WORKFLOW))
    few["2"]["inputs"]["steps"] = 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "folder_paths", SimpleNamespace(get_output_directory=lambda: str(folder)))
        return executed(nodes, few), folder


def test_nothing_of_comfyui_nor_of_the_package_is_imported_first():
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER.parent)!r}); import comfyui.nodes; "
        "sys.exit(any(name.split('.')[0] in ('comfy', 'folder_paths', 'diffusers', 'mmdit_probe') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_node_says_what_comfyui_asks(nodes):
    for kind in nodes.values():
        inputs = kind.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional"}
        for declared in [*inputs["required"].values(), *inputs.get("optional", {}).values()]:
            assert isinstance(declared, tuple)
            assert isinstance(declared[0], str | list)
        assert len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES)
        assert callable(getattr(kind, kind.FUNCTION))
        assert kind.CATEGORY == "mmdit-probe"
    module = sys.modules[next(iter(nodes.values())).__module__]
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(nodes)


def test_the_example_links_what_fits_and_gives_what_is_needed(nodes):
    for node in WORKFLOW.values():
        if node["class_type"] == "PreviewImage":
            inputs, types = PREVIEW, {"images": "IMAGE"}
        else:
            kind = nodes[node["class_type"]]
            inputs, types = kind.INPUT_TYPES(), {name: taken(kind, name)[0] for name in node["inputs"]}
        assert set(inputs["required"]) <= set(node["inputs"])
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                assert nodes[WORKFLOW[value[0]]["class_type"]].RETURN_TYPES[value[1]] == types[name]
            elif isinstance(types[name], list):
                assert value in types[name]
            else:
                assert (
                    type(value).__name__
                    == {"STRING": "str", "INT": "int", "FLOAT": "float", "BOOLEAN": "bool"}[types[name]]
                )


def test_images_are_those_made_without_reading(run, tiny):
    found, _ = run
    images, seen = found["2"]
    assert images.shape == (2, 64, 64, 3)
    assert images.dtype == torch.float32
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    for seed, image in enumerate(images):
        plain = tiny(
            "a red circle on grass",
            num_inference_steps=3,
            max_sequence_length=0,
            guidance_scale=7.5,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        np.testing.assert_array_equal((255 * image).round().byte().numpy(), np.asarray(plain))
    assert [one.record.attrs["seed"] for one in seen] == [0, 1]


def test_overlays_and_masks_are_of_the_words_map(run):
    found, _ = run
    (images, seen), (overlays, masks, numbers) = found["2"], found["3"]
    assert overlays.shape == images.shape
    assert masks.shape == images.shape[:3]
    for number, one in enumerate(seen):
        grid = one.word("circle").map.values
        picture = overlay(one.image, grid)
        np.testing.assert_array_equal((255 * overlays[number]).round().byte().numpy(), np.asarray(picture))
        blocks = grid.repeat(8, 0).repeat(8, 1) / grid.max()
        assert np.corrcoef(masks[number].numpy().ravel(), blocks.ravel())[0, 1] > 0.9
        assert numbers.splitlines()[number] == one.word("circle").describe()
    assert found["6"][0] is overlays


def test_a_block_mask_is_the_map_itself(nodes, run):
    seen = run[0]["2"][1][:1]
    _, masks, _ = called(nodes["MMDiTProbeOverlay"], seen=seen, word="grass", layer=4, timestep=3, smooth=False)
    grid = seen[0].word("grass", layer=4, timestep=3).map.values
    np.testing.assert_allclose(masks[0], grid.repeat(8, 0).repeat(8, 1) / grid.max(), rtol=1e-6)


def test_pages_are_numbered_on_and_stay_in_the_output_folder(nodes, run, monkeypatch):
    found, folder = run
    explorers, reports = (paths.splitlines() for paths in found["4"])
    assert [Path(path).relative_to(folder).as_posix() for path in explorers] == [
        "mmdit-probe/image_00001_explore.html",
        "mmdit-probe/image_00002_explore.html",
    ]
    assert all(Path(path).read_text().lower().startswith("<!doctype html>") for path in explorers + reports)
    monkeypatch.setitem(sys.modules, "folder_paths", SimpleNamespace(get_output_directory=lambda: str(folder)))
    seen = found["2"][1][:1]
    again, _ = called(nodes["MMDiTProbePages"], seen=seen, prefix="mmdit-probe/image")
    assert Path(again).name == "image_00003_explore.html"
    for outside in ("../image", "/tmp/image", ""):
        with pytest.raises(ValueError, match="inside of the output folder"):
            called(nodes["MMDiTProbePages"], seen=seen, prefix=outside)


def test_images_of_the_graph_are_read(nodes, run, tiny):
    images = run[0]["2"][0]
    (seen,) = called(
        nodes["MMDiTProbeReadImage"],
        pipeline=tiny,
        images=torch.cat([images, torch.ones(2, 64, 64, 1)], -1),
        prompt="a red circle on grass",
        steps=28,
        seed=0,
        layers="4-7",
        timesteps="8",
    )
    own = read_image(
        tiny, (255 * images[1]).round().byte().numpy(), "a red circle on grass", layers=(7,), timesteps=(8,)
    )
    assert len(seen) == 2
    assert seen[1].plan.layers == (4, 5, 6, 7)
    np.testing.assert_allclose(seen[1].word("circle").map, own.word("circle").map, rtol=1e-5)


def test_comfyuis_bar_moves_with_the_calls(nodes, tiny, monkeypatch):
    told = []
    bar = SimpleNamespace(update_absolute=lambda done, total: told.append((done, total)))
    utils = ModuleType("comfy.utils")
    utils.ProgressBar = lambda total: bar
    monkeypatch.setitem(sys.modules, "comfy", ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.utils", utils)
    called(nodes["MMDiTProbeGenerate"], pipeline=tiny, prompt="sand", steps=2, seed=0, images=2)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "sand " * 40}, "more than the"),
        ({"layers": "99"}, "layer"),
        ({"timesteps": "one"}, "expected numbers separated by commas"),
    ],
)
def test_what_is_wrong_is_one_line(nodes, tiny, given, message):
    arguments = {"pipeline": tiny, "prompt": "sand", "steps": 2, "seed": 0, "images": 1, **given}
    with pytest.raises(ValueError, match=message) as raised:
        called(nodes["MMDiTProbeGenerate"], **arguments)
    assert "\n" not in str(raised.value)
