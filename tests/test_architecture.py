"""Dependencies point one way, and what is said to live in one file lives there alone."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mmdit_probe"
ORDER = [
    ["layout", "markup", "tokens", "kernels", "configs", "texts", "files", "memory", "digests", "quantization"],
    ["attention"],
    [
        "intercept",
        "arrangement",
        "readouts",
        "head_stats",
        "feature_pca",
        "word_maps",
        "head_groups",
        "edits",
        "backends",
        "families",
        "finite",
    ],
    ["prompts", "prompt_watch", "sampling_steps", "records", "pipelines"],
    ["probe", "runs", "forward", "generation", "figures", "prompt_sets", "images", "segmentation"],
    ["scene_reader", "statistics", "rivals"],
    ["scores", "pictures", "recording"],
    ["budget", "norms", "maps", "pca", "guidance", "perturbation", "guidance_study", "expert"],
    ["overview", "differences", "explorer"],
    ["tiny", "agreement"],  # agreement reads scenes as tiny's evaluation does, which reports it
    ["expert_check", "magnet"],
    ["cli"],
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names} | {"datasets": 0}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def top(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Top-level parts of the package that a file imports."""
    package = ["mmdit_probe", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = [*base, *(node.module or "").split(".")] if node.module else base
            if full[0] == "mmdit_probe":
                yield from [full[1]] if len(full) > 1 else [alias.name for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_dependencies_point_down(path):
    own = top(path)
    for other in imported(path):
        assert other == own or LEVEL[other] <= LEVEL[own], f"{own} must not import {other}"


@pytest.mark.parametrize(
    ("words", "home"),
    [
        (("torch.overrides", "TorchFunctionMode"), {"intercept"}),
        (("transformer_blocks", "context_pre_only"), {"families"}),
        (("_scaled_dot_product", "_fused_sdp_choice"), {"kernels"}),
    ],
)
def test_what_lives_in_one_file(words, home):
    for path in FILES:
        if top(path) in home or top(path) == "tiny":
            continue
        assert not [word for word in words if word in path.read_text()], path


def test_files_are_small():
    assert not [path for path in FILES if len(path.read_text().splitlines()) > 350]


def test_nothing_loads_pickles():
    for path in FILES:
        for line in path.read_text().splitlines():
            if "torch.load(" in line:
                assert "weights_only=True" in line, path
