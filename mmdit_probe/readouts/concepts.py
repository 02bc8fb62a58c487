"""ConceptMaps: maps of words that are not in the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from ..utils.text import checked_once, checked_text
from .base import Readout
from .fields import Axis, Field, Fields
from .output_similarity import Similarity, check_similarity, joined_outputs, similarities


class ConceptMaps(Readout):
    """``concept_map`` (batch, concept, row, col): where the image resembles concepts that the prompt need not name.

    After ConceptAttention (arXiv 2502.04320). Each concept is encoded as a prompt of its own, and the embeddings of all its
    tokens ride along in the text stream through every block, with the text's weights: they attend to the image and to each
    other, and nobody attends to them. The blocks' own pass runs untouched, by the same kernel: the image is the same bit for
    bit. A map is the similarity, in the attention's output before its projection, of image tokens and the mean of the
    concept's tokens; ConceptAttention then takes the softmax over the concepts.

    Every block up to the last layer read runs twice. Works for Stable Diffusion 3 and 3.5 and Flux.1, any image size,
    generated and given images. In layers that edits change, concepts see the edited image, and are themselves not edited.

    Args:
        concepts: words or phrases, each once. Concepts attend to one another: the maps of one depend, a little, on the others.
        similarity: "cosine", in [-1, 1], or "dot", the dot product in the model's own units.

    Raises:
        ValueError: there is no concept or one is empty or given twice; in the probe, if the model's blocks do not take the
            text apart, or its pipeline is unknown.

    >>> from mmdit_probe import ConceptMaps, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [ConceptMaps(["circle", "grass", "lava"])], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent", max_sequence_length=0)
    >>> maps = probe.dataset("conditional")["concept_map"].isel(call=0, batch=0, layer=0)
    >>> dict(maps.sizes), maps["concept"].values.tolist()
    ({'concept': 3, 'row': 8, 'col': 8}, ['circle', 'grass', 'lava'])
    """

    reads_block = True

    def __init__(self, concepts: Sequence[str], similarity: Similarity = "cosine") -> None:
        check_similarity("ConceptMaps", similarity)
        if isinstance(concepts, str) or not concepts:
            raise ValueError("ConceptMaps: give at least one concept in a list, such as ['dog', 'grass']")
        self.concepts = checked_once("concept", [checked_text("concept", name) for name in concepts])
        self.similarity: Similarity = similarity

    def measure(self, attention: JointAttention) -> Fields:
        layout, around = attention.layout, attention.around
        shape = (attention.batch, len(self.concepts), *layout.grid)
        maps = attention.query.new_full(shape, torch.nan, dtype=torch.float32)
        if around.concepts is not None:
            spans = [around.concept_spans[around.concept_names.index(name)] for name in self.concepts]
            concepts = torch.stack([around.concepts[:, list(span)].mean(1) for span in spans], 1)
            image = joined_outputs(attention, layout.image_queries)
            found = similarities(image.float(), concepts.float(), self.similarity)
            maps = found.transpose(-1, -2).unflatten(-1, layout.grid)
        name = f"{self.similarity} similarity of the image token's and the concept's attention output"
        axis = Axis("concept", self.concepts, "word or phrase that rides along in the text stream")
        return {"concept_map": Field(("batch", "concept", *layout.grid_dims), maps, name, axes=(axis,))}

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return len(self.concepts) * layout.image
