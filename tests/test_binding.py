"""Words bound to places: layouts, what is measured, and the command."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmdit_probe.datasets.shapes import COLORS
from mmdit_probe.studies.binding import (
    Layout,
    binding_lines,
    binding_table,
    built_in_layouts,
    drawn_layout,
    inside_share,
    measure_binding,
)
from mmdit_probe.studies.given_places import given_regions

LEFT = (0, 0, 0.5, 1)
COMMAND = ["bind", "--prompt", "a red circle on sand", "--layers", "all", "--steps", "2", "--max-sequence-length", "0"]


def test_built_in_layouts_name_two_objects_in_two_halves():
    layouts = built_in_layouts(40)
    assert len({(layout.prompt, *layout.regions.values()) for layout in layouts}) > 30
    for layout in layouts:
        assert all(word in layout.prompt for word in layout.regions)
        assert len(layout.regions) == 2
        drawn = drawn_layout(layout, 8, 8)
        for word, place in layout.regions.items():
            assert inside_share(np.kron(drawn, np.ones((4, 4, 1), np.uint8)), word, place) == 1


def test_pixels_of_a_color_are_counted_inside_and_outside():
    image = np.full((16, 16, 3), 230, np.uint8)
    image[:, 4:12] = np.multiply(COLORS["red"], 255)
    image[:2, 8:12] = 230
    assert inside_share(image, "red circle", LEFT) == pytest.approx(64 / 120)
    assert np.isnan(inside_share(image, "blue circle", LEFT))  # not drawn
    assert np.isnan(inside_share(image, "circle", LEFT))  # no color to look for


def test_regions_are_read_from_boxes_and_masks(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "left.png")
    found = given_regions(["red circle=0,0,0.5,1", f"sand={tmp_path / 'left.png'}"])
    assert found["red circle"] == LEFT
    assert (found["sand"] == (mask > 0)).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["red circle"], "give a word and its place"),
        (["red=0,0,1,1", "red=0,0,1,1"], "'red' is given twice"),
        (["red=0,0,3,1"], "a box must be left, top, right, bottom"),
        (["red=missing.png"], "missing.png"),
    ],
)
def test_regions_that_can_not_be_read_are_explained(texts, message):
    with pytest.raises(ValueError, match=message):
        given_regions(texts)


class Reader:
    def fact_share(self, images, prompts):
        return np.ones(len(prompts))


def test_gains_have_intervals_from_five_layouts_on():
    layouts = [Layout("a red circle on sand", {"red circle": LEFT})] * 6
    plain, bound = np.full((2, 6, 1, 16, 16, 3), 230, np.uint8)
    plain[..., 8:, :] = bound[..., :8, :] = np.multiply(COLORS["red"], 255)
    bound[5] = 230  # nothing drawn: the layout does not count
    measured = measure_binding(layouts, {"plain": plain, "bound": bound}, Reader())
    table = binding_table(measured).set_index("metric")
    assert table.loc["inside", ["n", "plain", "bound", "gain"]].tolist() == [5, 0, 1, 1]
    lines = binding_lines(table.reset_index())
    assert lines[0].startswith("100% of the objects' pixels stand where they were asked, 0% without: +100 points")
    assert "outside chance" in lines[0]
    assert "within chance" in lines[1]
    few = binding_table(measured[measured["layout"] < 2])
    assert few["low"].isna().all()
    assert "no verdict" in binding_lines(few)[0]
    none = binding_table(measured[measured["layout"] == 5])
    assert binding_lines(none)[0] == "inside: no layout has both objects drawn with and without binding."


def test_the_command_draws_with_and_without(run, tmp_path):
    code, out, err = run(*COMMAND, "--region", "red circle=0,0,0.5,1", "--binding", "hard", "--seeds", "0")
    assert code == 0, err
    assert "1 prompts drawn" not in out
    assert (tmp_path / "results/bind/bind_sheet.png").stat().st_size > 1000
    code, _, err = run(*COMMAND)
    assert (code, 'give --region "WORD=left,top,right,bottom"' in err) == (2, True)
    code, _, err = run(*COMMAND, "--region", "lava=0,0,1,1", "--out", "other")
    assert code == 2
    assert "'lava' is not among the prompt's tokens" in err


def test_the_embedded_model_measures_its_layouts(run, tmp_path):
    code, out, err = run("bind", "--layouts", "1", "--steps", "1", "--max-sequence-length", "0", model=False)
    assert code == 0, err
    assert "scene" not in out or "facts are drawn" in out
    assert set(pd.read_csv(tmp_path / "results/bind/bind_layouts.csv")["side"]) == {"plain", "bound"}
