"""Models as training scripts hold them: the probe finds the transformer inside its wrappers."""

import numpy as np
import pytest
import torch
from conftest import make_inputs, make_sd3

from mmdit_probe import BlurText, Probe, RegionMass
from mmdit_probe.families import denoiser_of


def peft(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=2, target_modules=["to_q", "to_k"]))


def distributed(model):
    return torch.nn.parallel.DistributedDataParallel(model.requires_grad_(True))


def prepared(model):
    from accelerate import Accelerator

    return Accelerator(cpu=True).prepare(model.requires_grad_(True))


def in_both(model):
    return torch.nn.DataParallel(peft(model))


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    import torch.distributed as dist

    file = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrap", [peft, torch.nn.DataParallel, in_both, distributed, prepared, torch.compile])
def test_the_transformer_is_found_inside(wrap, group):
    def read(model, edits=()):
        with Probe(model, [RegionMass()], edits=edits) as probe, torch.no_grad():
            output = model(**make_inputs()).sample
        return output, probe.dataset()

    edits = [BlurText(1)]
    plain, record = read(make_sd3(), edits)
    found, inside = read(wrap(make_sd3()), edits)
    torch.testing.assert_close(found, plain)
    np.testing.assert_allclose(inside["region_mass"], record["region_mass"], atol=1e-6)
    assert inside.attrs["family"] == "sd3"
    assert inside.attrs["transformer"] == "SD3Transformer2DModel"


def test_a_pipeline_may_hold_a_wrapped_transformer(random_pipe):
    arguments = {"num_inference_steps": 1, "max_sequence_length": 0, "output_type": "latent"}
    inner = random_pipe.transformer
    random_pipe.transformer = peft(inner)
    assert denoiser_of(random_pipe) is inner
    with Probe(random_pipe, [RegionMass()]) as probe, torch.no_grad():
        random_pipe("a red circle", **arguments)
    assert list(probe.dataset("conditional")["token_text"].values[0, 1:4]) == ["a", "red", "circle"]


def test_replicas_in_threads_of_their_own_are_refused():
    model = torch.nn.DataParallel(make_sd3())
    model.device_ids = [0, 1]
    with pytest.raises(ValueError, match=r"DataParallel runs 2 replicas .* call its \.module on one device"):
        Probe(model, [])
