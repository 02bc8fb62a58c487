"""Pipelines whose transformer or U-Net `torch.compile` has wrapped are read as they are without it."""

import models_baselines
import numpy as np
import pandas as pd
import pytest
import torch

from mmdit_probe import BlurText, OpenVocabularySegmenter, UnsupervisedSegmenter
from mmdit_probe.baselines.unet_reader import UNetReader
from mmdit_probe.configs import ExpertConfig, GenerationConfig
from mmdit_probe.datasets.scenes import scene
from mmdit_probe.families import denoiser_of, family_of, unet_places
from mmdit_probe.pipelines.defaults import model_defaults
from mmdit_probe.pipelines.loading import pipeline_of
from mmdit_probe.probe.guidance import PerturbedGuidance
from mmdit_probe.studies.expert_layer import find_expert

IMAGE, CLASSES = scene("val", 0).image, ["grass", "circle"]


@pytest.fixture
def compiled(random_pipe):
    random_pipe.transformer = torch.compile(random_pipe.transformer, backend="eager")
    return random_pipe


def inner(pipe):
    return pipe.transformer._orig_mod


def test_what_is_known_of_a_model_is_known_of_it_compiled(compiled):
    assert denoiser_of(compiled) is denoiser_of(compiled.transformer) is inner(compiled)
    assert family_of(compiled.transformer) is family_of(inner(compiled))
    assert pipeline_of(compiled.transformer) is compiled
    assert model_defaults(compiled).guidance_scale == 7.5


def test_masks_and_regions_of_a_compiled_model(compiled):
    found = OpenVocabularySegmenter(compiled, 1)(IMAGE, CLASSES), UnsupervisedSegmenter(compiled, 1)(IMAGE)
    compiled.transformer = inner(compiled)
    plain = OpenVocabularySegmenter(compiled, 1)(IMAGE, CLASSES), UnsupervisedSegmenter(compiled, 1)(IMAGE)
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)


def test_images_of_a_compiled_model_are_guided(compiled):
    def guided():
        with PerturbedGuidance(compiled, [BlurText(1)], 2.0):
            generator = torch.Generator().manual_seed(0)
            return compiled("a red circle", num_inference_steps=1, output_type="latent", generator=generator).images

    found = guided()
    compiled.transformer = inner(compiled)
    assert torch.equal(found, guided())


def test_the_expert_of_a_compiled_model(compiled):
    config = ExpertConfig(
        prompts=("a red circle",), timestep=1, generation=GenerationConfig(steps=1, max_sequence_length=2)
    )
    found = find_expert(compiled, config).table
    compiled.transformer = inner(compiled)
    pd.testing.assert_frame_equal(found, find_expert(compiled, config).table)


def test_a_compiled_u_net():
    def read():
        reader = UNetReader(pipe, 64, 50)
        return reader.kept(reader.latents(IMAGE), reader.encode("grass"), None).found

    pipe = models_baselines.stable_diffusion()
    plain, places = read(), unet_places(pipe.unet)
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    found = read()
    assert unet_places(pipe.unet) == places
    assert list(found) == list(plain)
    assert all(torch.equal(found[layer].lse, plain[layer].lse) for layer in found)
    assert family_of(pipe.unet).name == "unet"
