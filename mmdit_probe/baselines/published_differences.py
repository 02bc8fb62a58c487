"""How a baseline's published protocol differs from ours, one note for each cell of the paper's tables.

The paper's tables quote each baseline's own publication. Where that one used other prompts, image sizes, classes or ways of
matching than `run_evaluation`, its figure and ours are not comparable directly; these notes say how.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """One difference.

    Attributes:
        method: the baseline.
        note: how the published protocol ("theirs") and ours differ.
        datasets: beginnings of the names of the data sets that it applies to; by default all.
    """

    method: str
    note: str
    datasets: tuple[str, ...] = ("",)


_SENTENCES = "theirs puts class names into ImageNet's 80 sentences, ours into its own"
_TAGGER = "theirs offers the classes that a tagger finds, ours those of the image's labels"
_DIFFERENCES = (
    Difference("diffsegmenter", _TAGGER),
    Difference("diffsegmenter", "theirs adds a caption by BLIP to the prompt, ours none"),
    Difference("iseg", _TAGGER),
    Difference("proxyclip", _SENTENCES),
    Difference("corrclip", _SENTENCES),
    Difference("diffseg", "theirs is evaluated at 512 px, ours at the image's own size"),
    Difference("diffseg", "theirs uses 2,175 images of val2017, ours all 5,000", ("coco",)),
    Difference("diffcut", "theirs is evaluated at 128 px, ours at the image's own size"),
    Difference("diffcut", "theirs counts background as a 60th class, ours ignores it", ("context",)),
)


def differences(method: str, dataset: str) -> tuple[str, ...]:
    """How a baseline's published protocol on a data set differs from ours, in notes; none if no difference is known."""
    notes = [row.note for row in _DIFFERENCES if row.method == method and dataset.startswith(row.datasets)]
    if method in ("diffseg", "diffcut") and dataset == "cityscapes":
        notes.append("theirs has 27 classes (cityscapes-27), ours 19")
    return tuple(notes)
