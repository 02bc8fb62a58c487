"""The notebooks run from top to bottom, on the CPU, without a warning; they are committed without outputs."""

import ast
import importlib.util
import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def strip_module():
    spec = importlib.util.spec_from_file_location("strip_outputs", FOLDER / "strip_outputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_cell(source, names, where):
    """Run a cell as a notebook does: its last expression is shown."""
    tree = ast.parse(source, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    show = getattr(value, "_repr_html_", None) or getattr(value, "_repr_png_", None) or value.__repr__
    return show()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names = {"__name__": "__main__"}
    shown = []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            shown.append(run_cell("".join(cell["source"]), names, f"{path.name}, {cell['id']}"))
            for number in plt.get_fignums():
                plt.figure(number).canvas.draw()
            plt.close("all")
    assert any(shown)
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_there_is_something_to_read_and_to_run():
    assert [path.stem[:2] for path in NOTEBOOKS][:4] == ["01", "02", "03", "04"]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        assert cells[0]["cell_type"] == "markdown"
        assert "".join(cells[0]["source"]).startswith("# ")
        assert any(cell["cell_type"] == "code" for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    assert strip_module().main(["--check", str(path)]) == 0


def test_outputs_are_stripped(tmp_path, capsys):
    strip = strip_module()
    clean = json.loads(NOTEBOOKS[0].read_text())
    used = json.loads(NOTEBOOKS[0].read_text())
    code = next(cell for cell in used["cells"] if cell["cell_type"] == "code")
    code.update(execution_count=7, outputs=[{"output_type": "stream", "name": "stdout", "text": ["x"]}], id="abc")
    used["metadata"]["language_info"]["version"] = "3.11.7"
    file = tmp_path / "used.ipynb"
    file.write_text(json.dumps(used))
    assert strip.main(["--check", str(file)]) == 1
    assert json.loads(file.read_text()) == used
    assert strip.main([str(file)]) == 1
    assert json.loads(file.read_text()) == clean
    assert strip.main([str(file)]) == 0
