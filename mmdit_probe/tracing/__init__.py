"""Tracing: what an ordinary pipeline call attended to, word by word, with readouts, layers and timesteps chosen for you."""

from .given import read_image
from .report import Report
from .seen import Seen
from .trace import Trace, read_generated, trace
from .word import Word

__all__ = ["Report", "Seen", "Trace", "Word", "read_generated", "read_image", "trace"]
