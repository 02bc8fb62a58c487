"""What notebooks show: images as they are, every text escaped."""

import base64
import html
import io
import re

import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image

from mmdit_probe import Segmentation
from mmdit_probe.attention.text_tokens import TextTokens
from mmdit_probe.segmentation.render import sheet
from mmdit_probe.studies.expert_layer import Expert
from mmdit_probe.studies.image_grid import ImageGrid
from mmdit_probe.studies.recording import Recording
from mmdit_probe.utils.html import facts, image_tag

EVIL = '"><script>alert(1)</script>'
IMAGE = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def images_in(text):
    codes = re.findall(r"data:image/png;base64,([^\"]+)", text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))) for code in codes]


def safe(text):
    """No element but those that the package writes."""
    assert "<script" not in text
    assert html.escape(EVIL) in text or html.escape(EVIL, quote=False) in text
    return True


def test_a_image_is_shown_pixel_by_pixel():
    tag = image_tag(IMAGE, EVIL)
    assert safe(tag)
    np.testing.assert_array_equal(images_in(tag)[0], IMAGE)
    assert "width:256px" in tag
    assert "pixelated" in tag
    assert "pixelated" not in image_tag(np.zeros((300, 300, 3), np.uint8), "")


def test_facts_are_escaped():
    assert safe(facts({EVIL: EVIL}))


def test_a_recording_shows_image_and_what_was_read():
    record = xr.Dataset({"word_map": (("layer", "row"), np.zeros((2, 3)))}, attrs={"prompt": EVIL, "seed": 3})
    shown = Recording(record, IMAGE)._repr_html_()
    assert safe(shown)
    assert "layer 2 x row 3" in shown
    np.testing.assert_array_equal(images_in(shown)[0], IMAGE)
    assert not images_in(Recording(record, np.empty((0, 0, 3), np.uint8))._repr_html_())


def test_images_of_a_run_stand_by_prompt_seed_and_variant():
    images = {name: np.full((2, 2, 4, 4, 3), fill, np.uint8) for name, fill in (("plain", 1), ("layer07", 2))}
    images["layer07"][1, 0] = 9
    shown = ImageGrid(("sand", EVIL), (0, 5), images)._repr_html_()
    assert safe(shown)
    assert [int(p[0, 0, 0]) for p in images_in(shown)] == [1, 2, 1, 2, 1, 9, 1, 2]
    assert "seed 5" in shown
    assert shown.index("plain") < shown.index("layer07")


def test_an_expert_shows_its_reasons():
    shown = Expert(7, EVIL, pd.DataFrame({"layer": [7], "coherence": [0.12345]}))._repr_html_()
    assert safe(shown)
    assert "Layer 7" in shown
    assert "0.123" in shown


def test_tokens_show_their_kinds():
    everywhere = np.ones((1, 2), bool)
    tokens = TextTokens(
        np.array([["<s>", EVIL]]),
        np.array([["start", "word"]]),
        np.array(["clip"] * 2),
        np.array([True]),
        everywhere,
        everywhere,
    )
    shown = tokens._repr_html_()
    assert safe(shown)
    assert "1 word" in shown
    assert "&lt;s&gt;" in shown


def test_a_segmentation_shows_its_sheet():
    labels = np.array([[0, 1, 1], [0, 0, 1]], np.uint8)
    segmentation = Segmentation(labels, np.zeros((2, 1, 1), np.float32), (EVIL, "sand"), IMAGE)
    assert safe(segmentation._repr_html_())
    expected = np.asarray(sheet(IMAGE, labels, (EVIL, "sand")))
    np.testing.assert_array_equal(np.asarray(segmentation.show()), expected)
    np.testing.assert_array_equal(images_in(segmentation._repr_html_())[0], expected)
