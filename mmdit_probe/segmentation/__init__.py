"""Masks from attention, and how good they are."""

from .unsupervised import merge_by_kl, region_maps, scale_pixels, symmetric_kl

__all__ = ["merge_by_kl", "region_maps", "scale_pixels", "symmetric_kl"]
