"""Remove outputs and execution counts from notebooks: python notebooks/strip_outputs.py [--check] [FILE ...].

Without files it takes all of this folder; exit code 1 if any was changed, or with --check would have to be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

KEPT_METADATA = ("kernelspec", "language_info")


def stripped(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with its sources alone; code cells unnumbered, ids by place, so that edits give small diffs."""
    cells = []
    for place, cell in enumerate(notebook["cells"]):
        bare = {"cell_type": cell["cell_type"], "id": f"cell-{place:02d}", "metadata": {}, "source": cell["source"]}
        if cell["cell_type"] == "code":
            bare |= {"execution_count": None, "outputs": []}
        cells.append(dict(sorted(bare.items())))
    metadata = {name: notebook["metadata"][name] for name in KEPT_METADATA if name in notebook["metadata"]}
    metadata |= {"language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def as_text(notebook: dict[str, Any]) -> str:
    """The file's text as it is committed."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Strip each file in place, unless only asked to check."""
    check = "--check" in arguments
    files = [Path(name) for name in arguments if name != "--check"] or sorted(Path(__file__).parent.glob("*.ipynb"))
    changed = []
    for file in files:
        before = file.read_text(encoding="utf-8")
        after = as_text(stripped(json.loads(before)))
        if after != before:
            changed.append(file)
            if not check:
                file.write_text(after, encoding="utf-8")
    for file in changed:
        print(f"{file}: {'has outputs; run python notebooks/strip_outputs.py' if check else 'outputs removed'}")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
