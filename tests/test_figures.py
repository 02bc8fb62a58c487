"""What stands on figures: the line under them, texts as they are, and characters that no font has."""

import logging

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.text import Text

from mmdit_probe.figures import fonts
from mmdit_probe.figures.budget import budget_figure
from mmdit_probe.figures.differences import difference_figure
from mmdit_probe.figures.drops import dots_and_bars, drop_figure
from mmdit_probe.figures.magnet import MaskRow, masks_figure
from mmdit_probe.figures.maps import word_page
from mmdit_probe.figures.style import SPREAD, caption, captioned, house_style, save_figure
from mmdit_probe.segmentation.render import sheet

ODD = "costs $4 or $5 \\frac{1} \\$"


def texts(figure):
    return [part.get_text() for part in figure.findobj(Text)]


def titled(title):
    with house_style():
        figure, ax = plt.subplots(figsize=(4, 2))
        ax.set_title(title)
        ax.set_xticks([0, 1], [title, "b"])
    return figure


def ink(figure):
    """The figure as drawn, in gray."""
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].mean(-1)
    plt.close(figure)
    return drawn


def test_dollars_and_backslashes_are_drawn_as_they_are():
    figure = titled(ODD)
    assert ODD in texts(figure)
    assert not any(part.get_parse_math() for part in figure.findobj(Text) if part.get_text() == ODD)
    assert (ink(figure) != ink(titled(ODD.replace("\\$", "$")))).any()  # a backslash is seen


def test_every_line_says_model_and_prompt(tmp_path):
    line = caption("/models/sd3", [ODD], "t = 8 of 28 (sigma 0.515)")
    assert line == f"sd3; prompt: {ODD}; t = 8 of 28 (sigma 0.515)"
    assert caption("tiny-sd3", ["a"] * 20) == "tiny-sd3; n = 20 prompts"
    assert "..." in caption("tiny-sd3", ["word " * 100])
    figure = captioned(titled("a"), line)
    assert line in [text.replace("\n", " ") for text in texts(figure)]
    with_line, without = (save_figure(titled("a"), tmp_path / str(n), said)[1] for n, said in enumerate((line, "")))
    assert plt.imread(with_line).shape[0] > plt.imread(without).shape[0]  # the line is on the page


@pytest.fixture
def warned(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "_named", set())
    caplog.set_level(logging.WARNING)
    yield caplog
    monkeypatch.undo()
    fonts.cjk_font.cache_clear()


def test_characters_without_a_font_are_named(warned, tmp_path, monkeypatch):
    monkeypatch.setattr(fonts, "cjk_font", lambda: None)
    save_figure(titled("\u732b on grass"), tmp_path / "cat")
    (record,) = warned.records
    assert "\u732b (U+732B)" in record.getMessage()
    assert "install one, such as Noto Sans CJK" in record.getMessage()
    save_figure(titled("\u732b again"), tmp_path / "cat")
    assert len(warned.records) == 1  # said once
    save_figure(titled("plain é ü ß"), tmp_path / "cat")
    assert len(warned.records) == 1


def test_a_legend_names_what_it_cannot_draw(warned, monkeypatch):
    monkeypatch.setattr(fonts, "cjk_font", lambda: None)
    image, labels = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.int64)
    sheet(image, labels, ["grass", "caf\u00e9"])
    assert not warned.records
    sheet(image, labels, ["grass", "\u732b"])
    assert "\u732b (U+732B)" in warned.records[0].getMessage()


def test_an_open_cjk_font_is_taken(warned, tmp_path, monkeypatch):
    """A font of this test's own, whose one character is a cat."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from matplotlib import font_manager

    pen = TTGlyphPen(None)
    for corner in ((0, 0), (0, 700), (700, 700), (700, 0)):
        (pen.moveTo if corner == (0, 0) else pen.lineTo)(corner)
    pen.closePath()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "cat"])
    font.setupCharacterMap({0x732B: "cat"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (500, 0), "cat": (800, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "WenQuanYi Test", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "cat.ttf")
    entry = font_manager.ttfFontProperty(font_manager.get_font(tmp_path / "cat.ttf"))
    known = [one for one in font_manager.fontManager.ttflist if not one.name.startswith(fonts.OPEN_CJK)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*known, entry])
    fonts.cjk_font.cache_clear()
    assert fonts.families() == ["DejaVu Sans", "WenQuanYi Test"]
    paths = save_figure(titled("\u732b"), tmp_path / "cat")
    assert not warned.records
    assert all(path.stat().st_size > 1000 for path in paths)


def budget_of(spread):
    rows = [
        {"timestep": 8, "sigma": 0.5, "layer": layer, "region": region, "mass": 0.5, "spread": spread, "uniform": 0.4}
        for layer in range(3)
        for region in ("I2I", "I2T", "T2I", "T2T")
    ]
    return pd.DataFrame(rows)


def test_bands_are_explained_where_they_stand():
    assert SPREAD in texts(budget_figure(budget_of(0.1), 28))
    assert SPREAD not in texts(budget_figure(budget_of(0.0), 28))  # of one prompt there is no band
    assert any("t = 8 of 28 (sigma 0.500)" in text for text in texts(budget_figure(budget_of(0.1), 28)))


def differences(values):
    rows = [
        {"measure": measure, "timestep": 8, "layer": layer, "part": part, "difference": value}
        for (measure, part), value in values.items()
        for layer in range(3)
    ]
    return pd.DataFrame(rows)


def test_what_does_not_differ_is_left_out():
    table = differences({("kind", "word"): 0.1, ("kind", "absent"): 0.0, ("same", ""): 0.0})
    units, names = {"kind": "share of attention", "same": "nats"}, {"kind": "I2T by kind", "same": "entropy"}
    figure = difference_figure(table, units, names, 28)
    assert len(figure.axes) == 1
    assert figure.axes[0].get_ylabel().startswith("I2T by kind\n")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["word"]
    assert figure.axes[0].get_title() == "B minus A, t = 8 of 28"
    assert "no difference anywhere" in texts(difference_figure(differences({("same", ""): 0.0}), units, names))


def test_compared_masks_have_a_color_key():
    image = np.zeros((8, 8, 3), np.uint8)
    colors = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    figure = masks_figure([MaskRow(("grass", "star"), colors, image, image, image, image)])
    assert {"grass", "star"} <= set(texts(figure))
    shown = [line.get_color() for line in figure.axes[0].lines]
    np.testing.assert_allclose(shown, colors / 255)


def test_drops_without_intervals_are_hollow_and_say_so():
    table = pd.DataFrame({"layer": [None, 1, 2], "metric": "clip_t", "n": 1, "drop": [0, 0.1, 0.2]})
    table = table.assign(low=[0.0, np.nan, np.nan], high=[0.0, np.nan, np.nan], p=np.nan)
    assert dots_and_bars(table) == "dots: averages; too few prompts for intervals"
    figure = drop_figure(table, "layer")
    assert len(figure.axes[0].containers[0][1]) == 0  # no caps
    assert figure.axes[0].containers[0][0].get_markerfacecolor() == "none"
    assert "95% intervals" in dots_and_bars(table.assign(low=0.0, high=0.3))


@pytest.mark.parametrize(("layers", "grid"), [(1, (8, 8)), (3, (8, 8)), (3, (4, 12)), (3, (12, 6)), (12, (8, 8))])
def test_a_page_of_maps_fills_its_page_and_its_bar_is_as_long_as_its_panels(layers, grid):
    rng = np.random.default_rng(0)
    maps = xr.DataArray(
        rng.random((1, layers, *grid)),
        dims=("timestep", "layer", "row", "col"),
        coords={"timestep": [8], "layer": range(layers), "sigma": ("timestep", [0.5])},
    )
    image = rng.integers(0, 255, (8 * grid[0], 8 * grid[1], 3)).astype(np.uint8)
    page = word_page(maps, image, "circle", "i2t")
    drawn = ink(page)
    inked = np.flatnonzero((drawn < 250).any(1))
    assert inked[-1] - inked[0] > 0.8 * len(drawn)
    *panels, bar = [ax.get_position() for ax in page.axes if ax.has_data() or ax.images or ax.collections]
    high, wide = bar.height > bar.width, max(box.x1 for box in panels) - min(box.x0 for box in panels)
    tall = max(box.y1 for box in panels) - min(box.y0 for box in panels)
    assert (bar.height > 0.85 * tall) if high else (bar.width > 0.5 * wide)


def test_the_legend_of_masks_grows_with_the_image():
    small, large = (
        sheet(np.zeros((side, side, 3), np.uint8), np.zeros((side, side), int), ["grass"]) for side in (512, 1024)
    )
    assert large.width - 2 * 1024 > 1.7 * (small.width - 2 * 512)
