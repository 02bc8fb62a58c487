"""Encoding large images on a CPU in strips of rows: the widest activations of an autoencoder are held once, not five times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

LARGE = 2**26
"""Bytes of a block's input from which on it is done in strips: an image of 384 px in fp32 and 128 channels."""
STRIP = 2**22
"""Bytes of a strip."""
Part = Callable[[Tensor], Tensor]


@contextmanager
def in_strips(vae: Any) -> Iterator[None]:
    """Inside, residual blocks and downsampling of the encoder go through large inputs strip by strip.

    The same sums in nearly the same order: latents differ in the last digits. Small images, other devices than the CPU and
    calls with gradients are untouched; autoencoders of other blocks, too.
    """
    with ExitStack() as undo:
        for block in getattr(vae, "encoder", nn.Module()).modules():
            way = _way(block)
            if way is not None:
                undo.enter_context(_replaced(block, way))
        yield


@contextmanager
def _replaced(block: nn.Module, way: Callable[[Any, Tensor], Tensor]) -> Iterator[None]:
    """Inside, the block's forward pass goes the other way where its input is large."""
    before = block.__dict__.get("forward")  # of another wrapper, such as CPU offload's
    block.forward = partial(_forward, block, way, block.forward)
    try:
        yield
    finally:
        if before is None:
            del block.forward
        else:
            block.forward = before


def _forward(
    block: nn.Module,
    way: Callable[[Any, Tensor], Tensor],
    plain: Callable[..., Tensor],
    given: Tensor,
    *more: Any,
    **named: Any,
) -> Tensor:
    large = given.element_size() * given[0].numel() >= LARGE
    told = any(part is not None for part in (*more, *named.values()))  # a time embedding
    if not large or given.device.type != "cpu" or torch.is_grad_enabled() or told:
        return plain(given, *more, **named)
    return way(block, given)


def _way(block: nn.Module) -> Callable[[Any, Tensor], Tensor] | None:
    """How a block goes in strips; None if it does not."""
    if isinstance(block, ResnetBlock2D):
        simple = block.upsample is None and block.downsample is None and block.time_emb_proj is None
        usual = isinstance(block.norm1, nn.GroupNorm) and isinstance(block.norm2, nn.GroupNorm)
        convs = _is_usual(block.conv1, 1, 1) and _is_usual(block.conv2, 1, 1)
        return _residual if simple and usual and convs and not block.training else None
    if isinstance(block, Downsample2D) and block.norm is None and block.padding == 0 and _is_usual(block.conv, 2, 0):
        return _halved
    return None


def _is_usual(conv: nn.Module, stride: int, padding: int) -> bool:
    """Whether it is a convolution of 3 x 3 with this stride and padding by zeros."""
    if not isinstance(conv, nn.Conv2d) or conv.padding_mode != "zeros":
        return False
    return (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == (
        (3, 3),
        (stride,) * 2,
        (padding,) * 2,
        (1, 1),
    )


def _residual(block: Any, given: Tensor) -> Tensor:
    """`ResnetBlock2D` without a time embedding."""
    shape = (len(given), block.conv1.out_channels, *given.shape[-2:])
    hidden = _convolved(block.conv1, _normalized(block.norm1, block.nonlinearity, given), given, given.new_empty(shape))
    second = _normalized(block.norm2, block.nonlinearity, hidden)
    in_place = block.conv2.out_channels == shape[1]
    into = hidden if in_place else given.new_empty((len(given), block.conv2.out_channels, *given.shape[-2:]))
    out = _convolved(block.conv2, second, hidden, into)
    out += given if block.conv_shortcut is None else block.conv_shortcut(given)
    return out.div_(block.output_scale_factor)


def _halved(block: Any, given: Tensor) -> Tensor:
    """`Downsample2D`: each 3 x 3 pixels from an even row and column on, with a row and column of zeros behind the last."""
    rows, cols = (size // 2 for size in given.shape[-2:])
    out = given.new_empty((len(given), block.conv.out_channels, rows, cols))
    step = max(1, _rows(given) // 2)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        strip = given[:, :, 2 * start : 2 * stop + 1]
        below = 2 * (stop - start) + 1 - strip.shape[2]
        out[:, :, start:stop] = block.conv(nn.functional.pad(strip, (0, 1, 0, below)))
    return out


def _normalized(norm: nn.GroupNorm, activation: nn.Module, whole: Tensor) -> Part:
    """Group norm and activation of some rows, by the mean and variance of the whole."""
    groups = whole.unflatten(1, (norm.num_groups, -1)).flatten(2)
    found = [torch.var_mean(group.float(), correction=0) for image in groups for group in image]
    variance, mean = (torch.stack(part).view(len(whole), norm.num_groups) for part in zip(*found, strict=True))
    each = whole.shape[1] // norm.num_groups
    scale = torch.rsqrt(variance + norm.eps).repeat_interleave(each, 1)
    shift = -mean.repeat_interleave(each, 1) * scale
    if norm.affine:
        weight, bias = norm.weight.float(), norm.bias.float()
        scale, shift = scale * weight, shift * weight + bias
    scale, shift = scale[:, :, None, None], shift[:, :, None, None]
    return lambda rows: activation(torch.addcmul(shift, rows.float(), scale).to(rows.dtype))


def _convolved(conv: nn.Conv2d, part: Part, given: Tensor, into: Tensor) -> Tensor:
    """The 3 x 3 convolution of ``part(given)``, written to ``into``, which may be ``given`` itself."""
    height, step = given.shape[2], _rows(given)
    above = torch.zeros_like(given[:, :, :1])
    for start in range(0, height, step):
        stop = min(height, start + step)
        strip = part(given[:, :, start : stop + 1])
        below = above.new_zeros(above.shape) if stop == height else above[:, :, :0]
        whole = torch.cat([above, strip, below], 2)
        above = strip[:, :, stop - start - 1 : stop - start].clone()  # before it is overwritten
        into[:, :, start:stop] = nn.functional.conv2d(whole, conv.weight, conv.bias, padding=(0, 1), groups=conv.groups)
    return into


def _rows(given: Tensor) -> int:
    """Rows of a strip."""
    return max(1, STRIP // (given[:, :, 0].numel() * given.element_size()))
