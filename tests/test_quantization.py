"""Transformers with weights of fewer bits are probed as any other.

torchao is no part of the test environment: diffusers loads it on every import, and it warns while it is loaded.
"""

import sys
import warnings

import numpy as np
import pytest
import torch

from mmdit_probe import I2TMaps, Probe, RegionMass, load_pipeline
from mmdit_probe.pipelines import quantization


@pytest.fixture
def int8(random_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchao's own imports
        pytest.importorskip("torchao", reason="int8 needs torchao: pip install -e '.[quantized]'")
        return load_pipeline(str(random_folder), quantize="int8")


def generate(pipe):
    with Probe(pipe, [RegionMass(), I2TMaps()]) as probe:
        generator = torch.Generator().manual_seed(0)
        made = pipe(
            "a red circle", num_inference_steps=2, output_type="latent", max_sequence_length=0, generator=generator
        )
    return made.images, probe.dataset()


def test_int8_weights_are_probed_and_give_nearly_the_same(int8, random_pipe):
    weight = int8.transformer.transformer_blocks[0].attn.to_q.weight
    assert "Int8" in type(weight).__name__
    quantized, record = generate(int8)
    plain, expected = generate(random_pipe)
    assert not torch.equal(quantized, plain)
    torch.testing.assert_close(quantized, plain, atol=0.1, rtol=0.1)
    np.testing.assert_allclose(record["region_mass"], expected["region_mass"], atol=0.02)
    generator = torch.Generator().manual_seed(0)
    unprobed = int8(
        "a red circle", num_inference_steps=2, output_type="latent", max_sequence_length=0, generator=generator
    )
    assert torch.equal(unprobed.images, quantized)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("nf4", "nf4 needs --device cuda, got cpu"), ("int3", "must be none, int8 or nf4, got 'int3'")],
)
def test_what_cannot_be_had_is_explained(kind, message, monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: True)
    with pytest.raises(ValueError, match=message):
        load_pipeline(quantize=kind)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_missing_package_is_named(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, quantization.PACKAGES[kind], None)
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'mmdit-probe\[quantized\]'"):
        load_pipeline(quantize=kind)
