"""mmdit-probe: see and change what the joint attention of multi-modal diffusion transformers does."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import JointAttention
    from .edits import BlurGrid, BlurText, Edit, Knockout, Scale, Uniform
    from .explorer import explore
    from .feature_pca import FeaturePCA
    from .head_groups import HeadGroupMaps
    from .head_stats import HeadStats
    from .layout import Extra, Region, TokenLayout
    from .pipelines import load_pipeline
    from .probe import Probe
    from .readouts import Field, I2TMaps, Readout, RegionMass, T2IMaps, ValueNorms
    from .records import load_record, save_record
    from .segmentation import OpenVocabularySegmenter, Segmentation, UnsupervisedSegmenter, merge_by_kl
    from .word_maps import WordMaps

_HOMES = {
    "JointAttention": "attention",
    "BlurGrid": "edits",
    "BlurText": "edits",
    "Edit": "edits",
    "Extra": "layout",
    "Knockout": "edits",
    "Scale": "edits",
    "Uniform": "edits",
    "explore": "explorer",
    "FeaturePCA": "feature_pca",
    "HeadGroupMaps": "head_groups",
    "HeadStats": "head_stats",
    "Region": "layout",
    "TokenLayout": "layout",
    "load_pipeline": "pipelines",
    "Probe": "probe",
    "Field": "readouts",
    "I2TMaps": "readouts",
    "Readout": "readouts",
    "RegionMass": "readouts",
    "T2IMaps": "readouts",
    "ValueNorms": "readouts",
    "load_record": "records",
    "OpenVocabularySegmenter": "segmentation",
    "Segmentation": "segmentation",
    "UnsupervisedSegmenter": "segmentation",
    "merge_by_kl": "segmentation",
    "WordMaps": "word_maps",
    "save_record": "records",
}
__version__ = version("mmdit-probe")


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``mmdit-probe --help`` need not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'mmdit_probe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


__all__ = [
    "BlurGrid",
    "BlurText",
    "Edit",
    "Extra",
    "FeaturePCA",
    "Field",
    "HeadGroupMaps",
    "HeadStats",
    "I2TMaps",
    "JointAttention",
    "Knockout",
    "OpenVocabularySegmenter",
    "Probe",
    "Readout",
    "Region",
    "RegionMass",
    "Scale",
    "Segmentation",
    "T2IMaps",
    "TokenLayout",
    "Uniform",
    "UnsupervisedSegmenter",
    "ValueNorms",
    "WordMaps",
    "explore",
    "load_pipeline",
    "load_record",
    "merge_by_kl",
    "save_record",
]
