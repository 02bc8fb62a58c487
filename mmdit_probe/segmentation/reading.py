"""Other readings than one layer's I2T: T2I, outputs, concepts, contributions; and layers put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..attention.text_tokens import Kind
from ..configs.reading import WEIGHTS, Read, check_aggregate
from ..families import Pipeline
from ..pipelines.forward import PromptEmbeddings, forward_noisy
from ..probe.probe import Probe
from ..readouts.base import Readout
from ..readouts.concepts import ConceptMaps
from ..readouts.contributions import Contributions
from ..readouts.fields import Fields
from ..readouts.goca import AttentionFeatures, HeadWeightedI2T, ReferenceAgreement
from ..readouts.maps import I2TMaps, T2IMaps
from ..readouts.output_similarity import OutputMaps
from .class_prompts import ClassPrompt
from .label_map import class_maps
from .layer_weights import read_weights
from .map_reader import MapReader

AGGREGATED = -1
"""The layer's number where several layers have been put together."""


class Reading(NamedTuple):
    """What is read, and how layers and heads are put together; see `configs.reading`."""

    read: Read = "i2t"
    aggregate: str = "layer"

    @property
    def plain(self) -> bool:
        """Whether it is Seg4Diff's own: I2T of each layer alone."""
        return self == Reading()

    def checked(self) -> Reading:
        """Itself; `ValueError` if the two do not go together."""
        check_aggregate(self.aggregate)
        if self.aggregate == "goca" and self.read != "i2t":
            raise ValueError(
                f"aggregate goca weights the heads of i2t; leave read {self.read} out, or take aggregate mean"
            )
        return self


class ReadingReader(MapReader):
    """Class maps by another `Reading`; one "layer", `AGGREGATED`, if layers are put together.

    - ``mean`` is the mean of the layers' maps, ``weights:FILE`` their weighted mean, also over heads.
    - ``goca`` weights heads at each pixel (`HeadWeightedI2T`) and layers by their agreement with a reference layer, the one in
      the middle (`ReferenceAgreement`), and divides each pixel's maps by their sum over start, end and padding tokens there.
      GoCA then blurs the maps and scales each class to its own range, which is left out (``normalize probs-minmax`` is the
      scaling).
    - concepts and contributions are read image by image; concepts ride along with an empty prompt.
    """

    def __init__(
        self, pipe: Pipeline, reading: Reading, layers: Sequence[int] | None, timesteps: Sequence[int], **options: Any
    ) -> None:
        self.reading = reading.checked()
        super().__init__(pipe, _readout(reading, "mean"), layers, timesteps, **options)
        self.read_layers, self.weights = self.layers, None
        if reading.aggregate.startswith(WEIGHTS):
            self.weights = read_weights(Path(reading.aggregate.removeprefix(WEIGHTS)), self.read_layers)
            if self.weights.ndim == 2:
                if reading.read not in ("i2t", "t2i"):
                    raise ValueError(
                        f"weights of heads are for i2t and t2i, not for read {reading.read}; leave head out"
                    )
                self.probe = self._probe(_readout(reading, "all"))
        if reading.aggregate != "layer":
            self.layers = (AGGREGATED,)

    @property
    def name(self) -> str:
        """What is put together, in words."""
        how = (
            "weighted mean"
            if self.weights is not None
            else {"mean": "mean", "goca": "GoCA"}.get(self.reading.aggregate, "each")
        )
        return f"{how} of layers {', '.join(map(str, self.read_layers))}"

    @property
    def settings(self) -> dict[str, Any]:
        """What the maps depend on in addition to the command's settings."""
        return {} if self.weights is None else {"weights": self.weights.tolist()}

    def read_classes(self, latents: Tensor, prompts: Sequence[ClassPrompt]) -> list[Tensor]:
        if self.reading.read in ("concept", "contribution"):
            return [self._one_image(latents[number : number + 1], prompt) for number, prompt in enumerate(prompts)]
        features = self.features(tuple(prompt.prompt for prompt in prompts))
        maps = torch.cat([self._at(latents, sigma, features) for sigma in self.sigmas])
        return [class_maps(maps[:, number], prompt.spans) for number, prompt in enumerate(prompts)]

    def _at(self, latents: Tensor, sigma: float, features: PromptEmbeddings) -> Tensor:
        """(1, image, layer, row, col, token) at one noise level."""
        if self.reading.aggregate == "goca":
            return self._goca(latents, sigma, features)
        fields = self._fields(self.probe, latents, sigma, features)
        return self._together(fields[_FIELDS[self.reading.read]].values)

    def _together(self, maps: Tensor) -> Tensor:
        """Maps (call, image, layer, [head,] ...) with one layer, if they are to be put together."""
        if self.reading.aggregate == "layer":
            return maps
        if self.weights is None:
            return maps.mean(2, keepdim=True)
        if self.weights.ndim == 1:
            return torch.einsum("l,cil...->ci...", self.weights, maps)[:, :, None]
        if self.weights.shape[1] > maps.shape[3]:
            raise ValueError(f"weights name head {self.weights.shape[1] - 1}; the layers have {maps.shape[3]} heads")
        own = torch.nn.functional.pad(self.weights, (0, maps.shape[3] - self.weights.shape[1]))
        return torch.einsum("lh,cilh...->ci...", own, maps)[:, :, None]

    def _goca(self, latents: Tensor, sigma: float, features: PromptEmbeddings) -> Tensor:
        middle = self.read_layers[max(0, len(self.read_layers) // 2 - 1)]
        first = Probe(self.pipe, [AttentionFeatures()], layers=[middle], stop_early=True)
        reference = self._fields(first, latents, sigma, features)["features"].values[0, :, 0]
        second = self._probe(HeadWeightedI2T(), ReferenceAgreement(reference))
        fields = self._fields(second, latents, sigma, features)
        agreement = fields["agreement"].values.clamp(min=0)  # (call, image, layer)
        weights = agreement / agreement.sum(-1, keepdim=True)
        maps = torch.einsum("cil,cilrkt->cirkt", weights, fields["i2t"].values)[:, :, None]
        special = torch.from_numpy(features.text.kinds != Kind.WORD)[:, : maps.shape[-1]]
        share = (maps * special[None, :, None, None, None].to(maps)).sum(-1, keepdim=True)
        return maps / share.clamp(min=torch.finfo(maps.dtype).tiny)

    def _one_image(self, latents: Tensor, prompt: ClassPrompt) -> Tensor:
        """(timestep, layer, class, row, col) of one image."""
        concept = self.reading.read == "concept"
        readout = ConceptMaps(prompt.names) if concept else Contributions(prompt.spans)
        features, probe = self.features(("" if concept else prompt.prompt,)), self._probe(readout)
        maps = [
            self._fields(probe, latents, sigma, features)[_FIELDS[self.reading.read]].values for sigma in self.sigmas
        ]
        return self._together(torch.cat(maps))[:, 0]

    def _probe(self, *readouts: Readout) -> Probe:
        return Probe(self.pipe, readouts, layers=self.read_layers, stop_early=True)

    def _fields(self, probe: Probe, latents: Tensor, sigma: float, features: PromptEmbeddings) -> Fields:
        with torch.no_grad(), probe:
            forward_noisy(self.pipe, latents, sigma, features, self.seed, same_noise=True)
        return probe.fields()


_FIELDS = {"i2t": "i2t", "t2i": "t2i", "output": "output_map", "concept": "concept_map", "contribution": "contribution"}


def _readout(reading: Reading, heads: Any) -> Readout:
    """What all images of a batch are read by; concepts and contributions have one for each image."""
    if reading.read == "t2i":
        return T2IMaps(heads)
    return OutputMaps() if reading.read == "output" else I2TMaps(heads)
