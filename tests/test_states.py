"""Recorded states, and one run patched into another."""

import numpy as np
import pytest
import torch
from naive import full_matrix
from small_pipelines import small_pipeline

from mmdit_probe import Patch, Probe, States, record_states
from mmdit_probe.edits import BlockEdit, Edit
from mmdit_probe.utils import memory

WHATS = ["output", "query", "key", "value", "block"]
CALL = {"num_inference_steps": 2, "guidance_scale": 3.0, "max_sequence_length": 2}
FROM, TO = "a red circle on grass", "a blue square on sand"


def generate(pipe, prompt=TO, edits=(), seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    with Probe(pipe, [], edits=edits):
        return pipe(prompt, generator=generator, output_type="latent", **{**CALL, **more}).images


@pytest.mark.parametrize("what", WHATS)
def test_a_run_patched_with_its_own_states_is_the_same_bit_for_bit(random_pipe, what):
    states = record_states(random_pipe, TO, what=what, seed=3, **CALL)
    assert torch.equal(generate(random_pipe, seed=3, edits=[Patch(states)]), generate(random_pipe, seed=3))


@pytest.mark.parametrize("tokens", ["image", "text", "blue square"])
@pytest.mark.parametrize("what", WHATS)
def test_so_it_is_whatever_tokens_are_patched(random_pipe, what, tokens):
    """Recorded with all others and alone, written where they stand."""
    plain = generate(random_pipe)
    everything = record_states(random_pipe, TO, what=what, **CALL)
    alone = record_states(random_pipe, TO, what=what, tokens=tokens, **CALL)
    for states, chosen in ((everything, tokens), (alone, "all")):
        assert torch.equal(generate(random_pipe, edits=[Patch(states, tokens=chosen)]), plain)


SMALL = {"height": 32, "width": 32, "max_sequence_length": 32}


@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("name", ["flux", "auraflow", "qwen-image", "lumina2"])
def test_so_it_is_in_other_families(name, what):
    """Streams that are joined, tokens in another order, negative prompts in calls of their own."""
    if what == "block" and name == "lumina2":
        pytest.skip("its blocks' streams are not known")
    pipe = small_pipeline(name)
    options = {**SMALL, "num_inference_steps": 2, "output_type": "latent"}
    if name != "flux":
        guided = "true_cfg_scale" if name == "qwen-image" else "guidance_scale"
        options |= {guided: 3.0, "negative_prompt": "a moon on sand"}

    def run(*edits, prompt="a red heart"):
        with Probe(pipe, [], edits=edits):
            return pipe(prompt, generator=torch.Generator().manual_seed(0), **options).images

    plain = run()
    states = record_states(pipe, "a red heart", what=what, **options)
    for tokens in ("all", "image", "text", "heart"):
        assert torch.equal(run(Patch(states, tokens=tokens)), plain)
    assert not torch.equal(run(Patch(states), prompt="a blue heart"), run(prompt="a blue heart"))


def test_steps_are_counted_as_the_call_gives_them(random_pipe, caplog):
    caplog.set_level("DEBUG", "mmdit_probe.utils.memory")
    given = {name: value for name, value in CALL.items() if name != "num_inference_steps"}
    states = record_states(random_pipe, FROM, sigmas=[1.0, 0.7, 0.3], **given)
    assert "states of 9 layers and steps" in caplog.messages[0]
    assert memory.readable_bytes(states.nbytes) in caplog.messages[0]


@pytest.mark.parametrize("what", WHATS)
def test_all_layers_and_steps_patched_give_the_other_image(random_pipe, what):
    """Nearly: the pooled embedding also steers the last norm, and the negative prompt's row is not patched."""
    states = record_states(random_pipe, FROM, what=what, **CALL)
    patched, plain = generate(random_pipe, edits=[Patch(states)]), generate(random_pipe)
    assert not torch.equal(patched, plain)
    if what == "block":
        source = generate(random_pipe, FROM)
        assert (patched - source).abs().mean() < (plain - source).abs().mean()


@pytest.mark.parametrize("what", ["output", "query", "key", "value"])
def test_a_patch_equals_writing_by_hand(random_pipe, what):
    states, seen = record_states(random_pipe, FROM, what=what, layers=[1], **CALL), []

    class Compare(Edit):
        def apply(self, attention, output):
            row = int(np.flatnonzero(attention.conditional)[0])
            image = states.tensors[1, attention.step, "image"]
            text = states.tensors[1, attention.step, "text"]
            whole = torch.cat([image, text], 1)  # image before text
            inputs = {"query": attention.query, "key": attention.key, "value": attention.value}
            if what != "output":
                assert torch.equal(inputs[what][row], whole)
                twin = full_matrix(attention.call) @ attention.value.double()
                seen.append((output[row].double(), twin[row]))
            else:
                seen.append((output[row].double(), whole.double()))
            return output

    generate(random_pipe, edits=[Patch(states, 1), Compare(1)])
    assert len(seen) == 2
    for ours, twin in seen:
        torch.testing.assert_close(ours, twin, atol=1e-5, rtol=0)


def test_words_are_patched_at_their_own_positions(random_pipe):
    states = record_states(random_pipe, FROM, what="block", layers=[0], steps=[1], tokens=["red", "grass"], **CALL)
    assert states.places == (2, 5)
    assert {key: t.shape[:-1] for key, t in states.tensors.items()} == {(0, 1, "text"): (2,)}
    seen = {}

    class Look(BlockEdit):
        def leave(self, given, made):
            seen[made.step] = made.text[1]
            return made

    generate(random_pipe, edits=[Look(0)])
    plain = dict(seen)
    generate(random_pipe, edits=[Patch(states, tokens="grass"), Look(0)])
    assert torch.equal(seen[0], plain[0])
    moved = (seen[1] != plain[1]).any(-1).nonzero().flatten().tolist()
    assert moved == [5]
    assert torch.equal(seen[1][5], states.tensors[0, 1, "text"][1])


def test_the_negative_prompt_is_left_alone(random_pipe):
    states, outputs = record_states(random_pipe, FROM, **CALL), []
    hook = random_pipe.transformer.register_forward_hook(lambda m, a, out: outputs.append(out[0]))
    generate(random_pipe, edits=[Patch(states)])
    generate(random_pipe)
    hook.remove()
    assert torch.equal(outputs[0][0], outputs[2][0])
    assert not torch.equal(outputs[0][1], outputs[2][1])


def test_files_hold_states_as_they_are(random_pipe, tmp_path):
    states = record_states(random_pipe, FROM, what="key", layers=[0, 2], tokens="text", **CALL)
    again = States.load(states.save(tmp_path / "states.safetensors"))
    assert (again.what, again.prompt, again.grid, again.text, again.places) == (
        *(states.what, states.prompt, states.grid, states.text),
        states.places,
    )
    assert again.layers == (0, 2)
    assert again.steps == (0, 1)
    assert again.nbytes == states.nbytes > 0
    assert all(torch.equal(again.tensors[key], tensor) for key, tensor in states.tensors.items())
    edits = [[Patch(s, 2, tokens="circle")] for s in (states, again)]
    assert torch.equal(*(generate(random_pipe, edits=e) for e in edits))


def test_what_is_no_file_of_states_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_text("nothing")
    for name in ("x.safetensors", "y.safetensors"):
        with pytest.raises(ValueError, match="is not a file of states"):
            States.load(tmp_path / name)


def test_states_that_do_not_fit_are_refused_before_they_are_kept(random_pipe, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    with pytest.raises(ValueError, match=r"states of 6 layers and steps: .* are needed, 1.0 kB are free; record fewer"):
        record_states(random_pipe, FROM, **CALL)


def test_the_memory_that_is_told_is_what_is_kept(random_pipe, caplog):
    caplog.set_level("DEBUG", "mmdit_probe.utils.memory")
    states = record_states(random_pipe, FROM, what="value", **CALL)
    assert memory.readable_bytes(states.nbytes) in caplog.messages[0]


def test_wrong_patches_are_refused(random_pipe):
    states = record_states(random_pipe, FROM, layers=[1], steps=[0], tokens="image", **CALL)
    for make, message in (
        (lambda: Patch(states, 2), r"Patch: layers \[2\] were not recorded; there are \[1\]"),
        (lambda: Patch(states, steps=[1]), r"Patch: steps \[1\] were not recorded"),
        (lambda: Patch(states, what="key"), "the states are of output, not of key"),
        (lambda: Patch(states, what="keys"), "what must be one of output, query, key, value, block"),
        (lambda: Patch(states, tokens="text"), "states of text tokens were not recorded"),
        (lambda: record_states(random_pipe, FROM, what="all", **CALL), "what must be one of"),
        (lambda: record_states(random_pipe, FROM, num_images_per_prompt=2, **CALL), "give one prompt, and one image"),
        (lambda: record_states(random_pipe, FROM, tokens="lava", **CALL), "'lava' is not among the prompt's tokens"),
        (lambda: record_states(random_pipe, FROM, steps=[7], **CALL), "the run has no such steps"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="give both runs the same size and the same text length"):
        generate(random_pipe, edits=[Patch(states)], max_sequence_length=3)


def test_schedulers_that_return_to_a_step_are_refused(random_pipe):
    from diffusers import FlowMatchHeunDiscreteScheduler

    random_pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    with pytest.raises(ValueError, match="calls the model more than once a step"):
        record_states(random_pipe, FROM, **CALL)
