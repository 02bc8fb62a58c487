"""Edits: each changes the output of some layers' attention, exactly and without the N x N matrix."""

from .base import AttentionBlock, Edit
from .blur import BlurGrid, BlurText
from .knockout import Knockout, Uniform
from .scale import Scale

__all__ = ["AttentionBlock", "BlurGrid", "BlurText", "Edit", "Knockout", "Scale", "Uniform"]
