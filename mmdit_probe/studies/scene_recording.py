"""Recording a scene, whose label map is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from ..configs import GenerationConfig
from ..datasets.scenes import Scene
from ..families import Pipeline
from ..pipelines.image_size import native_size, token_pixels
from ..readouts.base import Readout
from ..readouts.feature_pca import token_labels
from ..storage.images import fitted
from .recording import Recording, record_image


def record_scene(
    pipe: Pipeline,
    drawn: Scene,
    prompt: str,
    readouts: Callable[[np.ndarray], Sequence[Readout]],
    timesteps: tuple[int, ...],
    generation: GenerationConfig,
    layers: Collection[int] | None = None,
) -> Recording:
    """`record_image` of a scene at the model's own size.

    ``readouts`` makes the readouts from the class number of each image token, (rows, cols).
    """
    side = token_pixels(pipe)
    image = fitted(drawn.image, side, native_size(pipe))
    labels = token_labels(drawn.labels, (image.shape[0] // side, image.shape[1] // side))
    return record_image(pipe, image, prompt, readouts(labels), timesteps, generation, layers)
