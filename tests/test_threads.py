"""A probe, an edit and guidance concern the thread that opened them; others may run the same transformer meanwhile."""

import copy
import threading

import numpy as np
import pytest
import torch

from mmdit_probe import BlurText, Probe, RegionMass
from mmdit_probe.families.shared import is_held, shared_change
from mmdit_probe.probe import PerturbedGuidance


def scoped(pipe):
    """A request's own pipeline: its scheduler is its own, the models are shared."""
    own = type(pipe)(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)})
    own.set_progress_bar_config(disable=True)
    return own


def generate(pipe, prompt, steps):
    arguments = {"num_inference_steps": steps, "max_sequence_length": 0, "output_type": "latent"}
    with torch.no_grad():
        return pipe(prompt, generator=torch.Generator().manual_seed(0), **arguments).images


def together(*tasks):
    """The tasks' results, run at once, each in a thread of its own."""
    results, barrier = [None] * len(tasks), threading.Barrier(len(tasks))

    def run(number):
        try:
            results[number] = tasks[number](barrier)
        except BaseException as error:  # raised below
            results[number] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


REQUESTS = [("a red circle on grass", 4), ("a blue star", 5), ("sand", 3)]


def recorded(pipe, prompt, steps, edits=(), barrier=None):
    with Probe(pipe, [RegionMass()], edits=edits) as probe:
        if barrier is not None:
            barrier.wait(60)
        image = generate(pipe, prompt, steps)
        if barrier is not None:
            barrier.wait(60)
    return image, probe.dataset("conditional")


def test_pipelines_that_share_a_transformer_are_recorded_apart(random_pipe):
    edits = [[BlurText(1)], [], []]
    asked = [(scoped(random_pipe), *request, edit) for request, edit in zip(REQUESTS, edits, strict=True)]
    alone = [recorded(*one) for one in asked]
    found = together(*(lambda barrier, one=one: recorded(*one, barrier=barrier) for one in asked))
    for (image, record), (lone_image, lone_record) in zip(found, alone, strict=True):
        assert torch.equal(image, lone_image)
        np.testing.assert_array_equal(record["region_mass"], lone_record["region_mass"])
        np.testing.assert_array_equal(record["token_text"], lone_record["token_text"])
        np.testing.assert_array_equal(record["step"], lone_record["step"])


def test_one_pipeline_keeps_its_methods_when_probes_leave_in_any_order(random_pipe):
    kind = type(random_pipe)
    before, first, second = kind.encode_prompt, Probe(random_pipe, []), Probe(random_pipe, [])

    def one(barrier):
        with first:
            barrier.wait(60)
        barrier.wait(60)

    def other(barrier):
        barrier.wait(60)
        with second:
            barrier.wait(60)
            generate(random_pipe, "sand", 1)
            assert second.running.text is not None

    together(one, other)
    assert kind.encode_prompt is before


def test_other_threads_are_neither_recorded_nor_edited(random_pipe):
    """Nor guided: a plain call elsewhere gives the plain image."""
    mine, theirs = scoped(random_pipe), scoped(random_pipe)
    plain = generate(theirs, "sand", 2)
    images = []
    for opened in (
        Probe(mine, [RegionMass()], edits=[BlurText([0, 1, 2])]),
        PerturbedGuidance(mine, [BlurText(1)], 3.0),
    ):
        with opened:
            other = threading.Thread(target=lambda: images.append(generate(theirs, "sand", 2)))
            other.start()
            other.join()
        assert torch.equal(images[-1], plain)


def test_a_call_in_another_thread_is_said_to_be_the_reason_for_an_empty_record(random_pipe):
    with Probe(random_pipe, [RegionMass()]) as probe:
        other = threading.Thread(target=generate, args=(random_pipe, "sand", 1))
        other.start()
        other.join()
    with pytest.raises(ValueError, match="ran in another thread; open the probe in the thread that calls it"):
        probe.dataset()


def test_a_shared_change_is_undone_by_the_last_that_leaves():
    seen = []

    def make():
        seen.append("made")
        return lambda: seen.append("undone")

    first, second = shared_change("change", make), shared_change("change", make)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert seen == ["made"]
    assert is_held("change")
    second.__exit__(None, None, None)
    assert seen == ["made", "undone"]
    assert not is_held("change")
