"""What is claimed of CUDA, on a CUDA GPU: the plain output bit for bit, and the full softmax's numbers. Skipped without one."""

from contextlib import nullcontext

import pytest
import torch
from conftest import make_inputs, make_sd3
from naive import full_matrix, random_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from mmdit_probe import I2TMaps, JointAttention, Probe, RegionMass, TokenLayout
from mmdit_probe.attention import i2t_maps, region_mass, t2i_maps
from mmdit_probe.attention.kernels import AttentionCall, attend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
PLACE = torch.device("cuda")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HALVES = DTYPES[1:]
KERNELS = {
    SDPBackend.FLASH_ATTENTION: "flash-cuda",
    SDPBackend.EFFICIENT_ATTENTION: "efficient-cuda",
    SDPBackend.CUDNN_ATTENTION: "cudnn",
}
WITH_MASKS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, None]
LAYOUT = TokenLayout((7, 11), 6)
"""83 tokens: no multiple of 8."""


def on_gpu(call):
    mask = call.arguments.attn_mask
    arguments = {**vars(call.arguments), "attn_mask": None if mask is None else mask.to(PLACE)}
    moved = (tensor.to(PLACE) for tensor in (call.query, call.key, call.value))
    return AttentionCall(*moved, type(call.arguments)(**arguments))


def only(backend):
    return nullcontext() if backend is None else sdpa_kernel(backend)


def plain_output(call, backend=None):
    """The plain call's; the test is skipped where the kernel asked for can't do it on this GPU."""
    try:
        return scaled_dot_product_attention(call.query, call.key, call.value, **vars(call.arguments))
    except RuntimeError as error:
        if backend is None:
            raise
        pytest.skip(f"{backend} can't do this here: {str(error)[:80]}")


def check(call, backend=None, layout=LAYOUT, kernel=None):
    """Output bit for bit, and the maps and masses of the full softmax; the name of the kernel that ran."""
    moved = on_gpu(call)
    with torch.no_grad(), only(backend):
        plain = plain_output(moved, backend)
        attention = JointAttention(moved, layout)
        assert torch.equal(attention.output, plain)
    assert kernel is None or attention.method == kernel
    matrix = full_matrix(call)
    atol = 1e-4 if call.query.dtype == torch.float32 else 2e-3
    torch.testing.assert_close(
        i2t_maps(attention, "all").cpu(), matrix[:, :, layout.image_slice, layout.text_slice].float(), atol=atol, rtol=0
    )
    t2i = matrix[:, :, layout.text_slice, layout.image_slice].float()
    torch.testing.assert_close(t2i_maps(attention, "all").cpu(), t2i, atol=atol, rtol=0)
    mass = matrix[:, :, layout.image_slice, layout.text_slice].sum(-1).mean(-1).float()
    torch.testing.assert_close(region_mass(attention)[..., 1].cpu(), mass, atol=atol, rtol=0)


def small_model(dtype=torch.float32):
    return make_sd3().to(PLACE, dtype)


def small_inputs(dtype=torch.float32):
    return {name: tensor.to(PLACE) for name, tensor in make_inputs(dtype=dtype).items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_whole_forward_is_the_plain_one_bit_for_bit(dtype):
    model, inputs = small_model(dtype), small_inputs(dtype)
    with torch.no_grad():
        plain, again = (model(**inputs).sample for _ in range(2))
        with Probe(model, [RegionMass(), I2TMaps()]) as probe:
            probed = model(**inputs).sample
    assert torch.equal(plain, again)  # or nothing could be said
    assert torch.equal(plain, probed)
    record = probe.dataset()
    assert "plain" not in record.attrs["kernels"]
    with torch.no_grad(), Probe(make_sd3(), [RegionMass(), I2TMaps()]) as reference:
        reference.transformer(**make_inputs())
    tolerance = {"atol": 1e-4 if dtype == torch.float32 else 2e-2, "rtol": 0}
    for name in ("region_mass", "i2t"):
        found, wanted = (torch.from_numpy(dataset[name].values) for dataset in (record, reference.dataset()))
        torch.testing.assert_close(found, wanted, **tolerance)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_forward_under_autocast(dtype):
    model, inputs = small_model(), small_inputs()
    with torch.no_grad(), torch.autocast("cuda", dtype):
        plain = model(**inputs).sample
        with Probe(model, [RegionMass(), I2TMaps()]) as probe:
            assert torch.equal(model(**inputs).sample, plain)
    assert "plain" not in probe.dataset().attrs["kernels"]


@pytest.mark.parametrize("shape", [(2, 1, 1, 83), (83, 83), (2, 3, 83, 83)])
@pytest.mark.parametrize("boolean", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", WITH_MASKS)
def test_masks_of_odd_length(backend, dtype, boolean, shape):
    if backend == SDPBackend.CUDNN_ATTENTION and dtype == torch.float32:
        pytest.skip("cuDNN has no fp32")
    generator = torch.Generator().manual_seed(0)
    mask = (
        torch.rand(shape, generator=generator) > 0.3 if boolean else torch.randn(shape, generator=generator).to(dtype)
    )
    call = random_call(2, 3, LAYOUT.tokens, 16, dtype, attn_mask=mask)
    check(call, backend, kernel=KERNELS.get(backend))


@pytest.mark.parametrize("width", [12, 20, 36])
@pytest.mark.parametrize("dtype", HALVES)
def test_flash_with_widths_that_are_no_multiple_of_8(dtype, width):
    check(random_call(2, 3, LAYOUT.tokens, width, dtype), SDPBackend.FLASH_ATTENTION, kernel="flash-cuda")


@pytest.mark.parametrize("width", [9, 12, 20, 36])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_width_with_the_kernel_that_pytorch_takes(dtype, width):
    check(random_call(2, 3, LAYOUT.tokens, width, dtype, scale=0.3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_probabilities_are_the_full_softmaxes(dtype):
    call = random_call(1, 2, LAYOUT.tokens, 16, dtype)
    weight = torch.randn(LAYOUT.image, LAYOUT.text, generator=torch.Generator().manual_seed(1))
    gradients = []
    for place in (PLACE, torch.device("cpu")):
        query, key = (tensor.detach().to(place).requires_grad_() for tensor in (call.query, call.key))
        if place == PLACE:
            attention = JointAttention(AttentionCall(query, key, call.value.to(place)), LAYOUT)
            probs = attention.probs(LAYOUT.image_queries, LAYOUT.text_keys)
        else:
            full = (query.float() @ key.float().transpose(-1, -2) * 16**-0.5).softmax(-1)
            probs = full[:, :, LAYOUT.image_slice, LAYOUT.text_slice]
        (probs * weight.to(place)).sum().backward()
        gradients.append([query.grad.float().cpu(), key.grad.float().cpu()])
    atol = 1e-4 if dtype == torch.float32 else 2e-2
    for found, wanted in zip(*gradients, strict=True):
        assert wanted.abs().max() > 10 * atol
        torch.testing.assert_close(found, wanted, atol=atol, rtol=2e-2)


def test_gradients_go_through_a_probed_forward():
    model, gradients = small_model(), []
    for probed in (False, True):
        inputs = small_inputs()
        inputs["hidden_states"].requires_grad_()
        with Probe(model, [RegionMass()]) if probed else nullcontext():
            output = model(**inputs).sample
        output.square().sum().backward()
        gradients.append((output.detach(), inputs["hidden_states"].grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[1][1], gradients[0][1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("backend", list(KERNELS))
@pytest.mark.parametrize("dtype", HALVES)
def test_a_layer_of_sd3s_size(dtype, backend):
    """4096 + 154 tokens, 24 heads of 64, where the plain call asks for no log-sum-exp and ours does."""
    layout = TokenLayout((64, 64), 154)
    call = on_gpu(random_call(1, 24, layout.tokens, 64, dtype))
    with torch.no_grad(), only(backend):
        plain = plain_output(call, backend)
        attended = attend(call.query, call.key, call.value, call.arguments)
    assert attended.kernel == KERNELS[backend]
    assert torch.equal(attended.output, plain)
    assert attended.lse.shape == call.query.shape[:3]
    rows = torch.arange(0, layout.tokens, 97, device=PLACE)
    scores = call.query[:, :, rows].float() @ call.key.float().transpose(-1, -2) * 64**-0.5
    torch.testing.assert_close(attended.lse[:, :, rows], scores.logsumexp(-1), atol=2e-3, rtol=0)
