"""mmdit-probe: see and change what the joint attention of multi-modal diffusion transformers does."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .attention import Extra as Extra
    from .attention import JointAttention as JointAttention
    from .attention import Region as Region
    from .attention import TokenLayout as TokenLayout
    from .edits import BlurGrid as BlurGrid
    from .edits import BlurText as BlurText
    from .edits import Edit as Edit
    from .edits import Knockout as Knockout
    from .edits import Scale as Scale
    from .edits import Uniform as Uniform
    from .explorer import explore as explore
    from .pipelines import load_pipeline as load_pipeline
    from .probe import Probe as Probe
    from .readouts import FeaturePCA as FeaturePCA
    from .readouts import Field as Field
    from .readouts import HeadGroupMaps as HeadGroupMaps
    from .readouts import HeadStats as HeadStats
    from .readouts import I2RMaps as I2RMaps
    from .readouts import I2TMaps as I2TMaps
    from .readouts import R2IMaps as R2IMaps
    from .readouts import R2TMaps as R2TMaps
    from .readouts import Readout as Readout
    from .readouts import RegionMass as RegionMass
    from .readouts import T2IMaps as T2IMaps
    from .readouts import T2RMaps as T2RMaps
    from .readouts import ValueNorms as ValueNorms
    from .readouts import WordMaps as WordMaps
    from .segmentation import OpenVocabularySegmenter as OpenVocabularySegmenter
    from .segmentation import Segmentation as Segmentation
    from .segmentation import UnsupervisedSegmenter as UnsupervisedSegmenter
    from .segmentation import merge_by_kl as merge_by_kl
    from .storage.records import load_record as load_record
    from .storage.records import save_record as save_record

__version__ = version("mmdit-probe")

# imported on first use, so that `mmdit-probe --help` need not wait for torch
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attention": ["Extra", "JointAttention", "Region", "TokenLayout"],
        "edits": ["BlurGrid", "BlurText", "Edit", "Knockout", "Scale", "Uniform"],
        "explorer": ["explore"],
        "pipelines": ["load_pipeline"],
        "probe": ["Probe"],
        "readouts": [
            "FeaturePCA",
            "Field",
            "HeadGroupMaps",
            "HeadStats",
            "I2RMaps",
            "I2TMaps",
            "R2IMaps",
            "R2TMaps",
            "Readout",
            "RegionMass",
            "T2IMaps",
            "T2RMaps",
            "ValueNorms",
            "WordMaps",
        ],
        "segmentation": ["OpenVocabularySegmenter", "Segmentation", "UnsupervisedSegmenter", "merge_by_kl"],
        "storage.records": ["load_record", "save_record"],
    },
)
