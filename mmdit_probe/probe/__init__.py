"""The instrument: `Probe`, `PerturbedGuidance` and `record_states`."""

from .guidance import PerturbedGuidance
from .probe import Probe
from .states import record_states

__all__ = [
    "PerturbedGuidance",
    "Probe",
    "record_states",
]
