"""The documentation: its Python blocks run as they stand, page by page, and its pages are all there."""

import os
import re
from pathlib import Path

import pytest
from command_lines import COMMANDS, unknown_options

ROOT = Path(__file__).parent.parent
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "```python" in page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_the_pages_python_blocks_run(page, tmp_path, monkeypatch):
    """One namespace a page, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


def test_what_the_pages_point_at_exists():
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for path in re.findall(r"(?<![\w/])(?:mmdit_probe|analyses)/[\w/]+(?:\.py)?", text):
            assert os.path.exists(ROOT / path), f"{page.name}: {path}"


def test_the_reference_names_what_exists():
    """mkdocstrings stops at a wrong name when the site is built; so does this, without building it."""
    import importlib

    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                module, _, attribute = name.rpartition(".")
                assert hasattr(importlib.import_module(module), attribute), name


def command_lines(page):
    """The commands of a page's blocks, as (command, arguments)."""
    for block in re.findall(r"^```(?:bash)?\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("mmdit-probe "):
                words = re.split(r"\s#", line)[0].removeprefix("mmdit-probe ").replace("[--lora DIR]", "")
                name = next(name for name in sorted(COMMANDS, key=len, reverse=True) if words.startswith(name))
                yield name, words.removeprefix(name)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_pages_commands_exist_and_leave_each_other_alone(page):
    """Typed one after the other into one folder: each command writes into a folder of its own."""
    folders = []
    for name, arguments in command_lines(page):
        assert not unknown_options(name, arguments), (name, arguments)
        if name in ("serve", "models"):  # they write nothing
            continue
        named = re.search(r"--out (\S+)", arguments)
        folders.append(str(Path(named[1]).parent if named[1].endswith(".html") else Path(named[1])) if named else name)
    assert len(set(folders)) == len(folders), folders
