"""Layers that make no attention call, because their output is cached or they are left out: NaN, and said to be so."""

import diffusers
import numpy as np
import pytest
import torch
from conftest import make_inputs, make_sd3
from diffusers.hooks import LayerSkipConfig, apply_layer_skip
from small_pipelines import small_pipeline
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from mmdit_probe import BlurText, Probe, RegionMass

FLUX = {"height": 32, "width": 32, "num_inference_steps": 6, "output_type": "latent", "max_sequence_length": 16}


TOKENS = 80, 31
"""Of the joint attention here, and not of a text encoder's."""


class Spy(TorchFunctionMode):
    """Counts joint attention calls; may answer them."""

    def __init__(self, answer=None):
        super().__init__()
        self.answer, self.calls = answer, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is functional.scaled_dot_product_attention:
            query = args[0] if args else kwargs["query"]
            self.calls += query.shape[2] in TOKENS
            if self.answer is not None:
                return self.answer(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def generate(pipe, **given):
    with torch.no_grad():
        return pipe("a red circle", generator=torch.Generator().manual_seed(0), **{**FLUX, **given}).images


def caches(pipe):
    return {
        "pyramid_attention_broadcast": diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(1, 999),
            current_timestep_callback=lambda: int(pipe._current_timestep),
        ),
        "taylorseer_cache": diffusers.TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=1, max_order=1),
        "fbc_block_hook": diffusers.FirstBlockCacheConfig(threshold=1000.0),
        "mag_cache_leader_block_hook": diffusers.MagCacheConfig(
            threshold=10.0, num_inference_steps=6, retention_ratio=0.1, mag_ratios=[1.0] * 6
        ),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", caches(None))
def test_a_cached_layer_is_nan_at_that_step_and_said_to_be_so(name):
    pipe = small_pipeline("flux")
    pipe.transformer.enable_cache(caches(pipe)[name])
    with (spy := Spy()):
        plain = generate(pipe)
    if hasattr(pipe.transformer, "_reset_stateful_cache"):
        pipe.transformer._reset_stateful_cache()
    with Probe(pipe, [RegionMass()]) as probe:
        probed = generate(pipe)
    assert torch.equal(plain, probed)
    record = probe.dataset("conditional")
    assert record["step"].values.tolist() == list(range(6))
    read = record["region_mass"].notnull().all(("batch", "head", "region"))
    assert 0 < spy.calls < 12
    assert int(read.sum()) == spy.calls
    assert record["region_mass"].isel(call=0).notnull().all()
    assert "layer" in record.attrs["skipped"]
    if name != "mag_cache_leader_block_hook":  # whose blocks do not run at all
        assert name in record.attrs["skipped"] or "did not run" in record.attrs["skipped"]


def test_a_record_without_skipped_layers_says_so(sd3, inputs):
    with Probe(sd3, [RegionMass()]) as probe:
        sd3(**inputs)
    assert probe.dataset().attrs["skipped"] == ""


def test_a_layer_whose_scores_are_skipped_by_a_mode_of_diffusers():
    pipe = small_pipeline("qwen-image")
    skip = LayerSkipConfig(
        [1], fqn="transformer_blocks", skip_attention=False, skip_attention_scores=True, skip_ff=False
    )
    apply_layer_skip(pipe.transformer, skip)
    plain = generate(pipe, num_inference_steps=1)
    with Probe(pipe, [RegionMass()]) as probe:
        assert torch.equal(generate(pipe, num_inference_steps=1), plain)
    record = probe.dataset()
    mass = record["region_mass"].isel(call=0, batch=0)
    assert mass.sel(layer=0).notnull().all()
    assert mass.sel(layer=1).isnull().all()
    assert record.attrs["skipped"] == "layer 1 at step 0 (layer_skip_hook)"
    with Probe(pipe, [RegionMass()], layers=[1]) as probe:
        generate(pipe, num_inference_steps=1)
    with pytest.raises(ValueError, match="layer_skip_hook answered in the place of every recorded layer's attention"):
        probe.dataset()


def test_a_mode_around_the_probe_that_answers_is_named_and_its_answer_kept(sd3, inputs):
    def answer(query, key, value, **options):
        return value * 2

    with Spy(answer):
        plain = sd3(**inputs).sample
        with Probe(sd3, [RegionMass()], edits=[BlurText(1)]) as probe:
            assert torch.equal(sd3(**inputs).sample, plain)
    with pytest.raises(ValueError, match="Spy answered"):
        probe.dataset()


def test_a_mode_that_only_looks_sees_the_calls_and_leaves_the_record(sd3, inputs):
    with Probe(sd3, [RegionMass()]) as probe:
        sd3(**inputs)
    wanted = probe.dataset()
    with (spy := Spy()), Probe(sd3, [RegionMass()]) as probe:
        sd3(**inputs)
    assert spy.calls == 3
    np.testing.assert_array_equal(probe.dataset()["region_mass"], wanted["region_mass"])
    assert probe.dataset().attrs["skipped"] == ""


def test_a_processor_with_a_cache_of_its_own_is_not_foreign():
    """It has called torch's attention before; at the second step it answers itself."""
    model, inputs, kept = make_sd3(), make_inputs(), []
    original = model.transformer_blocks[1].attn.processor

    class Remembering:
        def __call__(self, attn, *args, **kwargs):
            if not kept:
                kept.append(original(attn, *args, **kwargs))
            return kept[0]

    model.transformer_blocks[1].attn.processor = Remembering()
    with Probe(model, [RegionMass()]) as probe, torch.no_grad():
        for _ in range(2):
            model(**inputs)
    record = probe.dataset()
    assert record["region_mass"].isel(call=1).sel(layer=1).isnull().all()
    assert record["region_mass"].isel(call=0).notnull().all()
    assert record.attrs["skipped"] == "layer 1 at step 1 (Remembering)"
