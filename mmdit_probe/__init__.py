"""mmdit-probe: see and change what the joint attention of multi-modal diffusion transformers does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lazy_loader

if TYPE_CHECKING:
    from .attention import Extra as Extra
    from .attention import JointAttention as JointAttention
    from .attention import Region as Region
    from .attention import TokenLayout as TokenLayout
    from .edits import Bias as Bias
    from .edits import BlockEdit as BlockEdit
    from .edits import BlurGrid as BlurGrid
    from .edits import BlurText as BlurText
    from .edits import Bypass as Bypass
    from .edits import Edit as Edit
    from .edits import GroupKeys as GroupKeys
    from .edits import HeadScale as HeadScale
    from .edits import Knockout as Knockout
    from .edits import Patch as Patch
    from .edits import Regions as Regions
    from .edits import RemoveKeys as RemoveKeys
    from .edits import Scale as Scale
    from .edits import ScaleText as ScaleText
    from .edits import SelfAttend as SelfAttend
    from .edits import States as States
    from .edits import Uniform as Uniform
    from .explorer import explore as explore
    from .pipelines import load_pipeline as load_pipeline
    from .probe import AttentionLoss as AttentionLoss
    from .probe import Probe as Probe
    from .probe import record_states as record_states
    from .readouts import ConceptMaps as ConceptMaps
    from .readouts import Contributions as Contributions
    from .readouts import Correspondence as Correspondence
    from .readouts import FeaturePCA as FeaturePCA
    from .readouts import Field as Field
    from .readouts import HeadGroupMaps as HeadGroupMaps
    from .readouts import HeadStats as HeadStats
    from .readouts import I2IMaps as I2IMaps
    from .readouts import I2RMaps as I2RMaps
    from .readouts import I2TMaps as I2TMaps
    from .readouts import KeyMass as KeyMass
    from .readouts import KindMass as KindMass
    from .readouts import OutputMaps as OutputMaps
    from .readouts import PairMaps as PairMaps
    from .readouts import R2IMaps as R2IMaps
    from .readouts import R2TMaps as R2TMaps
    from .readouts import Readout as Readout
    from .readouts import RegionMass as RegionMass
    from .readouts import T2IMaps as T2IMaps
    from .readouts import T2RMaps as T2RMaps
    from .readouts import T2TMaps as T2TMaps
    from .readouts import ValueNorms as ValueNorms
    from .readouts import WordMaps as WordMaps
    from .segmentation import OpenVocabularySegmenter as OpenVocabularySegmenter
    from .segmentation import Segmentation as Segmentation
    from .segmentation import UnsupervisedSegmenter as UnsupervisedSegmenter
    from .segmentation import merge_by_kl as merge_by_kl
    from .storage.records import load_record as load_record
    from .storage.records import save_record as save_record
    from .tracing import read_image as read_image
    from .tracing import trace as trace

__version__: str

# imported on first use, so that `mmdit-probe --help` need not wait for torch
_exported, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attention": ["Extra", "JointAttention", "Region", "TokenLayout"],
        "edits": [
            "Bias",
            "BlockEdit",
            "BlurGrid",
            "BlurText",
            "Bypass",
            "Edit",
            "GroupKeys",
            "HeadScale",
            "Knockout",
            "Patch",
            "Regions",
            "RemoveKeys",
            "Scale",
            "ScaleText",
            "SelfAttend",
            "States",
            "Uniform",
        ],
        "explorer": ["explore"],
        "pipelines": ["load_pipeline"],
        "probe": ["AttentionLoss", "Probe", "record_states"],
        "readouts": [
            "ConceptMaps",
            "Contributions",
            "Correspondence",
            "FeaturePCA",
            "Field",
            "HeadGroupMaps",
            "HeadStats",
            "I2IMaps",
            "I2RMaps",
            "I2TMaps",
            "KeyMass",
            "KindMass",
            "OutputMaps",
            "PairMaps",
            "R2IMaps",
            "R2TMaps",
            "Readout",
            "RegionMass",
            "T2IMaps",
            "T2RMaps",
            "T2TMaps",
            "ValueNorms",
            "WordMaps",
        ],
        "segmentation": ["OpenVocabularySegmenter", "Segmentation", "UnsupervisedSegmenter", "merge_by_kl"],
        "storage.records": ["load_record", "save_record"],
        "tracing": ["read_image", "trace"],
    },
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mmdit-probe")
    return _exported(name)
