"""What a baseline's published figures were measured otherwise than ours: a note for each cell of the paper's tables."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """What ``method`` does otherwise on the data sets whose names start with one of ``datasets``."""

    method: str
    note: str
    datasets: tuple[str, ...] = ("",)


_SENTENCES = "theirs has ImageNet's 80 sentences around class names, ours its own"
_BACKGROUND = ("voc21", "coco-object-background")
_DIFFERENCES = (
    Difference("diffsegmenter", "theirs has a caption by BLIP in the prompt, ours none"),
    Difference("iseg", "theirs takes the classes that a tagger finds, ours those of the image's labels"),
    Difference("proxyclip", _SENTENCES),
    Difference("corrclip", _SENTENCES),
    Difference("diffseg", "theirs is scored at 512 px, ours at the image's own size"),
    Difference("diffseg", "theirs has 2,175 images of val2017, ours all 5,000", ("coco",)),
    Difference("diffcut", "theirs is scored at 128 px, ours at the image's own size"),
    Difference(
        "diffcut", "theirs makes one background of clusters without a class, ours matches one to one", _BACKGROUND
    ),
)


def differences(method: str, dataset: str) -> tuple[str, ...]:
    """Notes on a baseline's figures on a data set, none if nothing is known to be measured otherwise."""
    notes = [row.note for row in _DIFFERENCES if row.method == method and dataset.startswith(row.datasets)]
    if method in ("diffseg", "diffcut") and dataset == "cityscapes":
        notes.append("theirs has 27 classes (cityscapes-27), ours 19")
    return tuple(notes)
