"""The explorer page in headless Chromium: what hovering, sliders, keys, darkness and a phone's width change."""

import os
import shutil

import numpy as np
import pytest
from explorer_records import random_record

from mmdit_probe.explorer import contents_of, make_page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="the explorer page is tested in Chromium: apt-get install chromium chromium-driver",
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
EVIL = "<script>window.evil = 1</script>"
WORDS = ["<s>", "circle", EVIL, "grass", "</s>", "pad", "pad"]
KINDS = ["start", "word", "word", "word", "end", "padding", "padding"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of 3 x 4 pixels whose every number is known: layers 3 and 5 of 6, timesteps 20 and 8, heads 0 and 1."""
    record = random_record(kinds=KINDS, words=WORDS).assign_attrs(expert_layer=5)
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    contents = contents_of(record)
    path = tmp_path_factory.mktemp("page") / "explore.html"
    make_page(contents, image).save(path)
    return path, contents


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    os.environ["SE_OFFLINE"] = "true"
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class Explorer:
    """The page as its user sees it."""

    def __init__(self, driver, path, width=1280, height=900, scheme="light"):
        self.driver = driver
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        driver.get(path.as_uri())
        self.until(lambda: self.js("return document.body.dataset.drawn !== undefined"))

    def js(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def until(self, done):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 30, poll_frequency=0.05).until(lambda _: done())

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def text(self, selector):
        return self.find(selector).text

    def bars(self):
        rows = self.driver.find_elements("css selector", "#bars li")
        return {row.get_attribute("data-entry"): row.find_element("css selector", ".value").text for row in rows}

    def heat(self):
        """The map's canvas as it is drawn, (rows, cols, 4)."""
        code = """const copy = document.createElement('canvas');
          [copy.width, copy.height] = [4, 3];
          const context = copy.getContext('2d', { willReadFrequently: true });
          context.drawImage(document.getElementById('heat'), 0, 0);
          return [...context.getImageData(0, 0, 4, 3).data]"""
        return np.array(self.js(code)).reshape(3, 4, 4)

    def hover(self, selector, row=None, col=None):
        """Move the mouse to an element, or to a pixel of the image."""
        from selenium.webdriver.common.action_chains import ActionChains

        target = self.find(selector)
        where = (0, 0)
        if row is not None:
            size = target.size
            where = (round(size["width"] * ((col + 0.5) / 4 - 0.5)), round(size["height"] * ((row + 0.5) / 3 - 0.5)))
        ActionChains(self.driver, duration=0).move_to_element_with_offset(target, *where).perform()

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def slide(self, name, value):
        self.js(
            "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('input'))",
            name,
            value,
        )

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def explorer(chromium, page):
    opened = Explorer(chromium, page[0])
    yield opened
    assert opened.errors() == []


def percent(share):
    return f"{100 * share:.2f}%" if share < 0.01 else f"{100 * share:.1f}%"


def near(shown, share):
    """A shown percentage is a share, within the page's precision."""
    return abs(float(shown.strip("<%")) / 100 - share) < 0.004


def test_it_opens_on_the_expert_layer_at_timestep_8_with_every_number_of_the_pixel(explorer, page):
    contents = page[1]
    start = contents.start()
    assert explorer.text("#layer-name") == "5"
    assert explorer.text("#timestep-name") == "t = 8 of 28 (sigma 0.515)"
    row, col = divmod(start["place"], 4)
    assert explorer.text("#pixel-title") == f"Pixel in row {row}, column {col}"
    maps = contents.group_maps(1, 1)
    for number, shown in enumerate(list(explorer.bars().values())[:5]):
        assert near(shown, maps[0, number, start["place"]])
    says = explorer.text("#pixel-says")
    image = 1 - maps[0, :, start["place"]].sum()
    assert says == f"gives {percent(image)} of its attention to the image, {percent(1 - image)} to text."
    assert (
        explorer.find("#budget-bar")
        .get_attribute("aria-label")
        .startswith(f"All of this pixel's attention: image {percent(image)}")
    )


def test_hovering_a_pixel_shows_its_words_and_leaving_returns(explorer, page):
    maps = page[1].group_maps(1, 1)[0]
    before = explorer.bars()
    explorer.hover("#frame", 2, 1)
    explorer.until(lambda: explorer.text("#pixel-title") == "Pixel in row 2, column 1")
    after = explorer.bars()
    assert after != before
    for number, shown in enumerate(list(after.values())[:5]):
        assert near(shown, maps[number, 2 * 4 + 1])
    explorer.hover("#prompt")
    explorer.until(lambda: explorer.bars() == before)


def test_a_click_keeps_the_pixel(explorer):
    explorer.hover("#frame", 0, 3)
    explorer.find("#frame").click()  # selenium clicks in the middle
    kept = explorer.text("#pixel-title")
    explorer.hover("#prompt")
    assert explorer.text("#pixel-title") == kept
    assert kept in ("Pixel in row 1, column 2", "Pixel in row 1, column 1")


def test_hovering_a_word_shows_its_map_over_the_image(explorer, page):
    maps = page[1].group_maps(1, 1)[0]
    for number in (1, 3):
        explorer.hover(f"#chips [data-entry=token-{number}]")
        explorer.until(lambda number=number: explorer.text("#map-name") == f"Map of {WORDS[number]}")
        drawn, exact = explorer.heat(), maps[number].reshape(3, 4)
        peak = np.unravel_index(exact.argmax(), exact.shape)
        assert explorer.text("#top") == percent(exact.max())
        np.testing.assert_allclose(drawn[peak][:3], [240, 249, 33], atol=1)  # the end of the scale
        solid = drawn[..., 3].astype(float)
        np.testing.assert_allclose(solid / 255, 0.9 * np.sqrt(exact / exact.max()), atol=0.01)
    explorer.hover("#bars [data-entry=token-2]")
    explorer.until(lambda: explorer.text("#map-name") == f"Map of {EVIL}")


def test_a_long_words_map_does_not_move_the_words_away(explorer):
    top = "return document.getElementById('chips').getBoundingClientRect().top"
    explorer.hover("#chips [data-entry=token-1]")
    explorer.until(lambda: explorer.text("#map-name") == "Map of circle")
    before = explorer.js(top)
    explorer.js("entries.find((e) => e.id === 'token-1').label = 'word '.repeat(40); update()")
    explorer.until(lambda: "word word" in explorer.text("#map-name"))
    assert explorer.js(top) == before


def test_sliders_and_heads_change_what_is_shown(explorer, page):
    contents, place = page[1], page[1].start()["place"]
    explorer.slide("layer", 0)
    explorer.until(lambda: explorer.text("#layer-name") == "3")
    assert near(explorer.bars()["token-1"], contents.group_maps(1, 0)[0, 1, place])
    assert explorer.text("#budget-chart text.here") == "3"
    mass = contents.curves["region_mass"].sel(layer=3, region=1).isel(timestep=1).mean("head")
    assert percent(float(mass)) in explorer.text("#budget-lines")
    explorer.slide("timestep", 0)
    explorer.until(lambda: explorer.text("#timestep-name") == "t = 20 of 28 (sigma 0.880)")
    explorer.until(lambda: near(explorer.bars()["token-1"], contents.group_maps(0, 0)[0, 1, place]))
    explorer.js("const h = document.getElementById('heads'); h.selectedIndex = 2; h.dispatchEvent(new Event('change'))")
    explorer.until(lambda: near(explorer.bars()["token-1"], contents.group_maps(0, 0)[2, 1, place]))
    assert explorer.find("#heads").text.splitlines() == ["all heads, mean", "head 0", "head 1"]
    norm = contents.curves["value_norm"].sel(layer=3, stream=0).isel(timestep=0, head=1)
    assert f"image tokens {float(norm):.2f}" in explorer.text("#norm-lines")


def test_one_color_scale_for_all_layers(explorer, page):
    explorer.hover("#chips [data-entry=token-1]")
    explorer.js("const s = document.getElementById('scale'); s.value = 'all'; s.dispatchEvent(new Event('change'))")
    highest = max(page[1].group_maps(t, layer)[0, 1].max() for t in (0, 1) for layer in (0, 1))
    explorer.until(lambda: explorer.text("#top") == percent(highest))


def test_a_click_on_a_curve_chooses_its_layer(explorer):
    from selenium.webdriver.common.action_chains import ActionChains

    chart = explorer.find("#norm-chart")
    left = round(-0.45 * chart.size["width"])
    ActionChains(explorer.driver, duration=0).move_to_element_with_offset(chart, left, 0).click().perform()
    explorer.until(lambda: explorer.text("#layer-name") == "3")


def test_the_keyboard_alone_reaches_everything(explorer):
    from selenium.webdriver.common.keys import Keys

    seen = []
    for _ in range(30):
        explorer.press(Keys.TAB)
        seen.append(
            explorer.js(
                "const e = document.activeElement; return e.id || e.dataset.entry || e.dataset.fold || e.tagName"
            )
        )
        if seen[-1] == "frame":
            explorer.press(*[Keys.ARROW_UP] * 3, *[Keys.ARROW_LEFT] * 4)
            explorer.until(lambda: explorer.text("#pixel-title") == "Pixel in row 0, column 0")
            explorer.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
            explorer.until(lambda: explorer.text("#pixel-title") == "Pixel in row 1, column 2")
        if seen[-1] == "layer":
            explorer.press(Keys.ARROW_LEFT)
            explorer.until(lambda: explorer.text("#layer-name") == "3")
        if seen[-1] == "token-3":
            explorer.until(lambda: explorer.text("#map-name") == "Map of grass")
            explorer.press(Keys.ENTER)
    order = [
        name
        for name in seen
        if name in ("frame", "layer", "timestep", "heads", "token-1", "token-3", "padding", "order")
    ]
    assert order[:8] == ["frame", "token-1", "token-3", "padding", "layer", "timestep", "heads", "order"]
    assert explorer.find("[data-entry=token-3]").get_attribute("aria-pressed") == "true"
    explorer.until(
        lambda: explorer.js("return document.getElementById('announcer').textContent").startswith("Row 1, column 2.")
    )


def test_padding_is_folded_but_reachable(explorer, page):
    place = page[1].start()["place"]
    maps = page[1].group_maps(1, 1)[0]
    assert "token-5" not in explorer.bars()
    assert near(explorer.bars()["kind-padding"], maps[5:7, place].sum())
    assert explorer.text("[data-entry=token-0]") == "start"
    assert explorer.text("[data-entry=token-4]") == "end"
    explorer.find("[data-fold=padding]").click()
    explorer.until(lambda: "token-6" in explorer.bars())
    assert near(explorer.bars()["token-6"], maps[6, place])
    assert explorer.text("#chips [data-entry=token-6]") == "padding 2"
    explorer.find("#chips [data-entry=token-6]").click()
    explorer.find("[data-fold=padding]").click()
    explorer.until(lambda: "token-6" not in explorer.bars())
    explorer.hover("#prompt")
    explorer.until(lambda: explorer.text("#map-name") == "Map of padding, all 2")


def test_a_prompt_that_is_code_shows_as_text(explorer):
    assert EVIL in explorer.text("#prompt")
    assert explorer.text("#chips [data-entry=token-2]") == EVIL
    assert explorer.js("return window.evil") is None


def luminance(explorer, selector, name):
    code = "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])"
    rgb = [int(part) / 255 for part in explorer.js(code, selector, name).split("(")[1].rstrip(")").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark(chromium, page, scheme):
    explorer = Explorer(chromium, page[0], scheme=scheme)
    paper = luminance(explorer, "body", "background-color")
    assert (paper > 0.5) == (scheme == "light")
    for selector in ("body", "#facts", "#bars .odd", "figcaption"):
        lighter, darker = sorted([luminance(explorer, selector, "color"), paper], reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) > 4.5, selector
    assert explorer.errors() == []


def test_a_phone_shows_it_without_scrolling_sideways(chromium, page):
    explorer = Explorer(chromium, page[0], width=390, height=844)
    assert explorer.js("return document.documentElement.scrollWidth") == 390
    outside = """return [...document.querySelectorAll('body *')].filter((e) => {
      const box = e.getBoundingClientRect();
      return box.width && !e.closest('.hidden') && (box.right > 391 || box.left < -1); }).map((e) => e.id || e.className)"""
    assert explorer.js(outside) == []
    for chip in explorer.driver.find_elements("css selector", "#chips button"):
        assert chip.size["height"] >= 40  # a finger's width
    tap = """const box = document.getElementById('frame').getBoundingClientRect();
      const at = { clientX: box.left + 0.9 * box.width, clientY: box.top + 0.9 * box.height, bubbles: true };
      document.getElementById('frame').dispatchEvent(new PointerEvent('click', { pointerType: 'touch', ...at }))"""
    explorer.js(tap)
    explorer.until(lambda: explorer.text("#pixel-title") == "Pixel in row 2, column 3")
    explorer.js("window.scrollTo(0, 1200)")
    frame = explorer.js("return document.getElementById('frame').getBoundingClientRect().top")
    assert 0 <= frame < 60  # the image stays in view beside its words
    assert explorer.errors() == []


def test_words_alone_say_what_is_not_known(chromium, tmp_path):
    record = random_record(kinds=["word", "word"], words=["circle", "grass"])
    maps = record["i2t_group"].rename(token="word", map_layer="layer").isel(head_group=0, drop=True)
    maps = maps.drop_vars(["token_text", "token_kind", "token_encoder"]).assign_coords(word=["circle", "grass"])
    only = maps.rename("word_map").to_dataset().assign_attrs(**record.attrs, direction="i2t")
    path = make_page(contents_of(only), None).save(tmp_path / "words.html")
    explorer = Explorer(chromium, path)
    assert "what else the pixel attends to is not known" in explorer.text("#pixel-says")
    assert not explorer.find("#budget-bar").is_displayed()
    assert not explorer.find("#budget-figure").is_displayed()
    assert list(explorer.bars()) == ["token-0", "token-1"]
    assert explorer.errors() == []


def test_a_damaged_page_says_so(chromium, page, tmp_path):
    text = page[0].read_text()
    start = text.index('id="maps-1-1">') + len('id="maps-1-1">')
    (tmp_path / "damaged.html").write_text(text[:start] + "AAAA" + text[start + 4 :])
    chromium.get((tmp_path / "damaged.html").as_uri())
    explorer = Explorer.__new__(Explorer)
    explorer.driver = chromium
    explorer.until(lambda: "data are damaged" in explorer.text("#problem"))
    explorer.errors()
