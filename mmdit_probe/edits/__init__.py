"""Edits: each changes some layers' attention, exactly and without the N x N matrix, or the streams around a block."""

from .base import AttentionBlock, Edit
from .bias import Bias, Regions
from .block_edits import Bypass, ScaleText
from .blur import BlurGrid, BlurText
from .group_keys import GroupKeys
from .head_scale import HeadScale
from .knockout import Knockout, Uniform
from .patch import Patch
from .remove_keys import RemoveKeys
from .scale import Scale
from .self_attend import SelfAttend
from .states import States
from .streams import BlockEdit, Streams

__all__ = [
    "AttentionBlock",
    "Bias",
    "BlockEdit",
    "BlurGrid",
    "BlurText",
    "Bypass",
    "Edit",
    "GroupKeys",
    "HeadScale",
    "Knockout",
    "Patch",
    "Regions",
    "RemoveKeys",
    "Scale",
    "ScaleText",
    "SelfAttend",
    "States",
    "Streams",
    "Uniform",
]
