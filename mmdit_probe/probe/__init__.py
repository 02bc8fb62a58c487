"""The instrument: `Probe`, `PerturbedGuidance`, `AttentionLoss` and `record_states`."""

from .attention_loss import AttentionLoss
from .guidance import PerturbedGuidance
from .probe import Probe
from .states import record_states
from .subject_losses import SubjectMaps

__all__ = [
    "AttentionLoss",
    "PerturbedGuidance",
    "Probe",
    "SubjectMaps",
    "record_states",
]
