"""Readouts: each observes a `JointAttention` and reduces it to named fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import OverImageRows, OverTextColumns, OverTextRows, Readout, Reduction, read
from .concepts import ConceptMaps
from .contributions import Contributions
from .correspondence import Correspondence
from .fields import Axis, Field, Fields
from .head_groups import HeadGroupMaps
from .head_stats import HeadStats
from .image_queries import I2IMaps
from .key_mass import KeyMass
from .kind_mass import KindMass
from .maps import I2TMaps, I2TScores, RefinedI2T, T2IMaps
from .output_similarity import OutputMaps
from .pair_maps import PairMaps
from .reference_maps import I2RMaps, R2IMaps, R2TMaps, T2RMaps
from .region_mass import RegionMass
from .text_to_text import T2TMaps
from .value_norms import ValueNorms
from .word_maps import WordMaps

if TYPE_CHECKING:
    from .feature_pca import FeaturePCA


def __getattr__(name: str) -> Any:
    """`FeaturePCA` on first use: it alone needs scikit-learn."""
    if name == "FeaturePCA":
        from .feature_pca import FeaturePCA

        return FeaturePCA
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Axis",
    "ConceptMaps",
    "Contributions",
    "Correspondence",
    "FeaturePCA",
    "Field",
    "Fields",
    "HeadGroupMaps",
    "HeadStats",
    "I2IMaps",
    "I2RMaps",
    "I2TMaps",
    "I2TScores",
    "KeyMass",
    "KindMass",
    "OutputMaps",
    "OverImageRows",
    "OverTextColumns",
    "OverTextRows",
    "PairMaps",
    "R2IMaps",
    "R2TMaps",
    "Readout",
    "Reduction",
    "RefinedI2T",
    "RegionMass",
    "T2IMaps",
    "T2RMaps",
    "T2TMaps",
    "ValueNorms",
    "WordMaps",
    "read",
]
