"""What the explorer page shows beside I2T: T2I, T2T, I2I, sinks, reference images; two pages side by side."""

import json
import re

import numpy as np
import pytest
from browser import needs_chromium
from explorer_records import random_record, with_regions
from test_cli_studies import refused
from test_explorer import config, restored, unpacked
from test_explorer_page import KINDS, WORDS, Explorer, near

from mmdit_probe import save_record
from mmdit_probe.configs import ExploreConfig
from mmdit_probe.explorer import contents_of, explore, make_page, measure_exploration, page_of_two, side_of
from mmdit_probe.explorer.quantize import MAP_ERROR
from mmdit_probe.explorer.regions import MOST_CELLS, TOP
from mmdit_probe.storage.images import save_image


def region_record(**changes):
    record = with_regions(random_record(kinds=KINDS, words=WORDS), **changes)
    dims = ("timestep", "layer", "head")
    curves = {"region_mass": ((*dims, "region"), np.full((2, 6, 2, 9), 0.25))}
    curves["value_norm"] = ((*dims, "stream"), np.ones((2, 6, 2, 4)))
    record = record.drop_vars(list(curves)).assign(curves)  # of image, text and one reference
    return record.assign_attrs(expert_layer=5, reference_tokens=6, reference_grids="2 x 3")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    contents = contents_of(region_record())
    path = tmp_path_factory.mktemp("regions") / "explore.html"
    make_page(contents, np.zeros((30, 40, 3), np.uint8), references=[np.zeros((20, 30, 3), np.uint8)]).save(path)
    return path, contents


@pytest.fixture
def explorer(chromium, page):
    opened = Explorer(chromium, page[0])
    yield opened
    assert opened.errors() == []


def described(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page.text, re.S).group(1))


# --- contents


def test_a_recording_holds_all_regions_of_the_model(random_pipe):
    record = measure_exploration(random_pipe, config(layers=(1,), timesteps=(2,))).record
    contents = contents_of(record)
    assert set(contents.regions.matrices) == {"t2i", "t2t", "i2i"}
    here, mass = record.isel(timestep=0, map_layer=0), record["region_mass"].isel(timestep=0).sel(layer=1).mean("head")
    sums = {"T2I": here["t2i"].sum(("row", "col")).mean(), "T2T": here["t2t"].sum("to_token").mean()}
    sums["I2I"] = here["i2i"].sum(("row", "col")).mean()
    for region, found in sums.items():
        np.testing.assert_allclose(float(found), float(mass.sel(region=region)), rtol=1e-4)
    sinks = contents.regions.sinks[0][0]
    assert [sink.mass for sink in sinks] == sorted((sink.mass for sink in sinks), reverse=True)
    largest = max(float(here["text_key_mass"].max()), float(here["image_key_mass"].max()))
    assert sinks[0].mass == pytest.approx(largest)
    assert sinks[0].times == pytest.approx(largest * (64 + 27))
    assert len(sinks) == TOP
    assert not contents.regions.sampled


def test_regions_can_be_left_out(random_pipe):
    record = measure_exploration(random_pipe, config(layers=(1,), timesteps=(2,), regions=("none",))).record
    regions = contents_of(record).regions
    assert regions.matrices == {}
    assert regions.sinks is None
    assert described(make_page(contents_of(record), None))["regions"] == {}
    with pytest.raises(ValueError, match="regions must be some of t2i, t2t, i2i, sinks, or none, got 'i2t'"):
        ExploreConfig(regions=("i2t",))


def test_large_maps_are_joined_to_cells_and_say_so():
    record = with_regions(random_record(grid=(40, 60), heads=(1,)), references=())
    record = record.isel(query=[0, 777])
    made = contents_of(record).regions.matrices["i2i"]
    assert (made.grid, made.cell, made.queries) == ((40, 60), 2, ((0, 0), (12, 57)))
    assert made.values.shape[-1] == 20 * 30 <= MOST_CELLS
    blocks = record["i2i"].values[1, 0, 1].reshape(20, 2, 30, 2).mean((1, 3))
    np.testing.assert_allclose(made.values[1, 0, 1], blocks.ravel(), rtol=1e-5)


def test_the_page_holds_the_regions_within_its_precision():
    contents = contents_of(region_record())
    page = make_page(contents, None)
    for name, (count, keys) in {
        "t2i": (7, 12),
        "t2t": (7, 7),
        "i2i": (12, 12),
        "r2i-1": (6, 12),
        "i2r-1": (12, 6),
    }.items():
        largest = unpacked(page, f"{name}-largest", "<f4").reshape(2, 2, count)
        codes = unpacked(page, f"{name}-1-0", np.uint8).reshape(count, keys)
        exact = contents.token_matrix(name, 1, 0)
        assert exact.shape == (count, keys)
        np.testing.assert_allclose(restored(codes, largest[1, 0]), exact, atol=MAP_ERROR * exact.max())
        assert described(page)["regions"][name]["count"] == count


def test_joined_text_positions_are_means():
    record = region_record()
    record["i2t_group"][..., 5:] = record["i2t_group"].values[..., 5:6]
    contents = contents_of(record)
    assert contents.tokens[-1].places == (5, 6)
    matrix, exact = contents.token_matrix("t2t", 0, 1), record["t2t"].values[0, 1]
    assert matrix.shape == (6, 6)
    assert matrix[5, 5] == pytest.approx(exact[5:, 5:].mean())
    assert matrix[1, 5] == pytest.approx(exact[1, 5:].mean())
    page = make_page(contents, None)
    for name, (count, keys) in {"t2i": (6, 12), "t2t": (6, 6), "i2i": (12, 12)}.items():
        told = described(page)["regions"][name]
        assert (told["count"], told["keys"]) == (count, keys)
        assert unpacked(page, f"{name}-1-0", np.uint8).size == count * keys
        assert unpacked(page, f"{name}-largest", "<f4").size == 2 * 2 * count


def test_what_was_read_at_no_position_is_no_map():
    record = region_record().assign_coords(query=["center"] + [f"{n},0" for n in range(11)])
    assert "i2i" not in contents_of(record).regions.matrices
    unknown = region_record()
    unknown["t2i"][:] = np.nan
    assert "t2i" not in contents_of(unknown).regions.matrices
    with pytest.raises(ValueError, match="2 reference images are given, the record has maps of 1"):
        make_page(contents_of(region_record()), None, references=[np.zeros((2, 3, 3), np.uint8)] * 2)


# --- the page


@needs_chromium
def test_t2i_shows_where_a_word_looks(explorer, page):
    explorer.find("[data-view=t2i]").click()
    explorer.until(
        lambda: explorer.text("#map-name") == "Where circle looks" or explorer.hover("#chips [data-entry=token-1]")
    )
    exact = page[1].token_matrix("t2i", 1, 1)[1].reshape(3, 4)
    assert near(explorer.text("#top"), exact.max())
    np.testing.assert_allclose(explorer.heat()[..., 3] / 255, 0.9 * np.sqrt(exact / exact.max()), atol=0.01)
    assert explorer.find("[data-view=t2i]").get_attribute("aria-pressed") == "true"
    explorer.hover("#chips [data-entry=kind-padding]")
    explorer.until(lambda: explorer.text("#map-name") == "Where padding, all 2 look, their mean")
    mean = page[1].token_matrix("t2i", 1, 1)[5:].mean(0)
    assert near(explorer.text("#top"), mean.max())


@needs_chromium
def test_i2i_shows_what_a_pressed_pixel_listens_to(explorer, page):
    explorer.find("[data-view=i2i]").click()
    for row, col in ((2, 1), (0, 3)):
        explorer.hover("#frame", row, col)
        explorer.until(lambda row=row, col=col: explorer.text("#map-name") == f"Where row {row}, column {col} looks")
        exact = page[1].token_matrix("i2i", 1, 1)[row * 4 + col].reshape(3, 4)
        assert near(explorer.text("#top"), exact.max())
        np.testing.assert_allclose(explorer.heat()[..., 3] / 255, 0.9 * np.sqrt(exact / exact.max()), atol=0.01)


@needs_chromium
def test_the_matrix_tells_what_words_give_to_words(explorer, page):
    exact = page[1].token_matrix("t2t", 1, 1)
    explorer.hover("#chips [data-entry=token-3]")
    explorer.until(lambda: explorer.text("#t2t-says").startswith("grass gives"))
    assert near(explorer.text("#t2t-says").split()[2], exact[3].sum())
    sizes = explorer.js("return (({cell, label}) => [cell, label])(matrixSizes())")
    pointed = """const box = $('t2t').getBoundingClientRect(); const { cell, label } = matrixSizes();
      $('t2t').dispatchEvent(new PointerEvent('pointermove', { bubbles: true,
        clientX: box.left + label + 3.5 * cell, clientY: box.top + label + 1.5 * cell }))"""
    assert sizes[0] > 7
    explorer.js(pointed)
    explorer.until(lambda: "of its attention to grass" in explorer.text("#t2t-says"))
    assert explorer.text("#t2t-says").startswith("circle gives")
    assert near(explorer.text("#t2t-says").split()[2], exact[1, 3])
    assert explorer.find("#bars li.shown").get_attribute("data-entry") == "token-1"


@needs_chromium
def test_sinks_are_listed_and_marked(explorer, page):
    sinks = page[1].regions.sinks[1][1]
    rows = explorer.driver.find_elements("css selector", "#sink-list li")
    assert len(rows) == TOP
    for row, sink in zip(rows, sinks, strict=True):
        mass, times = row.find_element("css selector", ".value").text.split(", ")
        assert near(mass, sink.mass)
        assert times == f"{sink.times:.1f} x"
    strong = [sink for sink in sinks if sink.times >= 4]
    rings = explorer.driver.find_elements("css selector", "#marks i")
    assert len(rings) == sum(sink.stream == "image" for sink in strong)
    chips = explorer.driver.find_elements("css selector", "#chips .sink")
    text = {sink.place for sink in strong if sink.stream == "text"}
    assert {chip.get_attribute("data-entry") for chip in chips} == {
        f"token-{place}" if place < 5 else "kind-padding" for place in text
    }
    assert strong, "the random record is to have one"
    explorer.find("#mark-sinks").click()
    explorer.until(lambda: not explorer.driver.find_elements("css selector", "#marks i, #chips .sink"))


@needs_chromium
def test_a_reference_answers_to_the_mouse(explorer, page):
    from selenium.webdriver.common.action_chains import ActionChains

    frame = explorer.find("[data-reference='1']")
    offset = (round(frame.size["width"] / 3), round(frame.size["height"] / 4))
    ActionChains(explorer.driver, duration=0).move_to_element_with_offset(frame, *offset).perform()
    explorer.until(lambda: explorer.text("#map-name") == "From reference 1, row 1, column 2")
    exact = page[1].token_matrix("r2i-1", 1, 1)[5]
    assert near(explorer.text("#top"), exact.max())
    explorer.js("const s = $('reference-way'); s.value = 'to'; s.dispatchEvent(new Event('change'))")
    explorer.until(lambda: explorer.text("#map-name") == "To reference 1, row 1, column 2")
    assert near(explorer.text("#top"), page[1].token_matrix("i2r-1", 1, 1)[:, 5].max())
    explorer.hover("#frame", 1, 0)
    explorer.until(lambda: explorer.text("#map-name").startswith("Map of"))
    mass = page[1].token_matrix("i2r-1", 1, 1)[4].sum()
    assert near(explorer.text("#references figcaption").split()[2], mass)


@needs_chromium
def test_a_phone_shows_the_regions_without_scrolling_sideways(chromium, page):
    explorer = Explorer(chromium, page[0], width=390, height=844, scheme="dark")
    assert explorer.js("return document.documentElement.scrollWidth") == 390
    for button in explorer.driver.find_elements("css selector", "#views button"):
        assert button.size["height"] >= 40
    assert explorer.errors() == []


# --- two side by side


def other_record():
    record = random_record(kinds=KINDS, words=WORDS, kept=(0, 3, 5))
    record["i2t_group"][:] = record["i2t_group"].values[..., ::-1]
    return record.assign_attrs(expert_layer=3, model="other", prompt="another")


def test_two_of_anything_make_a_page(random_pipe, tmp_path):
    file = save_record(region_record(), tmp_path / "r.nc")
    save_image(np.zeros((30, 40, 3), np.uint8), tmp_path / "image.png")
    page = explore([file, other_record()])
    assert page.text.count("<iframe") == 2
    assert "data:image/png" in page.text
    assert "another" in page.text
    assert not re.findall(r"https?://(?!www.w3.org)|@import|url\(", page.text)
    short = {"layers": (1,), "timesteps": (1,), "generation": config().generation}
    assert explore([random_pipe, random_pipe], "sand", **short).text.count("<iframe") == 2
    with pytest.raises(ValueError, match="one or two can be looked at on a page, got 3"):
        page_of_two([side_of(other_record())] * 3)
    with pytest.raises(ValueError, match="give the prompt that the pipelines generate from"):
        explore([random_pipe, other_record()])


@needs_chromium
def test_what_is_chosen_in_one_is_chosen_in_the_other(chromium, tmp_path):
    path = page_of_two([side_of(region_record()), side_of(other_record())]).save(tmp_path / "two.html")
    explorer = Explorer(chromium, path, width=1600)
    driver = explorer.driver
    assert explorer.text("section:first-child h2").startswith("A: ")

    def inside(side, code):
        driver.switch_to.frame(side)
        found = driver.execute_script(code)
        driver.switch_to.default_content()
        return found

    word = "const e = entries.find((e) => e.id === 'token-3'); set({ pinnedEntry: e, layer: 0, hoverPlace: null, pinnedPlace: 6 })"
    inside(0, word)
    layer = "return document.getElementById('layer-name').textContent"
    explorer.until(lambda: inside(1, layer) == "3")
    assert inside(1, "return document.getElementById('pixel-title').textContent") == "Pixel in row 1, column 2"
    explorer.until(lambda: "grass" in explorer.text("#numbers tbody th"))
    row = explorer.text("#numbers tbody tr:first-child").split("(I2T) ")[1].split()
    a, b = (contents_of(made).group_maps(1, at)[0, 3, 6] for made, at in ((region_record(), 0), (other_record(), 1)))
    assert near(row[0], a)
    assert near(row[1], b)
    assert abs(float(row[2].replace("\N{MINUS SIGN}", "-")) - 100 * (b - a)) < 0.8
    explorer.find("#linked").click()
    inside(1, "set({ layer: 0 })")
    explorer.until(lambda: "layer 0" in explorer.text("#what"))
    assert inside(0, layer) == "3"
    assert explorer.errors() == []


def test_the_command_takes_two_records(run, tmp_path):
    save_record(region_record(), tmp_path / "one.nc")
    save_record(other_record(), tmp_path / "other.nc")
    code, out, _ = run("explore", "one.nc", "other.nc", "--out", "two/two.html", "--json")
    assert code == 0
    found = json.loads(out)
    assert [side["layers"] for side in found["sides"]] == [[3, 5], [0, 3, 5]]
    assert found["summary"][0].startswith("A: 3 x 4 image tokens")
    assert (tmp_path / "two" / "two.html").read_text().count("<iframe") == 2
    assert refused(run("explore", "one.nc", "other.nc", "one.nc"), "give one record, or two to see side by side, got 3")
    assert refused(run("explore", "one.nc", "other.nc", "--reference", "x.png"), "leave it out with two")
    save_image(np.zeros((20, 30, 3), np.uint8), tmp_path / "ref.png")
    assert run("explore", "one.nc", "--reference", "ref.png", "--out", "three/three.html")[0] == 0
