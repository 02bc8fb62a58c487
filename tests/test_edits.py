"""Edits against the full matrix, and the laws of the blur."""

import numpy as np
import pytest
import torch
from conftest import make_inputs, make_sd3
from hypothesis import given
from hypothesis import strategies as st
from naive import full_matrix, random_call
from scipy.ndimage import correlate1d

from mmdit_probe import BlurText, JointAttention, Probe, RegionMass, TokenLayout
from mmdit_probe.edits import blur_matrix

SCIPY_MODE = {"reflect": "mirror", "symmetric": "reflect"}


@given(
    tokens=st.integers(3, 12),
    sigma=st.sampled_from([0.5, 2.0, 9.0]),
    padding=st.sampled_from(["reflect", "symmetric"]),
    order=st.sampled_from(["image-text", "text-image"]),
    kv_heads=st.sampled_from([1, 2]),
)
def test_blur_equals_blurring_the_full_matrix(tokens, sigma, padding, order, kv_heads):
    layout = TokenLayout((3, 4), tokens, order)
    grouped = {"kv_heads": kv_heads, "enable_gqa": True} if kv_heads == 1 else {}
    call = random_call(2, 2, layout.tokens, 8, **grouped)
    edited = BlurText(0, sigma, 5, padding).apply(JointAttention(call, layout), call.attended.output)
    matrix = full_matrix(call).numpy()
    image, text = layout.image_slice, layout.text_slice
    taps = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2)
    # the boundary is scipy's: an implementation that shares nothing with ours
    matrix[:, :, image, text] = correlate1d(matrix[:, :, image, text], taps / taps.sum(), mode=SCIPY_MODE[padding])
    value = call.value.double().repeat_interleave(2 // call.value.shape[1], 1)
    torch.testing.assert_close(edited.double(), torch.from_numpy(matrix) @ value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", ["reflect", "symmetric"])
def test_blurring_constant_values_keeps_the_output_where_the_columns_of_g_sum_to_one(padding):
    """G V = V for constant V if and only if the rows of G sum to 1; its columns always do."""
    matrix = blur_matrix(9, 9.0, 5, padding)
    kept = np.allclose(matrix.sum(1), 1)
    assert kept == (padding == "symmetric")
    layout = TokenLayout((2, 3), 9)
    call = random_call(1, 2, layout.tokens, 4)
    call.value[:, :, layout.text_slice] = 1.5
    edited = BlurText(0, padding=padding).apply(JointAttention(call, layout), call.attended.output)
    assert torch.allclose(edited, call.attended.output, atol=1e-6) == kept


def test_reflection_takes_mass_from_the_ends_as_the_paper_does():
    """With flat taps of 5 the first and last token keep 0.6 of their mass."""
    matrix = blur_matrix(20, 1e6, 5, "reflect")
    np.testing.assert_allclose(matrix.sum(1)[[0, -1]], 0.6, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(1)[4:-4], 1, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(0), 1)


def test_a_kernel_of_one_changes_nothing(sd3, inputs):
    plain = sd3(**inputs).sample
    with Probe(sd3, [], edits=[BlurText(1, kernel=1)]):
        torch.testing.assert_close(sd3(**inputs).sample, plain, atol=1e-6, rtol=0)


def test_text_queries_are_left_alone():
    layout = TokenLayout((3, 4), 6)
    call = random_call(1, 2, layout.tokens, 8)
    edited = BlurText(0).apply(JointAttention(call, layout), call.attended.output)
    assert torch.equal(edited[:, :, layout.text_slice], call.attended.output[:, :, layout.text_slice])
    assert (edited - call.attended.output)[:, :, layout.image_slice].abs().max() > 1e-3


def test_the_edited_layer_and_those_after_it_change_and_those_before_do_not(sd3, inputs):
    records = []
    for edits in ([], [BlurText(1)]):
        with Probe(sd3, [RegionMass()], edits=edits) as probe:
            sd3(**inputs)
        records.append(probe.dataset()["region_mass"].isel(call=0))
    change = abs(records[1] - records[0]).max(("batch", "head", "region"))
    assert list(change.values > 0) == [False, False, True]


def test_the_edit_is_undone_afterwards(sd3, inputs):
    plain = sd3(**inputs).sample
    with Probe(sd3, [], edits=[BlurText((0, 2))]):
        blurred = sd3(**inputs).sample
    assert not torch.equal(plain, blurred)
    assert torch.equal(plain, sd3(**inputs).sample)


def test_an_inner_probe_sees_the_outer_ones_edit_in_the_output(inputs):
    model = make_sd3()
    with Probe(model, [], edits=[BlurText(0)]):
        alone = model(**inputs).sample
        with Probe(model, [RegionMass()]):
            nested = model(**inputs).sample
    assert torch.equal(alone, nested)


def test_bf16_output_stays_bf16():
    model, inputs = make_sd3().bfloat16(), make_inputs(dtype=torch.bfloat16)
    with Probe(model, [], edits=[BlurText(0)]):
        assert model(**inputs).sample.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0}, "sigma must be positive"),
        ({"kernel": 4}, "kernel must be odd"),
        ({"padding": "zeros"}, "padding must be"),
        ({"rows": "half"}, "rows must be"),
    ],
)
def test_bad_settings_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlurText(0, **arguments)


def test_a_layer_that_does_not_exist_is_named(sd3):
    with pytest.raises(ValueError, match=r"edited layers \[9\] do not exist; this model has layers 0 to 2"):
        Probe(sd3, [], edits=[BlurText(9)])
