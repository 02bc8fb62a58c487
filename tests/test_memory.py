"""The memory of a run is estimated before it starts, and a lack of GPU memory is met with smaller batches."""

import logging

import numpy as np
import pytest
import torch
from conftest import make_inputs, make_sd3

from mmdit_probe import BlurText, FeaturePCA, HeadStats, I2TMaps, Probe, RegionMass, T2IMaps, ValueNorms
from mmdit_probe.attention.layout import TokenLayout
from mmdit_probe.configs import GenerationConfig
from mmdit_probe.readouts.head_groups import HeadGroupMaps
from mmdit_probe.readouts.maps import I2TScores, RefinedI2T
from mmdit_probe.readouts.word_maps import WordMaps
from mmdit_probe.studies.recording import record_generated
from mmdit_probe.utils import memory
from mmdit_probe.utils.memory import check_room, free_bytes, readable_bytes, run_in_batches

READOUTS = [
    RegionMass(),
    I2TMaps(),
    I2TMaps("all"),
    T2IMaps(),
    T2IMaps("all"),
    ValueNorms(),
    HeadStats(),
    FeaturePCA(),
    WordMaps([[1], [2, 3]]),
    WordMaps([[1]], heads="all"),
    HeadGroupMaps(2),
    HeadGroupMaps(9),
    I2TScores("all"),
    RefinedI2T(),
]


@pytest.mark.parametrize("readout", READOUTS, ids=repr)
def test_the_estimate_is_the_size_of_the_record(sd3, inputs, readout):
    with Probe(sd3, [readout], layers=[0, 2], steps=[0, 1]) as probe:
        sd3(**inputs)
        sd3(**inputs)
    measured = sum(values.nbytes for values in probe.dataset().data_vars.values())
    assert probe.stored_bytes(TokenLayout((4, 6), 7), 2, 2) == measured > 0


def test_a_record_for_which_there_is_no_room_is_refused_before_it_is_made(sd3, inputs, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 5000)
    with Probe(sd3, [RegionMass()]) as probe:
        sd3(**inputs)
    kept = probe.stored_bytes(TokenLayout((4, 6), 7), 2, 2)
    assert kept < 2500
    with (
        pytest.raises(
            ValueError, match=r"3 layers, one step, batch 2: 8.1 kB are needed, 5.0 kB are free; record fewer"
        ),
        Probe(sd3, [I2TMaps()]) as probe,
    ):
        sd3(**inputs)
    assert not any(call.fields for call in probe._calls)


def test_what_a_run_keeps_is_told_where_it_matters(sd3, inputs, caplog, monkeypatch):
    with caplog.at_level(logging.INFO), Probe(sd3, [I2TMaps()], steps=[0]):
        sd3(**inputs)
    assert not caplog.messages
    monkeypatch.setattr(memory, "NOTABLE", 0.0)
    with caplog.at_level(logging.INFO), Probe(sd3, [I2TMaps()], steps=[0]):
        sd3(**inputs)
    assert caplog.messages[0].startswith("3 layers, 1 step, batch 2: 4.0 kB to keep, ")


def test_commands_print_the_estimate(run, monkeypatch):
    monkeypatch.setattr(memory, "NOTABLE", 0.0)
    code, out, err = run(
        "attention-budget", "--prompt", "sand", "--prompt", "grass", "--steps", "2", "--timesteps", "1"
    )
    assert code == 0
    lines = [line for line in err.splitlines() if line.startswith("memory: ")]
    assert [line.split(":")[1].strip() for line in lines] == ["3 layers, 1 step, batch 2", "2 records"]
    assert "memory" not in out


def test_free_memory_heeds_the_containers_limit(tmp_path, monkeypatch):
    assert free_bytes() > 0
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_bytes() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes() > 2000
    with pytest.raises(ValueError, match=r"maps: 1000000.0 GB are needed, .* are free; go away"):
        check_room("maps", 10**15, advice="go away")


def test_readable_bytes():
    assert [readable_bytes(n) for n in (12, 1200, 3_400_000, 11_600_000_000)] == [
        "12 bytes",
        "1.2 kB",
        "3.4 MB",
        "11.6 GB",
    ]


class _SmallGPU:
    """Raises as CUDA does while more is asked for than it has."""

    def __init__(self, room):
        self.room, self.asked = room, []

    def __call__(self, items):
        self.asked.append(len(items))
        if len(items) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 11.00 GiB")
        return [item * 10 for item in items]


def test_halves_are_tried_until_they_fit():
    gpu = _SmallGPU(2)
    assert run_in_batches(gpu, range(7)) == ([0, 10, 20, 30, 40, 50, 60], 2)
    assert gpu.asked == [7, 4, 2, 2, 2, 1]
    assert run_in_batches(_SmallGPU(9), range(7))[1] == 7
    few = _SmallGPU(2)
    assert run_in_batches(few, range(5), most=3) == ([0, 10, 20, 30, 40], 2)
    assert few.asked == [3, 2, 2, 1]
    with pytest.raises(torch.OutOfMemoryError):
        run_in_batches(_SmallGPU(0), range(3))


@pytest.mark.parametrize("readout", [I2TMaps("all"), RegionMass(), RefinedI2T()], ids=repr)
def test_out_of_memory_in_a_readout_shrinks_its_chunks_and_the_record_says_so(sd3, inputs, readout, monkeypatch):
    with Probe(sd3, [readout]) as plain:
        sd3(**inputs)
    original = type(readout).reduction

    def reduction(self, attention):
        if attention.row_chunk > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, attention)

    monkeypatch.setattr(type(readout), "reduction", reduction)
    with Probe(sd3, [readout]) as probe:
        sd3(**inputs)
    for name, values in plain.dataset().data_vars.items():
        np.testing.assert_allclose(probe.dataset()[name], values, atol=1e-6)
    assert "out of memory: chunks of 64 rows" in probe.dataset().attrs["kernels"]
    assert "out of memory" not in plain.dataset().attrs["kernels"]


def test_chunks_of_one_row_are_the_end(sd3, inputs, monkeypatch):
    def reduction(self, attention):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(RegionMass, "reduction", reduction)
    with pytest.raises(torch.OutOfMemoryError), Probe(sd3, [RegionMass()]):
        sd3(**inputs)


@pytest.mark.parametrize("halvings", [0, 3, 8])
def test_blocks_are_the_same_in_any_chunks(sd3, inputs, halvings, monkeypatch):
    from dataclasses import replace

    from mmdit_probe import Readout
    from mmdit_probe.attention import blocks, region_mass
    from mmdit_probe.attention.scores import chunked_lse
    from mmdit_probe.readouts import Field

    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 400)

    class Blocks(Readout):
        def measure(self, attention):
            smaller = replace(attention, halvings=halvings)
            mass, lse = region_mass(smaller), chunked_lse(smaller.call, smaller.row_chunk)
            torch.testing.assert_close(mass, region_mass(attention))
            torch.testing.assert_close(lse, attention.lse)
            return {"mass": Field(("batch", "head", "region"), mass)}

    with Probe(sd3, [Blocks()]):
        sd3(**inputs)


def test_an_evaluation_takes_fewer_images_at_a_time_and_says_so(random_pipe, tmp_path, monkeypatch):
    from mmdit_probe.configs import EvaluateConfig
    from mmdit_probe.datasets.registry import held_out_scenes
    from mmdit_probe.evaluation import counter
    from mmdit_probe.evaluation.run import run_evaluation
    from mmdit_probe.evaluation.tables import tabulate

    config, scenes = EvaluateConfig(batch=4), held_out_scenes(4)
    whole = list(run_evaluation(random_pipe, scenes, config, tmp_path / "a", "m"))
    original = counter.read_class_maps

    def small(reader, images, names):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(reader, images, names)

    monkeypatch.setattr(counter, "read_class_maps", small)
    halves = list(run_evaluation(random_pipe, scenes, config, tmp_path / "b", "m"))
    assert [item.attrs["images_at_once"] for item in (*whole, *halves)] == [4, 2]
    for name in ("settings", "images"):
        a, b = getattr(tabulate(whole), name), getattr(tabulate(halves), name)
        np.testing.assert_allclose(a["pacc"], b["pacc"], atol=1e-3)


def test_generation_takes_fewer_prompts_at_a_time(random_pipe, tmp_path, monkeypatch):
    from contextlib import nullcontext

    from mmdit_probe.storage.runs import RunFolder
    from mmdit_probe.studies import image_grid as images
    from mmdit_probe.studies.image_grid import Variant, generate_grid

    original = images.generate_batch

    def small(pipe, prompts, seed, generation):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(pipe, prompts, seed, generation)

    generation = GenerationConfig(steps=1, max_sequence_length=0)
    arguments = [Variant("plain", nullcontext)], ("sand", "grass"), (0,), 2, generation
    with RunFolder(tmp_path / "a", {}).open() as run:
        whole = generate_grid(random_pipe, run, *arguments, axis="layer")
    monkeypatch.setattr(images, "generate_batch", small)
    with RunFolder(tmp_path / "b", {}).open() as run:
        halves = generate_grid(random_pipe, run, *arguments, axis="layer")
        assert run.item("plain-seed0-prompt0000").attrs["images_at_once"] == 1
    assert abs(whole.images["plain"].astype(int) - halves.images["plain"]).max() <= 1


def test_images_for_which_there_is_no_room_are_not_begun(random_pipe, tmp_path, monkeypatch):
    from contextlib import nullcontext

    from mmdit_probe.storage.runs import RunFolder
    from mmdit_probe.studies.image_grid import Variant, generate_grid

    monkeypatch.setattr(memory, "free_bytes", lambda: 2 * 64 * 64 * 3 - 1)
    with (
        pytest.raises(ValueError, match=r"1 images: 24\.6 kB are needed, 24\.6 kB are free; take fewer"),
        RunFolder(tmp_path / "a", {}).open() as run,
    ):
        generate_grid(
            random_pipe,
            run,
            [Variant("plain", nullcontext)],
            ("sand",),
            (0,),
            1,
            GenerationConfig(steps=1),
            axis="layer",
        )
    assert not (tmp_path / "a").exists()


def test_edits_keep_nothing(caplog):
    model = make_sd3()
    with caplog.at_level(logging.INFO), Probe(model, [], edits=[BlurText(1, 1.0, 3)]):
        model(**make_inputs())
    assert not caplog.messages


def test_a_generation_is_as_large_as_was_told(random_pipe, caplog, monkeypatch):
    """The record keeps the prompt's half of the two that are in memory."""
    monkeypatch.setattr(memory, "NOTABLE", 0.0)
    with caplog.at_level(logging.INFO):
        made = record_generated(random_pipe, "sand", [I2TMaps()], (1, 2), GenerationConfig(steps=2))
    told = next(message for message in caplog.messages if "batch 2" in message)
    assert readable_bytes(2 * made.record["i2t"].nbytes) in told
