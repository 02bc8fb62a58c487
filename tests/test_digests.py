"""What tells data and weights apart: contents, not names, places or dates."""

import os
import shutil

import numpy as np
import pytest

from mmdit_probe.storage import digests
from mmdit_probe.storage.digests import digest, model_fingerprint, model_label


def test_a_file_is_known_by_its_content(tmp_path):
    for name, content in {"a": b"sand", "b": b"sand", "c": b"sanD"}.items():
        (tmp_path / name).write_bytes(content)
    os.utime(tmp_path / "b", (1, 1))
    a, b, c = (digest([tmp_path / name]) for name in "abc")
    assert a == b != c
    with pytest.raises(ValueError, match=r"gone can't be read \(No such file"):
        digest([tmp_path / "gone"])


def test_order_borders_shapes_and_kinds_count():
    grey, values = np.zeros((2, 3), np.uint8), np.arange(6)
    others = [["ab"], ["a", "b"], ["b", "a"], [], [grey], [grey.T], [grey.astype(bool)], [values], [values[::-1]]]
    assert len({digest(things) for things in others}) == len(others)


def test_a_large_file_is_looked_at_in_many_places(tmp_path, monkeypatch):
    """Sizes, both ends, and any change as long as the gaps between the blocks."""
    monkeypatch.setattr(digests, "BLOCK", 4)
    monkeypatch.setattr(digests, "BLOCKS", 8)
    whole, file = bytes(range(100)), tmp_path / "weights"

    def of(content):
        file.write_bytes(content)
        return digest([file])

    plain = of(whole)
    assert of(whole + b"x") != plain
    for start in range(0, 100, 16):
        assert of(whole[:start] + bytes(len(whole[start : start + 16])) + whole[start + 16 :]) != plain
    assert of(whole[:-1] + b"x") != plain
    assert of(whole) == plain


def test_a_model_trained_anew_has_another_name(random_folder, tmp_path):
    model, copy = tmp_path / "model", tmp_path / "copies" / "model"
    for folder in (model, copy):
        shutil.copytree(random_folder, folder)
    of = model_fingerprint(str(model))
    assert of.removeprefix(str(model)) == model_fingerprint(str(copy)).removeprefix(str(copy))
    assert of.startswith(f"{model} (")
    (model / "README.md").write_text("words change nothing")
    assert model_fingerprint(str(model)) == of
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_fingerprint(str(model)) != of


def test_what_is_not_here_keeps_its_name(tmp_path):
    assert model_fingerprint("stabilityai/stable-diffusion-3-medium-diffusers").endswith("-diffusers")
    assert model_label("a/b", "fp16") == "a/b, fp16"
    (tmp_path / "lora.safetensors").write_bytes(b"1")
    label = model_label("a/b", "fp16", "v1", str(tmp_path / "lora.safetensors"))
    assert label == f"a/b, fp16, revision v1, LoRA {model_fingerprint(str(tmp_path / 'lora.safetensors'))}"
    assert label.endswith(")")
