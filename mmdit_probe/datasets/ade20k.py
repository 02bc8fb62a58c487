"""ADE20K, 150 classes, validation: images/validation and annotations/validation, 8-bit or 16-bit."""

from __future__ import annotations

from pathlib import Path

from .labeled import JPEG, LabeledImages, folder_of, image_and_labels, labeling, paired


def read_ade20k(root: Path) -> LabeledImages:
    """Read ADE20K; ``root`` is ADEChallengeData2016 or its parent folder. The label values 0 and 65535 are ignored."""
    name = "ade20k"
    images = folder_of(name, root, "images/validation", "ADEChallengeData2016/images/validation")
    maps = images.parent.parent / "annotations" / "validation"
    return paired(name, labeling(name), image_and_labels(images, maps, JPEG))
