"""Image files of every kind, and that a given image leaves the same record as a generated one."""

import numpy as np
import pytest
from PIL import Image

from mmdit_probe import HeadStats, RegionMass, ValueNorms
from mmdit_probe.configs import GenerationConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.pipelines.forward import add_noise, encode_images, encode_prompts, forward_once, noise_level
from mmdit_probe.pipelines.image_size import load_image, native_size, token_pixels
from mmdit_probe.probe.probe import Probe
from mmdit_probe.storage.images import fitted, read_rgb, resized, save_image, squared
from mmdit_probe.studies.recording import record_generated, record_image

GENERATION = GenerationConfig(steps=4, guidance_scale=3.0, max_sequence_length=3)


@pytest.fixture
def image():
    """3 x 4 px, every pixel another color."""
    return np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7


def test_pixels_come_through_unchanged(image, tmp_path):
    path = save_image(image, tmp_path / "deep" / "a.png")
    np.testing.assert_array_equal(read_rgb(path), image)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(image, tmp_path, orientation):
    """The slow twin: what each orientation number means, by hand."""
    stored = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: image.transpose(1, 0, 2)[::-1],
        7: image.transpose(1, 0, 2)[::-1, ::-1],
        8: image.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), image)


def test_transparency_lies_over_white(tmp_path):
    half = np.zeros((2, 2, 4), np.uint8)
    half[0] = 10, 20, 30, 255
    half[1, 1] = 0, 0, 0, 128
    Image.fromarray(half).save(tmp_path / "a.png")
    read = read_rgb(tmp_path / "a.png")
    assert (read[0] == (10, 20, 30)).all()
    assert (read[1, 0] == 255).all()
    assert (abs(read[1, 1].astype(int) - 127) <= 1).all()


def test_a_transparent_palette_color_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=1)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), [[[255, 0, 0], [255, 255, 255]]])


@pytest.mark.parametrize(("mode", "kind"), [("L", "png"), ("1", "png"), ("CMYK", "jpg"), ("LA", "png"), ("P", "png")])
def test_other_color_modes_become_rgb(tmp_path, mode, kind):
    Image.new("RGB", (4, 3), "white").convert(mode).save(tmp_path / f"a.{kind}")
    read = read_rgb(tmp_path / f"a.{kind}")
    assert read.shape == (3, 4, 3)
    assert read.min() >= 250


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((64, 64), 64, (64, 64)),
        ((100, 200), 64, (32, 64)),
        ((3000, 10), 64, (64, 8)),
        ((50, 37), 64, (64, 48)),
        ((7, 7), 32, (32, 32)),
        ((64, 64), 60, (64, 64)),
        ((64, 64), 59, (56, 56)),
    ],
)
def test_sides_are_the_nearest_multiples(size, longest, expected):
    assert fitted(np.zeros((*size, 3), np.uint8), 8, longest).shape == (*expected, 3)


def test_a_image_of_the_right_size_is_not_resampled():
    drawn = scene("test", 0).image
    assert fitted(drawn, 8, 64) is drawn


def _broken(path, content):
    path.write_bytes(content)
    return path


def _animation(path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "green")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def _deep(path):
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(path)
    return path


def _cut(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    return _broken(path, path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.png", "no file .*missing.png"),
        (lambda folder: folder, "no file"),
        (lambda folder: _broken(folder / "a.png", b""), "a.png is empty"),
        (lambda folder: _broken(folder / "a.png", b"words"), "not an image that can be read"),
        (lambda folder: _cut(folder / "a.png"), "damaged or cut short"),
        (lambda folder: _cut(folder / "a.jpg"), "damaged or cut short"),
        (lambda folder: _animation(folder / "a.gif"), "has 3 frames"),
        (lambda folder: _deep(folder / "a.png"), "more than 8 bits per channel"),
    ],
    ids=["missing", "folder", "empty", "text", "cut png", "cut jpeg", "animated", "16 bits"],
)
def test_what_is_no_image_is_explained_in_one_line(tmp_path, make, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_rgb(make(tmp_path))
    assert "\n" not in str(raised.value)


def test_huge_images_are_refused_before_they_are_unpacked(tmp_path):
    Image.new("1", (20_000, 6_000)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="20000 x 6000 px"):
        read_rgb(tmp_path / "a.png")


def test_the_size_follows_the_model(random_pipe, tmp_path):
    assert token_pixels(random_pipe) == 8
    assert native_size(random_pipe) == 64
    Image.new("RGB", (300, 155)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", random_pipe).shape == (32, 64, 3)
    assert load_image(tmp_path / "a.png", random_pipe, 32).shape == (16, 32, 3)
    with pytest.raises(ValueError, match="at least 8 px"):
        load_image(tmp_path / "a.png", random_pipe, 4)


def test_a_given_image_leaves_the_record_of_a_generated_one(random_pipe):
    readouts = [RegionMass(), ValueNorms(), HeadStats()]
    given = record_image(random_pipe, scene("test", 0).image, "a red circle", readouts, (1, 3), GENERATION)
    made = record_generated(random_pipe, "a red circle", readouts, (1, 3), GENERATION, decode=True)
    assert set(given.record.data_vars) == set(made.record.data_vars)
    for name in given.record.data_vars:
        assert given.record[name].dims == made.record[name].dims
        assert given.record[name].shape == made.record[name].shape
    assert set(given.record.coords) == set(made.record.coords)
    for name in ("sigma", "step", "timestep"):
        np.testing.assert_allclose(given.record[name], made.record[name], rtol=1e-5)
    assert given.record.attrs["source"] == "image"
    assert made.record.attrs["source"] == "generated"
    assert made.image.shape == (64, 64, 3)
    assert made.image.dtype == np.uint8


def test_a_given_image_is_read_by_one_plain_forward(random_pipe):
    """The twin: encode, noise and forward by hand, one timestep alone."""
    drawn = scene("test", 1).image
    record = record_image(random_pipe, drawn, "sand", [RegionMass()], (3, 1), GENERATION).record
    sigma = noise_level(random_pipe, 1, 4)
    with Probe(random_pipe, [RegionMass()]) as probe:
        noisy = add_noise(encode_images(random_pipe, [drawn]), sigma, 0)
        forward_once(random_pipe, noisy, sigma, encode_prompts(random_pipe, ["sand"], 3))
    by_hand = probe.dataset()["region_mass"].isel(call=0, batch=0)
    np.testing.assert_array_equal(record["region_mass"].sel(timestep=1), by_hand)
    assert float(record["sigma"].sel(timestep=1)) == pytest.approx(sigma)


def test_a_image_may_be_wide(random_pipe):
    record = record_image(random_pipe, np.zeros((16, 64, 3), np.uint8), "sand", [RegionMass()], (2,), GENERATION).record
    assert list(record.attrs["grid"]) == [2, 8]


@pytest.mark.parametrize("size", [(3, 9), (10, 4), (7, 7)])
def test_images_are_resized_bilinearly_by_the_four_nearest_pixels(size):
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    expected = np.zeros((*size, 3))
    for row, col in np.ndindex(*size):
        y, x = (max(0.0, (at + 0.5) * old / new - 0.5) for at, old, new in zip((row, col), (7, 5), size, strict=True))
        top, left = int(y), int(x)
        for i, j in np.ndindex(2, 2):
            weight = abs(1 - i - (y - top)) * abs(1 - j - (x - left))
            expected[row, col] += weight * image[min(top + i, 6), min(left + j, 4)]
    found = resized(image, size)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=0.51)
    assert resized(image, (7, 5)) is image
    assert squared(image, 6).shape == (6, 6, 3)
