"""The report page, and the command that writes it."""

import html
import json
import re

import numpy as np
import pytest
from browser import needs_chromium
from PIL import Image

from mmdit_probe import trace

EVIL = "<script>window.evil = 1</script>"


@pytest.fixture(scope="module")
def page(tiny, tmp_path_factory):
    with trace(tiny) as seen:
        tiny(f"a red circle {EVIL}", num_inference_steps=2, max_sequence_length=0)
    path = tmp_path_factory.mktemp("report") / "report.html"
    return seen.report(path), path


def test_a_report_holds_everything_and_loads_nothing(page):
    report, path = page
    assert path.read_text() == report.text
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", report.text)
    for title in ("In short", "Where the words are", "Attention budget", "Value norms", "Heads and sinks"):
        assert f"<h2>{title}</h2>" in report.text
    assert report.text.count("How to read it") == 6
    assert report.megabytes < 2
    assert [name for section in report.sections for name in section.draws] == [
        "attention_budget", "value_norms", "heads", "pca_t1", "pca_r2"
    ]  # fmt: skip
    assert html.escape(report.text)[:80] in report._repr_html_()


def test_text_of_users_is_no_markup(page):
    assert EVIL not in page[0].text
    assert html.escape(EVIL) in page[0].text


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_in_chromium(page, chromium, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chromium.get(page[1].as_uri())
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width  # nothing sticks out
    assert chromium.execute_script("return window.evil") is None
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert chromium.execute_script(broken) == 0
    assert not chromium.get_log("browser")
    for link in chromium.execute_script("return [...document.querySelectorAll('nav a')].map(a => a.hash)"):
        assert chromium.execute_script("return document.querySelector(arguments[0]) !== null", link)


def test_the_command_writes_a_page_and_its_figures(run, tmp_path):
    arguments = [
        "report",
        "--prompt",
        "a red circle",
        "--steps",
        "2",
        "--max-sequence-length",
        "0",
        "--json",
        "--figures",
    ]
    code, out, err = run(*arguments)
    assert code == 0, err
    found = json.loads(out)
    assert [row["word"] for row in found["words"]] == ["red", "circle"]
    assert "results/report/report.html" in found["files"]
    assert {file.name for file in (tmp_path / "results/report").iterdir()} >= {"report.html", "heads.pdf", "pca_r2.png"}
    assert any("layers" in line for line in found["chosen"])
    assert run(*arguments, "--words", "red")[0] == 2  # another run in this folder


def test_a_given_image_is_drawn_as_it_is(run, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (50, 90, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    code, _, err = run("report", "--image", "photo.png", "--words", "sand", "--steps", "2", "--out", "page.html")
    assert code == 0, err
    text = (tmp_path / "page.html").read_text()
    assert "<h1>sand</h1>" in text
    assert "width / height is 2.00, not 1.80" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "photo.png"], "give --prompt or --words"),
        (["--prompt", "a red circle", "--words", "cirle"], "did you mean 'circle'?"),
        (["--prompt", "sand", "--layers", "9"], "--layers: this model has layers 0 to 2, got 9"),
        (["--prompt", "sand", "--timesteps", "29"], "--timesteps: must be in 1 to 28"),
    ],
)
def test_what_is_wrong_is_one_line(run, tmp_path, arguments, message):
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    code, _, err = run("report", *arguments)
    assert code == 2
    assert message in err.strip().splitlines()[-1]
    assert not (tmp_path / "results/report/report.html").exists()
