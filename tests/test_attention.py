"""Fused, chunked and naive agree, and the laws of a softmax hold."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive import full_matrix, random_call

from mmdit_probe import JointAttention, TokenLayout
from mmdit_probe.attention import blocks, i2t_maps, kernels, region_mass, scores, t2i_maps
from mmdit_probe.attention.scores import chunked_lse

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-3, torch.float16: 2e-3}


@st.composite
def cases(draw):
    layout = TokenLayout(
        (draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        draw(st.integers(1, 6)),
        draw(st.sampled_from(["image-text", "text-image"])),
    )
    batch, kv_heads, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 2]))
    mask = draw(st.sampled_from([None, "bool", "float", "keys"]))
    heads, tokens = kv_heads * groups, layout.tokens
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    arguments = {}
    if mask == "bool":
        arguments["attn_mask"] = torch.rand(batch, 1, tokens, tokens, generator=generator) > 0.3
    if mask == "float":
        arguments["attn_mask"] = torch.randn(heads, tokens, tokens, generator=generator)
    if mask == "keys":
        arguments["attn_mask"] = torch.rand(batch, 1, 1, tokens, generator=generator) > 0.5
    if draw(st.booleans()):
        arguments["scale"] = 0.3
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    if mask == "float":
        arguments["attn_mask"] = arguments["attn_mask"].to(dtype)
    if groups > 1:
        arguments["enable_gqa"] = True
    call = random_call(batch, heads, tokens, 8, dtype, kv_heads, draw(st.integers(0, 99)), **arguments)
    return JointAttention(call, layout), TOLERANCE[dtype]


def regions(attention):
    """The four blocks of the naive full matrix."""
    matrix, layout = full_matrix(attention.call).float(), attention.layout
    image, text = layout.image_slice, layout.text_slice
    return {
        "I2I": matrix[:, :, image, image],
        "I2T": matrix[:, :, image, text],
        "T2I": matrix[:, :, text, image],
        "T2T": matrix[:, :, text, text],
    }


def alive(attention):
    """Whether every query may attend to something; where none may, the masses have no meaning."""
    return bool((full_matrix(attention.call).sum(-1) > 0.5).all())


@given(cases())
def test_maps_equal_the_full_softmax(case):
    attention, tolerance = case
    twin = regions(attention)
    torch.testing.assert_close(i2t_maps(attention, "all"), twin["I2T"], atol=tolerance, rtol=0)
    torch.testing.assert_close(t2i_maps(attention, "all"), twin["T2I"], atol=tolerance, rtol=0)
    torch.testing.assert_close(i2t_maps(attention), twin["I2T"].mean(1), atol=tolerance, rtol=0)
    torch.testing.assert_close(t2i_maps(attention), twin["T2I"].mean(1), atol=tolerance, rtol=0)
    whole = slice(0, attention.layout.tokens)
    torch.testing.assert_close(
        attention.probs(whole, whole), full_matrix(attention.call).float(), atol=tolerance, rtol=0
    )


@given(cases())
def test_region_mass_equals_the_full_softmax(case):
    attention, tolerance = case
    if not alive(attention):
        return
    twin = torch.stack([block.sum(-1).mean(-1) for block in regions(attention).values()], -1)
    torch.testing.assert_close(region_mass(attention), twin, atol=tolerance, rtol=0)


@given(cases())
def test_fused_and_chunked_log_sum_exp_agree(case):
    attention, tolerance = case
    chunked = chunked_lse(attention.call, attention.row_chunk)
    finite = chunked.isfinite()
    torch.testing.assert_close(attention.lse[finite], chunked[finite], atol=10 * tolerance, rtol=tolerance)


@given(cases())
def test_t2i_read_from_the_image_columns_is_what_t2t_leaves(case):
    """1 - T2T is how the mass is computed; the image columns are another way to the same number."""
    attention, tolerance = case
    if not alive(attention):
        return
    from_columns = t2i_maps(attention, "all").sum(-1).mean(-1)
    torch.testing.assert_close(from_columns, region_mass(attention)[..., 2], atol=5 * tolerance, rtol=0)


@given(cases())
def test_output_is_the_plain_call_bit_for_bit(case):
    attention, _ = case
    call, a = attention.call, attention.call.arguments
    plain = torch.nn.functional.scaled_dot_product_attention(
        call.query, call.key, call.value, a.attn_mask, a.dropout_p, a.is_causal, scale=a.scale, enable_gqa=a.enable_gqa
    )
    assert torch.equal(attention.output, plain)


def test_permuting_text_tokens_permutes_columns():
    layout = TokenLayout((3, 4), 5)
    call = random_call(2, 3, layout.tokens, 8)
    order = torch.tensor([3, 0, 4, 1, 2])
    positions = torch.cat([torch.arange(layout.image), layout.image + order])
    shuffled = type(call)(call.query[:, :, positions], call.key[:, :, positions], call.value[:, :, positions])
    torch.testing.assert_close(
        i2t_maps(JointAttention(shuffled, layout), "all"), i2t_maps(JointAttention(call, layout), "all")[..., order]
    )


@pytest.mark.parametrize("elements", [1, 100, 1 << 20])
def test_the_size_of_the_blocks_changes_nothing(monkeypatch, elements):
    layout = TokenLayout((3, 4), 5, "text-image")
    call = random_call(3, 4, layout.tokens, 8)
    whole = i2t_maps(JointAttention(call, layout), "all")
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", elements)
    attention = JointAttention(call, layout)
    torch.testing.assert_close(i2t_maps(attention, "all"), whole)
    torch.testing.assert_close(region_mass(attention)[..., 1], whole.sum(-1).mean(-1))


def test_blocks_never_hold_more_than_one_head_when_one_head_fills_the_buffer(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 200)
    layout = TokenLayout((8, 8), 4)
    attention = JointAttention(random_call(2, 3, layout.tokens, 8), layout)
    for block in attention.text_columns():
        assert block.probs.shape == (1, 1, layout.tokens, layout.text)


@pytest.mark.parametrize("rows", [5, 256])
def test_probs_carry_the_gradient_of_the_full_softmax(monkeypatch, rows):
    monkeypatch.setattr(scores, "ROW_CHUNK", rows)
    layout = TokenLayout((3, 4), 5)
    call = random_call(1, 2, layout.tokens, 8)
    call.query.requires_grad_()
    weight = torch.randn(1, 2, layout.image, layout.text)
    attention = JointAttention(call, layout)
    ours = torch.autograd.grad((attention.probs(layout.image_slice, layout.text_slice) * weight).sum(), call.query)[0]
    matrix = (call.query @ call.key.transpose(-1, -2) * 8**-0.5).softmax(-1)
    naive = torch.autograd.grad((matrix[:, :, layout.image_slice, layout.text_slice] * weight).sum(), call.query)[0]
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-4)


def test_the_output_of_a_probed_call_carries_its_gradient():
    layout = TokenLayout((3, 4), 5)
    call = random_call(1, 2, layout.tokens, 8)
    call.query.requires_grad_()
    attention = JointAttention(call, layout)
    region_mass(attention)
    ours = torch.autograd.grad(attention.output.sum(), call.query)[0]
    plain = torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value)
    torch.testing.assert_close(ours, torch.autograd.grad(plain.sum(), call.query)[0])


def test_dropout_reads_the_probabilities_before_dropout():
    layout = TokenLayout((3, 4), 5)
    call = random_call(1, 2, layout.tokens, 8, dropout_p=0.5)
    attention = JointAttention(call, layout)
    assert attention.method == "plain+chunked"
    torch.testing.assert_close(i2t_maps(attention, "all"), regions(attention)["I2T"], atol=1e-5, rtol=0)


def test_a_causal_call_is_exact():
    layout = TokenLayout((3, 4), 5, "text-image")
    attention = JointAttention(random_call(1, 2, layout.tokens, 8, is_causal=True), layout)
    torch.testing.assert_close(i2t_maps(attention, "all"), regions(attention)["I2T"], atol=1e-5, rtol=0)


def test_a_query_that_may_attend_to_nothing_gives_nothing():
    layout = TokenLayout((2, 2), 2)
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    mask[..., 1, :] = False
    attention = JointAttention(random_call(1, 1, 6, 8, attn_mask=mask), layout)
    maps = i2t_maps(attention)
    assert maps.isfinite().all()
    assert (maps[:, 1] == 0).all()


def test_a_layout_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"9 tokens .* the call 10 queries"):
        JointAttention(random_call(1, 1, 10, 8), TokenLayout((2, 3), 3))


def test_grouped_heads_say_how_they_were_read():
    layout = TokenLayout((2, 2), 2)
    attention = JointAttention(random_call(1, 4, 6, 8, kv_heads=2, enable_gqa=True), layout)
    assert attention.method == "plain+chunked"
    assert JointAttention(random_call(1, 4, 6, 8), layout).method == "flash-cpu"


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_one_batch_row_is_that_of_the_batch_without_another_kernel_call(monkeypatch, kv_heads):
    layout = TokenLayout((3, 4), 5)
    mask = torch.rand(3, 1, layout.tokens, layout.tokens) > 0.3
    grouped = {"kv_heads": 2, "enable_gqa": True} if kv_heads == 2 else {}
    whole = JointAttention(random_call(3, 4, layout.tokens, 8, attn_mask=mask, **grouped), layout)
    maps, output = i2t_maps(whole, "all"), whole.output
    monkeypatch.setattr(kernels, "attend", None)
    for index in range(3):
        one = whole.batch_row(index)
        assert one.batch == 1
        assert torch.equal(one.output, output[index : index + 1])
        torch.testing.assert_close(i2t_maps(one, "all"), maps[index : index + 1])
    assert one.batch_row(0) is one
