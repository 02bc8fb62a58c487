"""FeaturePCA: do the tokens' queries, keys and values vary with position, or with meaning?"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from sklearn.decomposition import PCA

from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from ..attention.text_tokens import Kind
from ..configs.single_image import Stream
from .base import Readout
from .fields import Axis, Field, Fields

Feature = Literal["query", "key", "value"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
FEATURE = Axis("feature", FEATURES, "vectors that are decomposed, heads side by side")
COMPONENTS = 3
_EXACT = 512
"""Up to so many features or tokens all components are computed; beyond, ARPACK finds the leading ones."""


class FeaturePCA(Readout):
    """Principal components of the tokens' features, heads side by side (Seg4Diff, Fig. 3), layer by layer.

    Features are query, key and value as the kernel sees them, after norms and rotary embeddings. Of the image tokens
    (``stream`` "image" or "both"):

    - ``pca`` (batch, feature, component, row, col): the tokens' coordinates on the first 3 components, in the features'
      own units; signs are chosen so that the largest coordinate is positive and runs agree.
    - ``pca_variance`` (batch, feature, component): share of the variance that a component explains, in [0, 1].
    - ``position_r2`` (batch, feature): share of the variance explained by the token's position, with a mean for each
      row and each column.
    - ``class_r2`` (batch, feature): share of the variance explained by the token's class; NaN without ``labels``.

    Both R^2 are adjusted for the number of means fitted: 1 if nothing else matters, about 0 (or slightly below) for
    noise.

    Of the text tokens ("text" or "both"), with components of their own:

    - ``text_pca`` (batch, feature, component, token), NaN for tokens left out.
    - ``text_pca_variance`` (batch, feature, component); 0 for components that so few tokens do not have.

    Args:
        labels: (rows, cols) class number of each image token, negative if unknown; see `token_labels`.
        stream: which tokens to decompose.
        padding: include padding and the positions of an absent text encoder, which can outnumber the words. If the
            kinds of tokens are unknown, all are included.

    >>> from mmdit_probe import FeaturePCA, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [FeaturePCA()], layers=[7], steps=[0]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> record = probe.dataset("conditional")
    >>> list(record.data_vars), record["feature"].values.tolist()
    (['pca', 'pca_variance', 'position_r2', 'class_r2'], ['query', 'key', 'value'])
    """

    def __init__(self, labels: np.ndarray | None = None, stream: Stream = "image", padding: bool = False) -> None:
        if stream not in get_args(Stream):
            raise ValueError(f"FeaturePCA: stream must be one of {', '.join(get_args(Stream))}, got {stream!r}")
        self.labels, self.stream, self.padding = labels, stream, padding

    def __repr__(self) -> str:
        labels = "given" if self.labels is not None else None
        return f"FeaturePCA(labels={labels}, stream={self.stream!r}, padding={self.padding})"

    def measure(self, attention: JointAttention) -> Fields:
        fields = self._image(attention) if self.stream != "text" else {}
        return fields | self._text(attention) if self.stream != "image" else fields

    def _image(self, attention: JointAttention) -> Fields:
        grid = attention.layout.grid
        if self.labels is not None and self.labels.shape != grid[-2:]:
            raise ValueError(
                f"FeaturePCA: labels are {self.labels.shape}, the token grid is {grid[-2:]}; use token_labels"
            )
        maps = np.full((attention.batch, len(FEATURES), COMPONENTS, *grid), np.nan)
        variance = np.full((attention.batch, len(FEATURES), COMPONENTS), np.nan)
        r2 = np.full((attention.batch, len(FEATURES), 2), np.nan)
        for number, name in enumerate(FEATURES):
            for row in range(attention.batch):
                features = image_features(attention, name, row)
                if features is not None:
                    maps[row, number], variance[row, number] = _on_grid(features, grid)
                    r2[row, number] = position_r2(features, grid), self._class_r2(features, grid)
        dims = ("batch", "feature")
        on_grid = (*dims, "component", *attention.layout.grid_dims)
        return {
            "pca": _field(on_grid, maps, "coordinate of the image token on the component, in the model's own units"),
            "pca_variance": _field((*dims, "component"), variance, "share of the variance that the component explains"),
            "position_r2": _field(dims, r2[..., 0], "adjusted R^2 of the image tokens' row and column"),
            "class_r2": _field(dims, r2[..., 1], "adjusted R^2 of the image tokens' class"),
        }

    def _text(self, attention: JointAttention) -> Fields:
        values = np.full((attention.batch, len(FEATURES), COMPONENTS, attention.layout.text), np.nan)
        variance = np.full((attention.batch, len(FEATURES), COMPONENTS), np.nan)
        for row in range(attention.batch):
            kept = self._kept(attention, row)
            for number, name in enumerate(FEATURES):
                features = text_features(attention, name, row)
                if features is not None and kept.any():
                    found, variance[row, number] = _few_components(features[kept])
                    values[row, number][:, kept] = found.T
        dims = ("batch", "feature", "component")
        meaning = "coordinate of the text token on the component, in the model's own units"
        return {
            "text_pca": _field((*dims, "token"), values, meaning),
            "text_pca_variance": _field(dims, variance, "share of the variance that the component explains"),
        }

    def _kept(self, attention: JointAttention, row: int) -> np.ndarray:
        """(text,): True at the text tokens to decompose."""
        if self.padding or attention.text is None:
            return np.ones(attention.layout.text, bool)
        return ~np.isin(attention.text.kinds[row].astype(str), [str(Kind.PADDING), str(Kind.ABSENT)])

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        """Coordinates and explained shares for each stream, and the two R^2 of the image."""
        image = COMPONENTS * (layout.image + 1) + 2 if self.stream != "text" else 0
        text = COMPONENTS * (layout.text + 1) if self.stream != "image" else 0
        return len(FEATURES) * (image + text)

    def _class_r2(self, features: np.ndarray, grid: tuple[int, ...]) -> float:
        if self.labels is None:
            return math.nan
        return class_r2(features, np.broadcast_to(self.labels, grid).ravel())


def _field(dims: tuple[str, ...], values: np.ndarray, long_name: str) -> Field:
    return Field(dims, torch.from_numpy(values), long_name, axes=(FEATURE,))


def image_features(attention: JointAttention, name: Feature, row: int) -> np.ndarray | None:
    """(image tokens, heads x width) of one batch row; None for keys and values in plain cross-attention."""
    layout = attention.layout
    return _features(attention, name, row, layout.image_queries if name == "query" else layout.image_keys)


def text_features(attention: JointAttention, name: Feature, row: int) -> np.ndarray | None:
    """(text tokens, heads x width) of one batch row; None for queries if text does not attend in this model."""
    layout = attention.layout
    return _features(attention, name, row, layout.text_queries if name == "query" else layout.text_keys)


def _features(attention: JointAttention, name: Feature, row: int, tokens: slice) -> np.ndarray | None:
    chosen = getattr(attention, name)[row][:, tokens]
    if chosen.shape[1] == 0:
        return None
    return chosen.detach().transpose(0, 1).flatten(1).float().cpu().double().numpy()


def principal_components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (tokens, 3) and explained variance ratios (3,) of features (tokens, width)."""
    if min(features.shape) <= COMPONENTS:
        raise ValueError(f"FeaturePCA: needs more than {COMPONENTS} tokens and features, got {features.shape}")
    return _components(features, COMPONENTS)


def _few_components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `principal_components` for any number of tokens: 0 on components that so few tokens do not have."""
    coordinates, ratios = np.zeros((len(features), COMPONENTS)), np.zeros(COMPONENTS)
    number = min(COMPONENTS, len(features) - 1, features.shape[1])
    if number and np.ptp(features, axis=0).max() > 0:
        coordinates[:, :number], ratios[:number] = _components(features, number)
    return coordinates, ratios


def _components(features: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    solver = "full" if min(features.shape) <= _EXACT else "arpack"
    pca = PCA(number, svd_solver=solver, random_state=0)
    coordinates = pca.fit_transform(features)
    largest = coordinates[np.abs(coordinates).argmax(0), np.arange(number)]
    return coordinates * np.where(largest < 0, -1, 1), pca.explained_variance_ratio_


def _on_grid(features: np.ndarray, grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    if np.ptp(features, axis=0).max() == 0:  # all tokens are equal: nothing varies
        return np.zeros((COMPONENTS, *grid)), np.zeros(COMPONENTS)
    coordinates, ratios = principal_components(features)
    return coordinates.T.reshape(COMPONENTS, *grid), ratios


def position_r2(features: np.ndarray, grid: tuple[int, ...]) -> float:
    """Adjusted R^2 of features (tokens, width), explained by an additive mean for each row, column and frame."""
    places = np.indices(grid).reshape(len(grid), -1)
    explained = sum(_between(features, axis) for axis in places)  # on a full grid the axes' shares add up
    return _adjusted(float(explained), features, sum(size - 1 for size in grid))


def class_r2(features: np.ndarray, labels: np.ndarray) -> float:
    """Adjusted R^2 of features (tokens, width), explained by a mean for each class; NaN with fewer than two classes.

    Tokens with negative labels are ignored.
    """
    known = labels >= 0
    features, labels = features[known], labels[known]
    classes = len(np.unique(labels))
    return _adjusted(_between(features, labels), features, classes - 1) if classes > 1 else math.nan


def _between(features: np.ndarray, groups: np.ndarray) -> float:
    """Sum of squares between groups."""
    center = features.mean(0)
    members = [features[groups == group] for group in np.unique(groups)]
    return float(sum(len(m) * np.square(m.mean(0) - center).sum() for m in members))


def _adjusted(explained: float, features: np.ndarray, fitted: int) -> float:
    total, free = float(np.square(features - features.mean(0)).sum()), len(features) - 1 - fitted
    if total == 0 or free <= 0:
        return math.nan
    return 1 - (1 - explained / total) * (len(features) - 1) / free


def token_labels(labels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The most frequent class of each token's pixels, (rows, cols), from a label map (height, width) of class numbers."""
    height, width = labels.shape
    rows, cols = np.arange(height) * grid[0] // height, np.arange(width) * grid[1] // width
    token = rows[:, None] * grid[1] + cols
    counts = np.zeros((grid[0] * grid[1], int(labels.max()) + 1), np.int64)
    np.add.at(counts, (token.ravel(), labels.ravel()), 1)
    return counts.argmax(1).reshape(grid)
