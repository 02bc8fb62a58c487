"""What is not computed again in a sweep over layers: nothing changes by a bit, and the blocks before the edited layer run once."""

import models_flux
import models_image
import models_latents
import pytest
import torch
from models_video import CASES as VIDEO

from mmdit_probe import BlurText, Knockout, Probe
from mmdit_probe.configs import ExpertConfig, GenerationConfig, PerturbConfig, SamplingConfig
from mmdit_probe.probe.prefix import SharedPrefix
from mmdit_probe.studies.expert_layer import find_expert
from mmdit_probe.studies.perturbation import run_perturbation

CASES = {
    case.name: case
    for case in (*models_flux.CASES, *models_image.CASES, *models_latents.CASES)
    if case.name in ("sd3", "flux", "flux-kontext", "flux2", "chroma", "qwen", "auraflow")
}


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def counted(model):
    """How often each block ran, in order; replaced blocks do not run what is in them."""
    ran = []
    for layer, module in Probe(model, []).modules.items():
        module.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    return ran


@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")  # Chroma's own import
@pytest.mark.parametrize("name", CASES)
def test_every_layer_s_edit_gives_what_a_whole_call_gives(name):
    case = CASES[name]
    model, inputs = case.model(), case.inputs()
    ran, prefix = counted(model), SharedPrefix(model)
    assert prefix.blocks
    for layer in range(len(prefix.blocks)):
        edit = [Knockout(layer)]
        with Probe(model, [], edits=edit):
            whole = model(**inputs)[0]
        ran.clear()
        with prefix.before(layer), Probe(model, [], edits=edit):
            shared, again = (model(**inputs)[0] for _ in range(2))  # the first call alone is shared
        assert torch.equal(shared, whole)
        assert torch.equal(again, whole)
        every = list(range(len(prefix.blocks)))
        assert ran == every[max(layer - 1, 0) :] + every
    assert "forward" not in vars(prefix.blocks[0].block)


def test_any_order_of_layers_and_other_calls_are_exact(sd3, inputs):
    other = {**inputs, "timestep": inputs["timestep"] - 1}
    ran, prefix = counted(sd3), SharedPrefix(sd3)
    for layer, given, blocks in (
        *((2, inputs, 3), (1, inputs, 3), (2, inputs, 1), (2, other, 3), (2, inputs, 3)),
        (3, inputs, 1),  # nothing is edited
    ):
        edits = [BlurText(layer, 1.0, 3)] if layer < 3 else []
        with Probe(sd3, [], edits=edits):
            whole = sd3(**given).sample
        ran.clear()
        with prefix.before(layer), Probe(sd3, [], edits=edits):
            assert torch.equal(sd3(**given).sample, whole)
        assert len(ran) == blocks


def test_calls_with_gradients_and_models_whose_blocks_are_not_known_compute_everything(sd3, inputs):
    ran, prefix = counted(sd3), SharedPrefix(sd3)
    for _ in range(2):
        with torch.enable_grad(), prefix.before(2):
            sd3(**inputs)
    assert ran == [0, 1, 2] * 2
    assert SharedPrefix(VIDEO[0].model()).blocks == []


def test_an_error_leaves_the_blocks_as_they_were(sd3, inputs, monkeypatch):
    prefix = SharedPrefix(sd3)
    with pytest.raises(RuntimeError), prefix.before(2):
        sd3(**{**inputs, "pooled_projections": torch.zeros(2, 3)})
    assert all("forward" not in vars(block.block) for block in prefix.blocks)
    assert not sd3._forward_pre_hooks
    assert not sd3._forward_hooks


def test_studies_give_the_same_with_and_without(random_pipe, tmp_path, monkeypatch):
    search = ExpertConfig(
        prompts=("a red circle on sand",), generation=GenerationConfig(steps=2, max_sequence_length=0)
    )
    short = SamplingConfig(steps=2, max_sequence_length=0)
    sweep = PerturbConfig(prompts=("a red circle", "sand"), layers=(0, 1, 2), seeds=(0, 1), generation=short)
    ran = counted(random_pipe.transformer)
    made = []
    for name in ("shared", "whole"):
        if name == "whole":
            monkeypatch.setattr(SharedPrefix, "__init__", lambda self, pipe: vars(self).update(blocks=[]))
        ran.clear()
        found = find_expert(random_pipe, search)
        searched = len(ran)
        images = run_perturbation(random_pipe, sweep, tmp_path / name, "m").images
        made.append((found.by_prompt, images, searched, len(ran) - searched))
    (signs, images, searched, swept), (others, plain, all_searched, all_swept) = made
    assert signs.equals(others)
    assert all((images[name] == plain[name]).all() for name in plain)
    assert (all_searched, searched) == (2 * 3 + 4 * 3, 2 * 3 + 4 * 3 - 1)  # layer 2's first block
    assert (all_swept, swept) == (2 * 4 * 2 * 3, 2 * 4 * 2 * 3 - 2)
