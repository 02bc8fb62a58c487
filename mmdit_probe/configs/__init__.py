"""The one place for each study's defaults: plain frozen dataclasses, read by the command line, analyses and notebooks.

Nothing here imports PyTorch, so that ``--help`` is instant.
"""

from .correspondence import CorrespondenceConfig
from .generation import GenerationConfig, ImageConfig, PromptConfig, SamplingConfig
from .interventions import BindConfig, FindHeadsConfig, PatchConfig
from .layers import Layers
from .leakage import LeakageConfig
from .magnet import MAGNET_PRESETS, CompareConfig, MagnetConfig
from .model import EMBEDDED, EMBEDDED_MODELS, ModelConfig
from .segmentation import (
    BaselineConfig,
    BatchConfig,
    DatasetConfig,
    EvaluateConfig,
    GroupConfig,
    OneLayerConfig,
    SegmentConfig,
    ThresholdConfig,
)
from .serve import ServeConfig
from .setting import LARGEST_SEED, Setting, Settings, as_dict
from .single_image import AnalyzeConfig, ExploreConfig, MapsConfig, PCAConfig, ReportConfig, SeveralConfig
from .studies import (
    AgreementConfig,
    BudgetConfig,
    ExpertConfig,
    GuideConfig,
    MetricConfig,
    NeglectConfig,
    PerturbConfig,
    SinksConfig,
    ValueNormsConfig,
)
from .timesteps import PAPER_STEPS, Timesteps, scaled_timesteps

__all__ = [
    "EMBEDDED",
    "EMBEDDED_MODELS",
    "LARGEST_SEED",
    "MAGNET_PRESETS",
    "PAPER_STEPS",
    "AgreementConfig",
    "AnalyzeConfig",
    "BaselineConfig",
    "BatchConfig",
    "BindConfig",
    "BudgetConfig",
    "CompareConfig",
    "CorrespondenceConfig",
    "DatasetConfig",
    "EvaluateConfig",
    "ExpertConfig",
    "ExploreConfig",
    "FindHeadsConfig",
    "GenerationConfig",
    "GroupConfig",
    "GuideConfig",
    "ImageConfig",
    "Layers",
    "LeakageConfig",
    "MagnetConfig",
    "MapsConfig",
    "MetricConfig",
    "ModelConfig",
    "NeglectConfig",
    "OneLayerConfig",
    "PCAConfig",
    "PatchConfig",
    "PerturbConfig",
    "PromptConfig",
    "ReportConfig",
    "SamplingConfig",
    "SegmentConfig",
    "ServeConfig",
    "Setting",
    "Settings",
    "SeveralConfig",
    "SinksConfig",
    "ThresholdConfig",
    "Timesteps",
    "ValueNormsConfig",
    "as_dict",
    "scaled_timesteps",
]
