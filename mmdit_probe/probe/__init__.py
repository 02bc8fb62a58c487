"""The instrument: `Probe` and `PerturbedGuidance`."""

from .guidance import PerturbedGuidance
from .probe import Probe

__all__ = [
    "PerturbedGuidance",
    "Probe",
]
