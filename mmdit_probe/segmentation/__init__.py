"""Masks from attention: images in, label maps out."""

from ..readouts.maps import I2TScores, RefinedI2T
from .kl_merge import merge_by_kl, region_maps, scale_pixels, symmetric_kl
from .result import Segmentation
from .segmenters import OpenVocabularySegmenter, UnsupervisedSegmenter

__all__ = [
    "I2TScores",
    "OpenVocabularySegmenter",
    "RefinedI2T",
    "Segmentation",
    "UnsupervisedSegmenter",
    "merge_by_kl",
    "region_maps",
    "scale_pixels",
    "symmetric_kl",
]
