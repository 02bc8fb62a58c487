"""The exact maths of joint attention: layout of tokens, kernels, `JointAttention`, its reductions, interception."""

from .joint import JointAttention
from .kernels import AttentionCall
from .layout import Extra, Region, TokenLayout
from .reductions import i2t_maps, region_mass, t2i_maps

__all__ = [
    "AttentionCall",
    "Extra",
    "JointAttention",
    "Region",
    "TokenLayout",
    "i2t_maps",
    "region_mass",
    "t2i_maps",
]
