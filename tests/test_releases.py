"""What diffusers has changed between releases, or could: lengths of the text, names of processors."""

import inspect
import json
from pathlib import Path

import matrix
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.models.attention_processor import JointAttnProcessor2_0
from transformers import CLIPModel

from mmdit_probe import BlurText, I2TMaps, Probe, RegionMass, load_pipeline
from mmdit_probe.configs import GenerationConfig
from mmdit_probe.pipelines import pretrained
from mmdit_probe.pipelines.generation import generation_arguments

ZEROS = (0, 77, 256)


def text_positions(pipe, arguments):
    with Probe(pipe, [RegionMass()]) as probe:
        pipe("sand", num_inference_steps=1, output_type="latent", **arguments)
    return probe.dataset().attrs["text_tokens"]


def test_the_absent_t5_fills_as_many_positions_as_are_asked_for(random_pipe):
    """77 of them until diffusers 0.31; later max_sequence_length, 256 by default. All take part in the softmax."""
    words = random_pipe.tokenizer.model_max_length
    assert inspect.signature(StableDiffusion3Pipeline.__call__).parameters["max_sequence_length"].default == 256
    assert text_positions(random_pipe, {}) == words + 256
    for zeros in ZEROS:
        assert text_positions(random_pipe, {"max_sequence_length": zeros}) == words + zeros


def test_this_tool_takes_the_papers_length_whatever_diffusers_default_is(random_pipe):
    arguments = generation_arguments(random_pipe, GenerationConfig(steps=1))
    assert arguments["max_sequence_length"] == 77
    chosen = {"max_sequence_length": arguments["max_sequence_length"]}
    assert text_positions(random_pipe, chosen) == random_pipe.tokenizer.model_max_length + 77


def test_the_processors_of_this_release(sd3):
    assert {type(block.attn.processor) for block in sd3.transformer_blocks} == {JointAttnProcessor2_0}


class RenamedProcessor(JointAttnProcessor2_0):
    """A processor of another name, as diffusers has renamed its own."""


@pytest.mark.parametrize("edits", [[], [BlurText(1, 1.0, 3)]])
def test_a_renamed_processor_is_probed_as_any(sd3, inputs, edits):
    def read():
        with Probe(sd3, [RegionMass(), I2TMaps()], edits=edits) as probe:
            output = sd3(**inputs).sample
        return output, probe.dataset()

    output, record = read()
    for block in sd3.transformer_blocks:
        block.attn.set_processor(RenamedProcessor())
    again, renamed = read()
    assert torch.equal(output, again)
    assert record.drop_attrs().identical(renamed.drop_attrs())


def test_the_quick_matrix_runs_tests_that_are_there():
    missing = [name for name in matrix.QUICK if not (Path(__file__).parent / f"test_{name}.py").exists()]
    assert not missing


def later(folder):
    """A folder of a model of a release that is not out yet."""
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Flux9Pipeline"}))
    return str(folder)


def test_a_model_that_this_diffusers_does_not_have_is_refused_in_one_line(tmp_path):
    with pytest.raises(
        ValueError, match=r"needs Flux9Pipeline, which diffusers .* does not have; install a newer"
    ) as refused:
        load_pipeline(later(tmp_path / "later"))
    assert "\n" not in str(refused.value)


def test_families_that_an_older_diffusers_lacks_are_named(run, monkeypatch):
    monkeypatch.setattr("mmdit_probe.families.installed", lambda family: family.name != "flux3")
    _, out, _ = run("models", model=False)
    marked = [line for line in out.splitlines() if line.endswith("needs a newer diffusers")]
    assert [line.split()[0] for line in marked] == ["flux3"]
    _, out, _ = run("models", "--json", model=False)
    assert [row["family"] for row in json.loads(out)["families"] if not row["installed"]] == ["flux3"]


def test_the_dtype_is_told_by_the_name_that_this_release_knows(random_folder):
    assert load_pipeline(str(random_folder), dtype="bf16").transformer.dtype == torch.bfloat16
    assert pretrained.dtype_option(torch.bfloat16, CLIPModel) == {"dtype": torch.bfloat16}
