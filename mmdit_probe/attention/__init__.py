"""The exact maths of joint attention: layout of tokens, kernels, `JointAttention`, interception."""

from .joint import JointAttention
from .kernels import AttentionCall
from .layout import Extra, Region, TokenLayout

__all__ = [
    "AttentionCall",
    "Extra",
    "JointAttention",
    "Region",
    "TokenLayout",
]
