"""The documentation: its Python blocks run as they stand, page by page, and its pages are all there."""

import os
import re
from pathlib import Path

import pytest

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
