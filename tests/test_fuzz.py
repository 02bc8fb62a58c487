"""Arguments, layouts, records, class files and run-length codes made up at random."""

# ruff: noqa: PT017  (either outcome of made-up data is right)

import json
import sys
import unicodedata

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmdit_probe.attention.layout import Extra, TokenLayout, TokenStream
from mmdit_probe.cli import main
from mmdit_probe.cli.program import whole
from mmdit_probe.datasets.coco_rle import decode_mask, encode_mask
from mmdit_probe.datasets.registry import open_dataset
from mmdit_probe.storage.records import load_record, save_record

EXAMPLES = 150
APP = whole()
GROUPS = {(): APP, **{(group.name,): group.typer_instance for group in APP.registered_groups}}
COMMANDS = [
    (*names, command.name or command.callback.__name__.replace("_", "-"))
    for names, group in GROUPS.items()
    for command in group.registered_commands
]
WORDS = st.text(max_size=12) | st.sampled_from(
    [
        "",
        "0",
        "-1",
        "1e9",
        "nan",
        "inf",
        "28",
        "9" * 25,
        "../../x",
        "/dev/null",
        "\x00",
        "\N{DOG FACE}",
        "--help",
        "-",
        "a,b",
    ]
)
OPTIONS = st.sampled_from(
    [
        "--prompt",
        "--prompts",
        "--words",
        "--model",
        "--layers",
        "--layer",
        "--timesteps",
        "--steps",
        "--seed",
        "--seeds",
        "--height",
        "--width",
        "--out",
        "--root",
        "--classes",
        "--image",
        "--scenes",
        "--scale",
        "--sigma",
        "--kernel",
        "--dtype",
        "--device",
        "--limit",
        "--batch",
        "--json",
        "--nonsense",
        "--lora",
        "--method",
        "--refine",
        "--threshold",
        "--edit",
        "--task",
        "--vocabulary",
        "--data",
        "--matching",
        "--lr",
        "--mask-weight",
        "--captions",
        "--head-groups",
        "--megabytes",
        "--save-record",
    ]
)


@pytest.fixture
def no_models(monkeypatch, tmp_path):
    """Everything up to the loading of a model, which would take long."""
    from mmdit_probe.pipelines import loading

    def refuse(*args, **options):
        raise ValueError("loading is not part of this test")

    monkeypatch.setattr(loading, "load_pipeline", refuse)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(COMMANDS), st.lists(st.tuples(OPTIONS, WORDS), max_size=5), st.lists(WORDS, max_size=2))
def test_any_arguments_end_in_0_or_in_2_and_one_line(no_models, capsys, command, options, words):
    arguments = [*command, *(part for option in options for part in option), *words]
    before, sys.argv = sys.argv, ["mmdit-probe", *arguments]
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    said = capsys.readouterr()
    assert code in (0, 2), said.err
    if code == 2:
        assert said.err.startswith("error: ")
        assert said.err.endswith("\n")
        assert said.err.count("\n") == 1
        assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in said.err[:-1])
        assert len(said.err) < 700


SIZES = st.integers(1, 6)
LAYOUTS = st.builds(
    TokenLayout,
    grid=st.tuples(SIZES, SIZES) | st.tuples(SIZES, SIZES, SIZES),
    text=st.integers(0, 9),
    order=st.sampled_from(["image-text", "text-image"]),
    extras=st.lists(
        st.builds(
            Extra,
            st.sampled_from(["others", "reference"]),
            st.integers(0, 4),
            st.sampled_from(["first", "between", "last"]),
        ),
        max_size=3,
    ).map(tuple),
    scope=st.sampled_from(["joint", "image-queries", "cross"]),
)


@given(LAYOUTS)
def test_every_token_of_a_layout_has_one_place(layout):
    spans = [layout.image_slice, layout.text_slice, *layout.reference_slices, *layout._spans()["extra"]]
    places = [place for span in spans for place in range(span.start, span.stop)]
    assert sorted(places) == list(range(layout.tokens))
    assert (layout.image_slice.stop - layout.image_slice.start, layout.text_slice.stop - layout.text_slice.start) == (
        layout.image,
        layout.text,
    )
    assert layout.image_queries.stop <= layout.queries
    assert max(layout.text_keys.stop, layout.image_keys.stop, *(s.stop for s in layout.extra_keys)) <= layout.keys
    if layout.keys:
        extra = sum(s.stop - s.start for s in layout.extra_keys) / layout.keys
        for asking in TokenStream:
            shares = [layout.uniform(region) for region in layout.regions if region.asking == asking]
            assert not shares or sum(shares) + extra == pytest.approx(1)


@given(st.tuples(st.integers(-2, 3), st.integers(-2, 3)), st.integers(-2, 3), st.text(max_size=5), st.text(max_size=5))
def test_an_impossible_layout_is_a_value_error(grid, text, order, scope):
    try:
        layout = TokenLayout(grid, text, order, (), scope)
    except ValueError as error:
        assert str(error).startswith("TokenLayout: ")
    else:
        assert min(layout.grid) > 0
        assert layout.tokens >= 0


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "whole.nc"
    values = np.random.default_rng(0).random((3, 40)).astype(np.float32)
    dataset = xr.Dataset({"mass": (("layer", "token"), values)}, {"layer": [0, 1, 2]}, {"format": 1, "prompt": "sand"})
    return save_record(dataset, path).read_bytes(), dataset


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=8), st.integers(0, 1 << 20)
)
def test_a_damaged_record_is_a_value_error_or_holds_the_same_numbers(record, tmp_path, flips, length):
    whole, expected = record
    content = bytearray(whole[: length % len(whole) + 1] if length % 3 == 0 else whole)
    for place, bits in flips:
        content[place % len(content)] ^= bits
    path = tmp_path / "damaged.nc"
    path.write_bytes(content)
    try:
        read = load_record(path)
    except ValueError as error:
        assert str(error).startswith("record: ")
        assert "\n" not in str(error)
    else:
        if "mass" in read and read["mass"].shape == expected["mass"].shape and read["mass"].dtype == np.float32:
            np.testing.assert_array_equal(read["mass"], expected["mass"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 70_000) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
CLASSES = (
    JSON | st.lists(st.text(max_size=6), max_size=6) | st.dictionaries(st.integers().map(str), st.text(), max_size=4)
)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CLASSES.map(lambda content: json.dumps(content).encode()) | st.binary(max_size=40))
def test_any_class_file_is_read_or_a_value_error(tmp_path, content):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / kind / "a.png")
    (tmp_path / "classes.json").write_bytes(content)
    try:
        images = open_dataset("folder", tmp_path)
        images.samples[0].read()
    except ValueError:
        return
    assert len(set(images.classes)) == len(images.classes) > 0
    assert all(name.strip() for name in images.classes)


MASKS = st.tuples(st.integers(0, 7), st.integers(0, 7)).flatmap(
    lambda size: st.lists(st.booleans(), min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
        lambda bits: np.array(bits, bool).reshape(size)
    )
)


@given(MASKS)
def test_a_mask_comes_back_from_its_code(mask):
    code = encode_mask(mask)
    assert sum(code["counts"]) == mask.size
    np.testing.assert_array_equal(decode_mask(code), mask)


COUNTS = st.text(max_size=12) | st.lists(st.integers(-3, 30) | st.floats() | st.none(), max_size=6) | st.integers()
SIZE = st.lists(st.integers(-2, 6), max_size=3) | st.just([1 << 40, 1 << 40]) | st.none()


@given(st.dictionaries(st.just("counts"), COUNTS), st.dictionaries(st.just("size"), SIZE))
def test_any_code_is_a_mask_of_its_size_or_a_value_error(counts, size):
    try:
        mask = decode_mask({**counts, **size})
    except ValueError as error:
        assert "run-length code" in str(error)
    else:
        assert list(mask.shape) == size["size"]
        assert mask.dtype == bool
