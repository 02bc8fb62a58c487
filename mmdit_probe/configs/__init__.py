"""The one place for each study's defaults: plain frozen dataclasses, read by the CLI, analyses and notebooks.

Nothing here imports PyTorch, so that ``--help`` is instant.
"""

from .generation import LARGEST_SEED, GenerationConfig, as_dict
from .magnet import MAGNET_PRESETS, CompareConfig, MagnetConfig
from .segmentation import EvaluateConfig, GroupConfig, SegmentConfig
from .single_image import AnalyzeConfig, ExploreConfig, MapsConfig, PCAConfig
from .studies import AgreementConfig, BudgetConfig, ExpertConfig, GuideConfig, PerturbConfig, ValueNormsConfig

__all__ = [
    "LARGEST_SEED",
    "MAGNET_PRESETS",
    "AgreementConfig",
    "AnalyzeConfig",
    "BudgetConfig",
    "CompareConfig",
    "EvaluateConfig",
    "ExpertConfig",
    "ExploreConfig",
    "GenerationConfig",
    "GroupConfig",
    "GuideConfig",
    "MagnetConfig",
    "MapsConfig",
    "PCAConfig",
    "PerturbConfig",
    "SegmentConfig",
    "ValueNormsConfig",
    "as_dict",
]
