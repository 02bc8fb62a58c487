"""Files as they are found: photographs of phones, byte order marks, label maps of few and many bits, hidden twins."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmdit_probe.datasets.folder import _classes, read_folder
from mmdit_probe.datasets.labeled import Sample, lines_of, read_values
from mmdit_probe.datasets.prompts import read_prompts
from mmdit_probe.datasets.voc import read_voc
from mmdit_probe.magnet.captions import read_captions
from mmdit_probe.magnet.compbench import read_compbench
from mmdit_probe.magnet.training_sets import open_training_set
from mmdit_probe.segmentation.image_files import image_files
from mmdit_probe.storage.digests import model_fingerprint
from mmdit_probe.storage.images import read_oriented, read_rgb, turned_with

BOM = "\ufeff"


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


def save_turned(image, path, orientation, **options):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(image).save(path, exif=exif, **options)


def test_a_photo_with_a_small_copy_behind_it_is_one_photo(tmp_path, photo):
    path, image = tmp_path / "phone.jpg", Image.fromarray(photo)
    image.save(path, "MPO", save_all=True, append_images=[image.resize((32, 24))])
    with Image.open(path) as opened:
        assert opened.format == "MPO"
        expected = np.asarray(opened.convert("RGB"))
    assert (read_rgb(path) == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif", "jpg"])
def test_label_maps_are_turned_with_their_images(tmp_path, photo, orientation, kind):
    """The slow twin: each pixel's label is its red value, which Pillow turns with the image."""
    path = tmp_path / f"photo.{kind}"
    photo = photo.repeat(8, 0).repeat(8, 1)  # blocks, which JPEG keeps nearly
    save_turned(photo, path, orientation, **({"quality": 100, "subsampling": 0} if kind == "jpg" else {}))
    image, found = read_oriented(path)
    assert found == orientation
    labels = turned_with(photo[..., 0], image, found, path)
    assert np.abs(labels.astype(int) - image[..., 0]).max() <= (0 if kind != "jpg" else 12)
    masks = turned_with(photo > 100, image, found, path)
    assert masks.shape == image.shape


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_label_maps_that_fit_the_turned_image_alone_stay(tmp_path, photo, orientation):
    save_turned(photo, tmp_path / "photo.png", orientation)
    image, found = read_oriented(tmp_path / "photo.png")
    upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "photo.png")))[..., 0]
    assert (turned_with(upright, image, found, "photo.png") == upright).all()
    with pytest.raises(
        ValueError, match=r"photo.png: image and label map must have the same size, got \(64, 48\), which"
    ):
        turned_with(upright[1:], image, found, "photo.png")


def test_a_sample_that_does_not_fit_names_its_file(tmp_path, photo):
    save_turned(photo, tmp_path / "photo.png", 3)
    sample = Sample("photo", tmp_path / "photo.png", lambda: np.zeros((48, 63), np.uint8))
    with pytest.raises(
        ValueError, match=r"photo\.png: image and label map must have the same size, got \(48, 64\) and"
    ):
        sample.load()
    whole = Sample("photo", tmp_path / "photo.png", lambda: photo[..., 1])
    image, labels = whole.load()
    assert (labels == image[..., 1]).all()


def own_set(root, photo, labels, name="a"):
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    Image.fromarray(photo).save(root / "images" / f"{name}.png")
    Image.fromarray(labels).save(root / "labels" / f"{name}.png")
    (root / "classes.json").write_text(json.dumps(["background", "cat"]))


def test_training_masks_are_turned_with_their_images(tmp_path, photo):
    labels = (photo[..., 0] > 100).astype(np.uint8)
    own_set(tmp_path / "own", photo, labels)
    save_turned(photo, tmp_path / "own" / "images" / "a.png", 6)
    read = open_training_set(f"folder:{tmp_path / 'own'}").read(0)
    assert (read.masks[1] == (read.image[..., 0] > 100)).all()
    sa1b = tmp_path / "sa1b"
    sa1b.mkdir()
    save_turned(photo.repeat(8, 0).repeat(8, 1), sa1b / "sa_1.jpg", 6, quality=100, subsampling=0)
    column_first = (photo[..., 0] > 100).repeat(8, 0).repeat(8, 1).flatten("F")
    ends = np.flatnonzero(np.diff(column_first)) + 1
    runs = np.diff([0, *ends, column_first.size]).tolist()
    counts = [0, *runs] if column_first[0] else runs
    size = [48 * 8, 64 * 8]
    (sa1b / "sa_1.json").write_text(json.dumps({"annotations": [{"segmentation": {"size": size, "counts": counts}}]}))
    (sa1b / "._sa_1.jpg").write_bytes(b"\0")
    (sa1b / "captions.json").write_text(BOM + json.dumps({"sa_1.jpg": "A square."}))
    mask = open_training_set(f"sa1b:{sa1b}").read(0)
    assert mask.masks.shape == (1, 64 * 8, 48 * 8)
    assert (mask.masks[0] == (mask.image[..., 0] > 100)).mean() > 0.95


def test_text_files_of_windows(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(f"{BOM}a red circle\r\na blue star\r\n{BOM}sand\r\n".encode())
    assert read_prompts(path) == ("a red circle", "a blue star", "sand")
    assert read_compbench(path) == ("a red circle", "a blue star", "sand")
    path.write_bytes(f"{BOM}# drawbench\r\na blue star\r\n".encode())
    assert read_prompts(path) == ("a blue star",)
    path.write_bytes(f"{BOM}2007_000033\r\n2007_000042\r\n\r\n".encode())
    assert lines_of("voc20", path) == ["2007_000033", "2007_000042"]
    path.write_bytes((BOM + json.dumps(["sky", "road"])).encode())
    assert _classes(path).classes == ("sky", "road")
    path.write_bytes((BOM + json.dumps({"a.jpg": "A dog."})).encode())
    assert read_captions(path) == {"a": "A dog."}


def test_a_prompt_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"prompts: .*none\.txt can't be read \(No such file or directory\)"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"compbench: .*none\.txt can't be read \(No such file or directory\)"):
        read_compbench(tmp_path / "none.txt")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_label_maps_of_any_number_of_bits(tmp_path, bits):
    """Pillow spreads the values of 2 and 4 bits over 8."""
    values = np.random.default_rng(bits).integers(0, min(2**bits, 30_000), (16, 16))
    path = tmp_path / "labels.png"
    if bits == 1:
        Image.fromarray(values.astype(bool)).save(path)
    elif bits == 16:
        Image.fromarray(values.astype(np.uint16)).save(path)
    else:
        path.write_bytes(gray_png(values, bits))
    found = read_values(path)
    assert found.dtype.kind == "u"
    assert (found == values).all()


def gray_png(values, bits):
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    each = 8 // bits
    packed = sum(values[:, place::each] << (8 - bits * (place + 1)) for place in range(each)).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def litter(folder):
    """What macOS and Windows leave in folders."""
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "._b.jpg"):
        (folder / name).write_bytes(b"\0\5\x16\7")


def test_hidden_twins_are_no_images_and_endings_may_be_upper_case(tmp_path, photo):
    labels = (photo[..., 0] > 100).astype(np.uint8)
    own_set(tmp_path, photo, labels)
    own_set(tmp_path, photo, labels, "b")
    (tmp_path / "images" / "b.png").rename(tmp_path / "images" / "b.PNG")
    (tmp_path / "labels" / "b.png").rename(tmp_path / "labels" / "b.PNG")
    litter(tmp_path / "images")
    litter(tmp_path / "labels")
    read = read_folder(tmp_path)
    assert [sample.name for sample in read.samples] == ["a", "b"]
    assert (read.samples[1].load()[1] == labels).all()
    assert list(image_files([tmp_path / "images"])) == ["a", "b"]


def test_voc_with_upper_case_endings_and_windows_lists(tmp_path, photo):
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / name).mkdir(parents=True)
        litter(tmp_path / name)
    Image.fromarray(photo).save(tmp_path / "JPEGImages" / "one.JPG")
    Image.fromarray(np.full((48, 64), 15, np.uint8)).save(tmp_path / "SegmentationClass" / "one.PNG")
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_bytes(f"{BOM}one\r\n".encode())
    samples = read_voc(tmp_path).samples
    assert [sample.name for sample in samples] == ["one"]
    assert (samples[0].load()[1] == 14).all()


def test_hidden_twins_in_a_models_folder_are_not_read(tmp_path, random_folder):
    import shutil

    from mmdit_probe import load_pipeline

    shutil.copytree(random_folder, tmp_path / "model")
    before = model_fingerprint(str(tmp_path / "model"))
    for file in list((tmp_path / "model").rglob("*.json")):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
        file.write_text(file.read_text(), encoding="utf-8")
    assert model_fingerprint(str(tmp_path / "model")) == before
    load_pipeline(str(tmp_path / "model"))


def test_a_rotated_photo_is_evaluated(run, tmp_path, photo):
    own_set(tmp_path / "own", photo, (photo[..., 0] > 100).astype(np.uint8))
    save_turned(photo, tmp_path / "own" / "images" / "a.png", 6)
    code, _, error = run("evaluate", "folder", "--root", "own", "--layers", "1", "--out", "out")
    assert code == 0, error
    assert Path("out/evaluate.csv").is_file()
