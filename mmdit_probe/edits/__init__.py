"""Edits: each changes the output of some layers' attention, exactly and without the N x N matrix."""

from .base import Edit, View
from .blur import BlurGrid, BlurText
from .knockout import Knockout, Uniform
from .scale import Scale

__all__ = ["BlurGrid", "BlurText", "Edit", "Knockout", "Scale", "Uniform", "View"]
