"""What is done to a layer: the edits by name, and what each of them is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from .setting import METHOD, Setting, Settings, settings_of

EditName = Literal[
    "blur-text",
    "blur-grid",
    "uniform",
    "knockout",
    "scale",
    "bias",
    "regions",
    "self-attend",
    "remove-sinks",
    "remove-random",
    "head-scale",
    "group-keys",
    "patch",
    "bypass",
    "scale-text",
]
EdgeName = Literal["I2I", "I2T", "T2I", "T2T", "I2R", "T2R", "R2I", "R2T", "R2R"]
Padding = Literal["reflect", "symmetric"]
EditedBranch = Literal["conditional", "all"]
PatchedStates = Literal["output", "query", "key", "value", "block"]
Binding = Literal["soft", "hard"]

SIGMA = Setting("Width of the blur (standard deviation), in tokens.", METHOD, above=0)
KERNEL = Setting("Taps of the blur, an odd number.", METHOD, low=1)
BLUR_EDGE = Setting(
    "Ends of the blur: reflect is the paper's; symmetric keeps each query's text mass exactly.",
    flags=("--blur-edge",),
)
BINDING = Setting("soft adds to the scores of a place on its words; hard masks all others out of the softmax.")
WHAT = Setting(
    "What is written: the attention's output, its query, key or value, or the residual streams that blocks give on."
)
TOKENS = Setting("Where: all tokens, image, text, or a word of the source prompt, at its own positions.")

REGION_HELP = (
    'A word or phrase of the prompt and its place, as "red circle=0,0,0.5,1" (left, top, right, bottom in fractions) or '
    '"red circle=mask.png" (white is inside); repeatable.'
)

AMOUNTS: Mapping[str, float] = {
    "scale": 0.5,
    "bias": 2.0,
    "regions": 4.0,
    "self-attend": 1.0,
    "head-scale": 0.0,
    "group-keys": 0.0,
    "scale-text": 0.0,
}
"""The amount of each edit that has one, if none is given."""
_OWN: Mapping[str, tuple[str, ...]] = {
    "amount": tuple(AMOUNTS),
    "keys": ("remove-sinks", "remove-random"),
    "place": ("bias",),
    "region": ("regions",),
    "binding": ("regions",),
    "source": ("patch",),
    "what": ("patch",),
    "tokens": ("patch",),
}
"""Settings that some edits alone read."""


@dataclass(frozen=True, kw_only=True)
class EditConfig(Settings):
    """One edit, wherever it is applied.

    ``sigma``, ``kernel`` (None: 3 sigma to each side) and ``blur_edge`` belong to the blurs. `ValueError` if a setting is given
    that the edit does not read.
    """

    edit: Annotated[
        EditName,
        Setting("What is done to the layer; blur-text is the paper's. docs/howto/edits.md says what each does."),
    ] = "blur-text"
    amount: Annotated[
        float | None,
        Setting(
            "How much: self-attend's share, 0 to 1; the factor of scale, head-scale and scale-text; group-keys' delta; what bias "
            "and regions add to scores.",
            default="1 for self-attend, 0.5 for scale, 2 for bias, 4 for regions, 0 for the others",
        ),
    ] = None
    words: Annotated[
        tuple[str, ...],
        Setting(
            "Words of every prompt whose text tokens are edited, separated by commas; bias needs them, and the edits that do not "
            "choose text tokens refuse them.",
            commas=True,
            default="all text tokens",
        ),
    ] = ()
    place: Annotated[
        str | None,
        Setting(
            'bias: the part of the image, as "0,0,0.5,1" (left, top, right, bottom in fractions) or "mask.png" (white is inside).',
            flags=("--where",),
            default="the whole image",
        ),
    ] = None
    region: Annotated[
        tuple[str, ...],
        Setting(REGION_HELP, default="regions needs one"),
    ] = ()
    binding: Annotated[Binding, BINDING] = "soft"
    source: Annotated[
        str | None, Setting("patch: the prompt whose states are written, from the same noise.", flags=("--patch-from",))
    ] = None
    what: Annotated[PatchedStates, WHAT] = "output"
    tokens: Annotated[str, TOKENS] = "all"
    keys: Annotated[int, Setting("Keys that remove-sinks and remove-random take out.", METHOD, low=1)] = 1
    edge: Annotated[
        EdgeName,
        Setting(
            "Which queries' attention to which keys is changed: image (I), text (T), reference images (R). For knockout, uniform "
            "and scale; blur-text takes keys of text, blur-grid queries of the image or of a reference."
        ),
    ] = "I2T"
    references: Annotated[
        tuple[int, ...],
        Setting("Which reference images R means, from 1, separated by commas.", METHOD, low=1, default="all"),
    ] = ()
    sigma: Annotated[float, SIGMA] = 9.0
    kernel: Annotated[int | None, KERNEL] = 5
    blur_edge: Annotated[Padding, BLUR_EDGE] = "reflect"
    edit_branch: Annotated[
        EditedBranch,
        Setting(
            "Which predictions of classifier-free guidance are edited: the prompt's alone (conditional), or the negative "
            "prompt's too (all). The paper does not say which it took; the drops of Fig. 5 and 18 depend on it."
        ),
    ] = "conditional"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in settings_of(type(self)):
            edits = _OWN.get(field.name)
            if edits and self.edit not in edits and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} is read by {' and '.join(edits)} alone, not by {self.edit}")

    @property
    def chosen_amount(self) -> float:
        """The amount that is given, or the edit's own."""
        return AMOUNTS.get(self.edit, 0.0) if self.amount is None else self.amount
