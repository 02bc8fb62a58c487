"""The fused kernels' log-sum-exp: on the CPU for real; on CUDA for real where there is one, else by doubles of the ops."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from naive import full_matrix, random_call

from mmdit_probe import I2TMaps, JointAttention, Probe, RegionMass, TokenLayout
from mmdit_probe.attention import i2t_maps, kernels
from mmdit_probe.attention.kernels import AttentionArguments, additive_mask, attend


def double_of(name):
    """An op with the signature and the quirks of a CUDA one, computed naively on the CPU."""

    def attention(query, key, value, bias, scale):
        scale = scale if scale is not None else query.shape[-1] ** -0.5
        scores = query.float() @ key.float().transpose(-1, -2) * scale
        scores = scores if bias is None else scores + bias.float()
        return (scores.softmax(-1) @ value.float()).to(query.dtype), scores.logsumexp(-1)

    def flash(query, key, value, dropout_p, is_causal, return_debug_mask, *, scale):
        assert query.shape[-1] % 8 == 0
        output, lse = attention(query, key, value, None, scale)
        return output, lse, None, None, 0, 0, None, None, None

    def efficient(query, key, value, attn_bias, compute_log_sumexp, dropout_p, is_causal, *, scale):
        assert compute_log_sumexp
        if attn_bias is not None:
            assert attn_bias.shape == (*query.shape[:3], key.shape[2])
            assert attn_bias.stride(-1) == 1
            assert all(stride % 16 == 0 for stride in attn_bias.stride()[:-1])
        output, lse = attention(query, key, value, attn_bias, scale)
        padded = torch.full((*lse.shape[:2], math.ceil(lse.shape[2] / 32) * 32), math.inf)
        padded[..., : lse.shape[2]] = lse
        return output, padded, None, None

    def cudnn(query, key, value, attn_bias, compute_log_sumexp, dropout_p, is_causal, return_debug_mask, *, scale):
        assert compute_log_sumexp
        output, lse = attention(query, key, value, attn_bias, scale)
        return output, lse[..., None], None, None, 0, 0, None, None, None

    return {
        "_scaled_dot_product_flash_attention": flash,
        "_scaled_dot_product_efficient_attention": efficient,
        "_scaled_dot_product_cudnn_attention": cudnn,
    }[name]


OPS = {
    "cuda_flash": "_scaled_dot_product_flash_attention",
    "cuda_efficient": "_scaled_dot_product_efficient_attention",
    "cuda_cudnn": "_scaled_dot_product_cudnn_attention",
}


@pytest.mark.parametrize("width", [8, 12])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kernel", list(OPS))
def test_cuda_paths_by_their_doubles(monkeypatch, kernel, masked, width):
    if masked and kernel == "cuda_flash":
        masked = False  # the flash op takes no mask; PyTorch never chooses it for one
    monkeypatch.setattr(kernels, "_aten", SimpleNamespace(**{OPS[kernel]: double_of(OPS[kernel])}))
    mask = torch.rand(2, 1, 1, 19, generator=torch.Generator().manual_seed(0)) > 0.3 if masked else None
    call = random_call(2, 3, 19, width, attn_mask=mask, scale=0.2)
    attended = getattr(kernels, kernel)(call.query, call.key, call.value, call.arguments)
    matrix = full_matrix(call)
    torch.testing.assert_close(attended.output.double(), matrix @ call.value.double(), atol=1e-5, rtol=0)
    assert attended.lse.shape == (2, 3, 19)
    scores = call.query @ call.key.transpose(-1, -2) * 0.2
    scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
    torch.testing.assert_close(attended.lse, scores.logsumexp(-1), atol=1e-5, rtol=0)


SHAPES = [(2, 1, 1, 19), (19, 19), (1, 19), (2, 1, 19, 19), (2, 3, 19, 19), (2, 1, 19, 1), (3, 1, 19), (2, 1, 1, 32)]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_is_padded_before_it_is_expanded(monkeypatch, shape, cut):
    """A row for every head and query stays a row: the kernel is given no more numbers than the padded mask has."""
    given = []

    def efficient(*arguments, **named):
        given.append(arguments[3])
        return double_of(OPS["cuda_efficient"])(*arguments, **named)

    monkeypatch.setattr(kernels, "_aten", SimpleNamespace(**{OPS["cuda_efficient"]: efficient}))
    keys = max(19, shape[-1])
    whole = torch.randn(*shape[:-1], shape[-1] + 5 * cut, generator=torch.Generator().manual_seed(0))
    mask = whole[..., 5 * cut :] if shape[-1] > 1 else whole[..., :1]  # cut: rows that start anywhere
    call = random_call(2, 3, keys, 8, attn_mask=mask)
    attended = kernels.cuda_efficient(call.query, call.key, call.value, call.arguments)
    torch.testing.assert_close(attended.output.double(), full_matrix(call) @ call.value.double(), atol=1e-5, rtol=0)
    rows = math.prod(shape[:-1])
    assert given[0].untyped_storage().nbytes() <= 4 * rows * (keys + 16)


def test_the_doubles_have_the_signatures_of_the_ops():
    """Positional arguments that the real ops take before their keyword-only ones, by name."""
    for name in OPS.values():
        schema = getattr(torch.ops.aten, name).default._schema
        real = [argument.name for argument in schema.arguments if not argument.kwarg_only]
        code = double_of(name).__code__
        assert list(code.co_varnames[: code.co_argcount]) == real
        assert [a.name for a in schema.arguments if a.kwarg_only] == ["scale"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_cpu_kernels_log_sum_exp_is_the_scores(dtype):
    call = random_call(2, 3, 40, 16, dtype)
    attended = attend(call.query, call.key, call.value, AttentionArguments())
    assert attended.kernel == "flash-cpu"
    scores = call.query.float() @ call.key.float().transpose(-1, -2) * 16**-0.5
    torch.testing.assert_close(attended.lse, scores.logsumexp(-1), atol=1e-5, rtol=1e-5)


def test_devices_without_a_choice_of_kernels_are_not_asked(monkeypatch):
    """As on MPS; PyTorch's meta device stands in for it."""

    def refuse(*_, **__):
        raise NotImplementedError("Could not run 'aten::_fused_sdp_choice' with arguments from the 'MPS' backend")

    monkeypatch.setattr(torch, "_fused_sdp_choice", refuse)
    query = torch.empty(2, 3, 19, 8, device="meta")
    attended = attend(query, query, query, AttentionArguments())
    assert (attended.kernel, attended.lse, attended.output.shape) == ("plain", None, query.shape)


def test_on_such_devices_the_record_says_that_it_was_chunked(monkeypatch, sd3, inputs):
    with Probe(sd3, [RegionMass(), I2TMaps()]) as fused:
        sd3(**inputs)
    monkeypatch.setattr(kernels, "FUSED", ("cuda",))
    plain = sd3(**inputs).sample
    with Probe(sd3, [RegionMass(), I2TMaps()]) as probe:
        assert torch.equal(sd3(**inputs).sample, plain)
    found, wanted = probe.dataset(), fused.dataset()
    assert (found.attrs["kernels"], wanted.attrs["kernels"]) == ("plain+chunked", "flash-cpu")
    for name in ("region_mass", "i2t"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-6)


def test_masks_become_additive():
    mask = torch.tensor([True, False])
    assert additive_mask(mask, torch.float32).tolist() == [0.0, -math.inf]
    assert additive_mask(None, torch.float32) is None
    assert additive_mask(torch.tensor([0.5]), torch.float16).dtype == torch.float16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("backend", ["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cuda_kernels_for_real(backend, dtype):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    layout = TokenLayout((16, 12), 33)
    call = random_call(2, 3, layout.tokens, 64, dtype)
    on_gpu = type(call)(call.query.cuda(), call.key.cuda(), call.value.cuda())
    with sdpa_kernel(getattr(SDPBackend, backend)):
        plain = torch.nn.functional.scaled_dot_product_attention(on_gpu.query, on_gpu.key, on_gpu.value)
        attention = JointAttention(on_gpu, layout)
        assert torch.equal(attention.output, plain)
        assert attention.method == {"F": "flash-cuda", "E": "efficient-cuda", "C": "cudnn"}[backend[0]]
        twin = full_matrix(call)[:, :, layout.image_slice, layout.text_slice].float()
        torch.testing.assert_close(i2t_maps(attention, "all").cpu(), twin, atol=2e-3, rtol=0)
