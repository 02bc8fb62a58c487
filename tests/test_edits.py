"""Edits against the full matrix, and the laws of the blur."""

import numpy as np
import pytest
import torch
from conftest import make_inputs, make_sd3
from hypothesis import given
from hypothesis import strategies as st
from naive import full_matrix, random_call
from scipy.ndimage import correlate1d

from mmdit_probe import BlurGrid, BlurText, JointAttention, Knockout, Probe, RegionMass, Scale, TokenLayout, Uniform
from mmdit_probe.attention.kernels import AttentionCall
from mmdit_probe.edits.blur import blur_matrix

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


@pytest.mark.parametrize("padding", ["reflect", "symmetric"])
@pytest.mark.parametrize("lengths", [(7, 3), (2, 5), (1, 4)])
def test_masked_keys_are_no_part_of_the_text_axis(padding, lengths):
    """A row whose padding is masked is blurred as if it had no padding; masked values are never read."""
    layout, short = TokenLayout((2, 3), 7), [TokenLayout((2, 3), length) for length in lengths]
    call = random_call(2, 2, layout.tokens, 4)
    allowed = torch.ones(2, 1, 1, layout.tokens, dtype=torch.bool)
    for row, length in enumerate(lengths):
        allowed[row, ..., layout.text_slice.start + length :] = False
        call.value[row, :, layout.text_slice.start + length :] = 1e6
    masked = JointAttention(call, layout).changed(mask=allowed)
    edited = BlurText(0, padding=padding, batch="all").apply(masked, masked.output)
    for row, (length, own) in enumerate(zip(lengths, short, strict=True)):
        matrix = full_matrix(random_call_of(call, row, own.tokens))
        columns = np.arange(own.text)
        taps = np.exp(-0.5 * (np.arange(-2, 3) / 9.0) ** 2)
        padded = np.pad(columns, 2, mode=padding)
        blurred = sum(
            tap * matrix[..., own.image_slice, own.text_slice][..., padded[place : place + length]]
            for place, tap in enumerate(taps / taps.sum())
        )
        matrix[:, :, own.image_slice, own.text_slice] = blurred
        expected = matrix @ call.value[row : row + 1, :, : own.tokens].double()
        torch.testing.assert_close(edited[row : row + 1, :, : own.tokens].double(), expected, atol=1e-5, rtol=0)


def random_call_of(call, row, tokens):
    """One batch row of a call, and its first tokens alone."""
    return AttentionCall(
        *(part[row : row + 1, :, :tokens] for part in (call.query, call.key, call.value)), call.arguments
    )


def test_a_kernel_of_one_changes_nothing(sd3, inputs):
    plain = sd3(**inputs).sample
    with Probe(sd3, [], edits=[BlurText(1, kernel=1)]):
        torch.testing.assert_close(sd3(**inputs).sample, plain, atol=1e-6, rtol=0)


def twin_output(call, layout, matrix):
    value = call.value.double().repeat_interleave(call.query.shape[1] // call.value.shape[1], 1)
    return matrix @ value


@pytest.fixture(params=["image-text", "text-image"])
def case(request):
    layout = TokenLayout((3, 4), 6, request.param)
    call = random_call(2, 2, layout.tokens, 8)
    return call, layout, full_matrix(call), layout.image_slice, layout.text_slice


def edited_by(edit, call, layout):
    return edit.apply(JointAttention(call, layout), call.attended.output).double()


@pytest.mark.parametrize(("sigma", "kernel"), [(0.7, None), (1.5, 3), (3.0, None)])
def test_blur_over_the_grid_equals_blurring_the_full_maps(case, sigma, kernel):
    call, layout, matrix, image, text = case
    half = int(np.ceil(3 * sigma)) if kernel is None else kernel // 2
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    maps = matrix[:, :, image, text].unflatten(2, layout.grid).numpy()
    for axis in (2, 3):
        maps = correlate1d(maps, taps / taps.sum(), axis=axis, mode="reflect")
    matrix[:, :, image, text] = torch.from_numpy(maps).flatten(2, 3)
    ours = edited_by(BlurGrid(0, sigma, kernel), call, layout)
    torch.testing.assert_close(ours, twin_output(call, layout, matrix), atol=1e-5, rtol=0)


def test_blur_over_the_grid_goes_frame_by_frame():
    layout = TokenLayout((2, 3, 4), 5)
    call = random_call(1, 1, layout.tokens, 8)
    matrix = full_matrix(call)
    image, text = layout.image_slice, layout.text_slice
    maps = matrix[:, :, image, text].unflatten(2, layout.grid).numpy()
    taps = np.exp(-0.5 * (np.arange(-3, 4)) ** 2)
    for axis in (3, 4):
        maps = correlate1d(maps, taps / taps.sum(), axis=axis, mode="reflect")
    matrix[:, :, image, text] = torch.from_numpy(maps).flatten(2, 4)
    ours = edited_by(BlurGrid(0, 1.0), call, layout)
    torch.testing.assert_close(ours, twin_output(call, layout, matrix), atol=1e-5, rtol=0)


def test_uniform_equals_averaging_the_full_matrix(case):
    call, layout, matrix, image, text = case
    matrix[:, :, image, text] = matrix[:, :, image, text].mean(-1, keepdim=True).expand(-1, -1, -1, layout.text)
    torch.testing.assert_close(
        edited_by(Uniform(0), call, layout), twin_output(call, layout, matrix), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("region", ["I2I", "I2T", "T2I", "T2T"])
def test_knockout_equals_zeros_in_the_full_matrix(case, region, renormalize):
    call, layout, matrix, image, text = case
    places = {"I": image, "T": text}
    rows = places[region[0]]
    matrix[:, :, rows, places[region[2]]] = 0
    if renormalize:
        matrix = matrix / matrix.sum(-1, keepdim=True)
    ours = edited_by(Knockout(0, region, renormalize=renormalize), call, layout)
    torch.testing.assert_close(ours, twin_output(call, layout, matrix), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_scale_equals_scaling_the_scores(case, factor):
    call, layout, _, image, text = case
    scores = call.query.double() @ call.key.double().transpose(-1, -2) * 8**-0.5
    scores[:, :, image, text] *= factor
    ours = edited_by(Scale(0, factor), call, layout)
    torch.testing.assert_close(ours, twin_output(call, layout, scores.softmax(-1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("edit", [BlurText, BlurGrid, Uniform, Knockout, lambda *a, **k: Scale(*a, 1.5, **k)])
def test_heads_and_steps_that_are_not_chosen_stay_bit_for_bit(edit):
    layout = TokenLayout((3, 4), 6)
    call = random_call(2, 3, layout.tokens, 8)
    plain = call.attended.output
    one_head = edit(0, heads=[1]).apply(JointAttention(call, layout), plain)
    assert torch.equal(one_head[:, [0, 2]], plain[:, [0, 2]])
    assert not torch.equal(one_head[:, 1], plain[:, 1])
    assert torch.equal(edit(0, steps=range(3)).apply(JointAttention(call, layout, step=3), plain), plain)
    assert not torch.equal(edit(0, steps=range(3)).apply(JointAttention(call, layout, step=2), plain), plain)


ARGUMENTS = {"num_inference_steps": 2, "guidance_scale": 3.0, "max_sequence_length": 2, "output_type": "latent"}


def generate(pipe, edits, prompt="a red circle on grass", **more):
    generator = torch.Generator().manual_seed(0)
    with Probe(pipe, [], edits=edits):
        return pipe(prompt, generator=generator, **ARGUMENTS, **more).images


def test_only_the_conditional_half_is_edited_by_default(random_pipe):
    seen = {}
    for rows in ("conditional", "all"):
        outputs = []
        handle = random_pipe.transformer.register_forward_hook(
            lambda m, a, out, outputs=outputs: outputs.append(out[0])
        )
        generate(random_pipe, [BlurText(1, batch=rows)])
        handle.remove()
        seen[rows] = outputs[0]
    outputs = []
    handle = random_pipe.transformer.register_forward_hook(lambda m, a, out: outputs.append(out[0]))
    generate(random_pipe, [])
    handle.remove()
    negative, positive = outputs[0]
    assert torch.equal(seen["conditional"][0], negative)
    assert not torch.equal(seen["conditional"][1], positive)
    assert not torch.equal(seen["all"][0], negative)


def test_knocking_out_a_word_equals_zeroing_its_columns(random_pipe):
    """Against a twin that masks the word's keys before the softmax, which renormalizes by itself."""

    class Mask(Knockout):
        def apply(self, attention, output):
            matrix = full_matrix(attention.call)
            columns = np.arange(attention.layout.tokens)[attention.layout.text_slice][[3]]  # "circle"
            image = attention.layout.image_slice
            matrix[:, :, image, columns] = 0
            matrix = matrix / matrix.sum(-1, keepdim=True)
            twin = twin_output(attention.call, attention.layout, matrix).float()
            where = torch.from_numpy(attention.text.conditional.astype(bool))[:, None, None, None]
            return torch.where(where, twin, output)

    ours = generate(random_pipe, [Knockout(1, words=["circle"])])
    torch.testing.assert_close(ours, generate(random_pipe, [Mask(1)]), atol=1e-4, rtol=1e-4)
    assert not torch.equal(ours, generate(random_pipe, []))


WORD = 3  # the position of "circle" in "a red circle on grass"


def on_the_word(matrix, layout, edit):
    """The full matrix with the edit done to one text column alone."""
    image = layout.image_queries
    column = np.arange(layout.keys)[layout.text_keys][WORD]
    edited = matrix.clone()
    text = matrix[:, :, image, layout.text_keys]
    if isinstance(edit, BlurText):
        blurred = text @ torch.from_numpy(blur_matrix(layout.text, 9.0, 5, "reflect"))
        edited[:, :, image, column] = blurred[..., WORD]
    elif isinstance(edit, BlurGrid):
        maps = text[..., WORD].unflatten(2, layout.grid).numpy()
        taps = np.exp(-0.5 * np.arange(-3, 4) ** 2)
        for axis in (2, 3):
            maps = correlate1d(maps, taps / taps.sum(), axis=axis, mode="reflect")
        edited[:, :, image, column] = torch.from_numpy(maps).flatten(2, 3)
    else:
        scores = matrix[:, :, image].log()
        raised = scores[..., column] + edit.lse[:, :, image]
        scores[..., column] = 1.5 * raised - edit.lse[:, :, image]
        edited[:, :, image] = scores.softmax(-1)
    return edited


@pytest.mark.parametrize(
    "kind", [BlurText, lambda *a, **k: BlurGrid(a[0], 1.0, **k), lambda *a, **k: Scale(a[0], 1.5, **k)]
)
def test_edits_of_one_word_equal_editing_its_column(random_pipe, kind):
    edit, seen = kind(1, words=["circle"]), []

    class Compare(type(edit)):
        def apply(self, attention, output):
            self.lse = attention.lse.double()
            twin = twin_output(
                attention.call, attention.layout, on_the_word(full_matrix(attention.call), attention.layout, self)
            )
            ours = super().apply(attention, output)
            seen.append((ours[attention.text.conditional.astype(bool)], twin[attention.text.conditional.astype(bool)]))
            return ours

    edit.__class__ = Compare
    generate(random_pipe, [edit])
    for ours, twin in seen:
        torch.testing.assert_close(ours.double(), twin, atol=1e-5, rtol=0)


def test_padding_can_be_knocked_out(random_pipe):
    assert not torch.equal(generate(random_pipe, [Knockout(1, kinds=["padding", "absent"])]), generate(random_pipe, []))


def test_words_are_spelt_by_their_tokens(random_pipe):
    from mmdit_probe.pipelines.prompts import describe

    parts = Probe(random_pipe, []).family.text_parts(random_pipe, 2)
    text = describe(parts, ["a half moon and a Heart", "a xy heart"])
    assert np.flatnonzero(text.spelling("Half Moon")[0]).tolist() == [2, 3]
    assert np.flatnonzero(text.spelling("heart")[0]).tolist() == [6]
    assert np.flatnonzero(text.spelling("xy")[1]).tolist() == [2, 3]
    assert not text.spelling("art").any()


def test_a_word_that_is_not_there_is_named(random_pipe):
    with pytest.raises(ValueError, match="'lava' is not among the prompt's tokens: a red circle on grass"):
        generate(random_pipe, [Knockout(1, words=["lava"])])


def test_words_need_a_prompt(sd3, inputs):
    with (
        pytest.raises(ValueError, match=r"need the prompt.s tokens, which are unknown here"),
        Probe(sd3, [], edits=[Uniform(1, words=["sand"])]),
    ):
        sd3(**inputs)


@pytest.fixture
def cross():
    """Plain cross-attention: 12 image queries, 6 text keys."""
    layout = TokenLayout((3, 4), 6, scope="cross")
    query, text = random_call(2, 2, 12, 8), random_call(2, 2, 6, 8, seed=1)
    return type(query)(query.query, text.key, text.value), layout


@pytest.mark.parametrize("edit", [BlurText(0), BlurGrid(0, 1.0), Uniform(0), Scale(0, 1.5), Knockout(0)])
def test_edits_of_plain_cross_attention(cross, edit):
    """Against the same edit written on the full matrix of image queries and text keys."""
    call, layout = cross
    matrix = full_matrix(call)
    if isinstance(edit, BlurText):
        twin = matrix @ torch.from_numpy(blur_matrix(6, 9.0, 5, "reflect"))
    elif isinstance(edit, BlurGrid):
        maps = matrix.unflatten(2, layout.grid).numpy()
        taps = np.exp(-0.5 * np.arange(-3, 4) ** 2)
        for axis in (2, 3):
            maps = correlate1d(maps, taps / taps.sum(), axis=axis, mode="reflect")
        twin = torch.from_numpy(maps).flatten(2, 3)
    elif isinstance(edit, Uniform):
        twin = torch.full_like(matrix, 1 / 6)
    elif isinstance(edit, Scale):
        twin = (matrix.log() * 1.5).softmax(-1)
    else:
        twin = torch.zeros_like(matrix)
    torch.testing.assert_close(edited_by(edit, call, layout), twin @ call.value.double(), atol=1e-5, rtol=0)


def test_a_region_that_the_model_lacks_is_not_knocked_out(cross):
    call, layout = cross
    with pytest.raises(ValueError, match=r"edge T2T can.t be edited in this model; choose from I2T"):
        edited_by(Knockout(0, "T2T"), call, layout)


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
        ({"batch": "half"}, "batch must be"),
    ],
)
def test_bad_settings_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlurText(0, **arguments)


def test_settings_that_make_no_sense_are_explained():
    with pytest.raises(ValueError, match="edge must be one of I2I, I2T, T2I, T2T, I2R, T2R, R2I, R2T, R2R, got 'X2Y'"):
        Knockout(0, "X2Y")
    with pytest.raises(ValueError, match="words and kinds choose text keys"):
        Knockout(0, "I2I", words=["sand"])
    with pytest.raises(ValueError, match="factor must be a positive number"):
        Scale(0, 0)


def test_a_head_that_does_not_exist_is_named(sd3, inputs):
    with (
        pytest.raises(ValueError, match=r"heads \[2\] do not exist; there are heads 0 to 1"),
        Probe(sd3, [], edits=[Uniform(1, heads=[2])]),
    ):
        sd3(**inputs)


def test_a_layer_that_does_not_exist_is_named(sd3):
    with pytest.raises(ValueError, match=r"edited layers \[9\] do not exist; this model has layers 0 to 2"):
        Probe(sd3, [], edits=[BlurText(9)])
