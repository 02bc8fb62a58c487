"""The app as its user meets it: the real server, tiny-sd3, headless Chromium."""

import io
import os
import select
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from browser import needs_chromium
from PIL import Image

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(find_spec("gradio") is None, reason="the app needs Gradio: pip install 'mmdit-probe[app]'"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Its address."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    folder = tmp_path_factory.mktemp("server")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmdit_probe", "serve", "--steps", "4"],
            cwd=folder,
            env={**environment, "PYTHONPATH": os.getcwd(), "GRADIO_TEMP_DIR": str(folder / "uploads")},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what runs in the background
        )
    with process.stdout:
        ready, _, _ = select.select([process.stdout], [], [], 180)
        line = process.stdout.readline() if ready else ""
        assert line.startswith("http://127.0.0.1:"), (folder / "log").read_text()
        yield line.split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "Traceback" not in (folder / "log").read_text()


class Page:
    def __init__(self, driver, address):
        self.driver = driver
        size = {"width": 1280, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(address)
        self.until(lambda: self.all("#run"))

    def until(self, done, seconds=60):
        end = time.monotonic() + seconds
        while not (found := done()):
            assert time.monotonic() < end, self.text("body")[:2000]
            time.sleep(0.1)
        return found

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self, selector):
        return self.driver.find_element("css selector", selector).text

    def value(self, selector):
        return self.driver.find_element("css selector", selector).get_property("value")

    def type(self, selector, text):
        field = self.driver.find_element("css selector", selector)
        field.clear()
        field.send_keys(text)

    def click(self, element):
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", element)

    def picture(self, selector):
        """The pixels of a shown picture."""
        code = """const [address, done] = [arguments[0], arguments[1]];
          fetch(address).then((r) => r.arrayBuffer()).then((b) => done([...new Uint8Array(b)]))"""
        address = self.driver.find_element("css selector", f"{selector} img").get_property("src")
        return np.asarray(Image.open(io.BytesIO(bytes(self.driver.execute_async_script(code, address)))).convert("RGB"))

    def choose(self, selector, label):
        """Choose from a list that opens."""
        self.driver.find_element("css selector", f"{selector} input").click()
        options = self.until(
            lambda: [o for o in self.all(f"{selector} [role=option]") if o.text.strip(" \\n✓") == label]
        )
        options[0].click()


@pytest.fixture(scope="module")
def page(server, chromium):
    return Page(chromium, server)


def says(page):
    return page.value("#says textarea, #says input")


def test_a_prompt_in_an_overlay_out_and_word_and_layer_chosen(page, tiny):
    page.type("#prompt textarea", "a red circle on grass")
    page.click(page.all("#run")[0])
    page.until(lambda: "of the image's attention" in says(page))
    words = [label.text.strip() for label in page.all("#word label") if label.text.strip()]
    assert words == ["red", "circle", "grass"]

    from mmdit_probe.app import Reader, View
    from mmdit_probe.app.reader import overlay_of, picture_of
    from mmdit_probe.app.reader import says as line_of

    seen = Reader(tiny).generate("a red circle on grass", 4, 0)
    assert np.abs(page.picture("#image").astype(int) - picture_of(seen)).max() <= 1
    circle = next(label for label in page.all("#word label") if label.text.strip() == "circle")
    page.click(circle.find_element("css selector", "input"))
    page.until(lambda: says(page) == line_of(seen, View("circle", 7, 1)))
    wanted = overlay_of(seen, View("circle", 7, 1))
    assert np.abs(page.picture("#overlay").astype(int) - np.asarray(wanted)).max() <= 3

    page.choose("#layer", "4")
    page.until(lambda: says(page) == line_of(seen, View("circle", 4, 1)))
    wanted = overlay_of(seen, View("circle", 4, 1))
    page.until(lambda: np.abs(page.picture("#overlay").astype(int) - np.asarray(wanted)).max() <= 3)
    page.choose("#timestep", "3")
    page.until(lambda: says(page) == line_of(seen, View("circle", 4, 3)))

    pictures = page.until(lambda: page.all("#layers button img"))
    assert len(pictures) == 12
    page.click(pictures[9])
    page.until(lambda: says(page) == line_of(seen, View("circle", 9, 3)))


def test_the_explorer_page_opens_below(page):
    page.click(page.all("#pages")[0])
    frame = page.until(lambda: page.all("#explorer iframe"))[0]
    page.driver.switch_to.frame(frame)
    try:
        page.until(lambda: page.driver.execute_script("return document.body.dataset.drawn !== undefined"))
        assert "a red circle on grass" in page.driver.execute_script("return document.title")
    finally:
        page.driver.switch_to.default_content()
    links = page.until(lambda: page.all("#files a"))
    assert {link.get_property("href").rsplit("/", 1)[-1] for link in links} == {"explore.html", "report.html"}


def test_what_is_wrong_is_told_on_the_page(page):
    page.type("#prompt textarea", "sand " * 30)
    page.click(page.all("#run")[0])
    page.until(lambda: "more than the 24 tokens that this model reads" in page.text("body"))


def test_nothing_is_fetched_from_elsewhere(page, server):
    code = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert [name for name in page.driver.execute_script(code) if not name.startswith((server, "data:", "blob:"))] == []
