"""What is said to live in one room lives there alone; `make check` has the import contract."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mmdit_probe"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def top(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    ("words", "home"),
    [
        (("torch.overrides", "TorchFunctionMode"), {"attention"}),
        (("transformer_blocks", "context_pre_only"), {"families"}),
        (("_scaled_dot_product", "_fused_sdp_choice"), {"attention"}),
    ],
)
def test_what_lives_in_one_file(words, home):
    for path in FILES:
        if top(path) in home or top(path) == "tiny":
            continue
        assert not [word for word in words if word in path.read_text()], path


def test_files_are_small():
    assert not [path for path in FILES if len(path.read_text().splitlines()) > 300]


def test_nothing_loads_pickles():
    for path in FILES:
        for line in path.read_text().splitlines():
            if "torch.load(" in line:
                assert "weights_only=True" in line, path
