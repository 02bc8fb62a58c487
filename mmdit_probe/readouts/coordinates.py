"""Labels of the readouts' own axes."""

from __future__ import annotations

from ..attention.joint import REGIONS
from ..attention.text_tokens import Kind
from .value_norms import STREAMS

COORDINATES = {
    "region": [str(region) for region in REGIONS],
    "stream": list(STREAMS),
    "kind": [str(kind) for kind in Kind],
    "feature": ["query", "key", "value"],
}
"""Labels of the readouts' own axes."""
