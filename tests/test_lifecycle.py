"""Many probes: side by side in threads, and opened and closed a thousand times."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import make_inputs, make_sd3

from mmdit_probe import BlurText, I2TMaps, Probe, RegionMass
from mmdit_probe.attention.intercept import active_probes

TOGETHER = 100


def seeded(number):
    """A model of its own weights for each number."""
    model = make_sd3(layers=2)
    generator = torch.Generator().manual_seed(number)
    for weight in model.parameters():
        weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def read(model, inputs, edits=()):
    with Probe(model, [RegionMass(), I2TMaps()], edits=edits) as probe:
        output = model(**inputs).sample
    return output, probe.dataset()


def test_a_hundred_probes_in_threads_do_not_mix():
    """All threads are inside their probes at once; each finds what it finds alone."""
    inputs = make_inputs()
    models = [seeded(number) for number in range(TOGETHER)]
    edits = [[BlurText(1, 1.0, 3)] if number % 2 else [] for number in range(TOGETHER)]
    alone = [read(model, inputs, edit) for model, edit in zip(models, edits, strict=True)]
    barrier = threading.Barrier(TOGETHER)

    def together(number):
        with Probe(models[number], [RegionMass(), I2TMaps()], edits=edits[number]) as probe:
            barrier.wait(60)
            output = models[number](**inputs).sample
            barrier.wait(60)
            assert active_probes() == 0
        return output, probe.dataset()

    with ThreadPoolExecutor(TOGETHER) as pool:
        found = list(pool.map(together, range(TOGETHER)))
    for (output, record), (expected, lone) in zip(found, alone, strict=True):
        assert torch.equal(output, expected)
        for name in lone.data_vars:
            np.testing.assert_array_equal(record[name], lone[name])
    distinct = {record["region_mass"].values.tobytes() for _, record in found}
    assert len(distinct) == TOGETHER


def test_a_probe_in_one_thread_is_not_seen_by_another():
    """The function mode is the thread's own: an unprobed model elsewhere runs plain attention meanwhile."""
    inputs, probed, free = make_inputs(), seeded(1), seeded(2)
    expected, inside, seen = free(**inputs).sample, threading.Event(), []

    def elsewhere():
        inside.wait(60)
        seen.append((active_probes(), torch.overrides._get_current_function_mode(), free(**inputs).sample))

    other = threading.Thread(target=elsewhere)
    other.start()

    class Wait(RegionMass):
        def reduction(self, attention):
            inside.set()
            other.join(60)
            return super().reduction(attention)

    with Probe(probed, [Wait()], edits=[BlurText(1, 1.0, 3)]):
        probed(**inputs)
    assert seen[0][:2] == (0, None)
    assert torch.equal(seen[0][2], expected)


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("ending", ["closed", "raised", "abandoned"])
def test_a_thousand_openings_leave_nothing(ending):
    model, inputs = make_sd3(layers=1), make_inputs(batch=1, text=2, height=2, width=2)
    dead, counts = [], []
    before = hooks(model)
    for number in range(1000):
        if number in (100, 999):
            gc.collect()
            counts.append(len(gc.get_objects()))
        probe = Probe(model, [RegionMass()], stop_early=ending == "abandoned")
        try:
            with probe:
                if number % 50 == 0:
                    model(**inputs)
                if ending == "raised":
                    raise LookupError
        except LookupError:
            pass
        dead.append(weakref.ref(probe))
        del probe
    gc.collect()
    assert hooks(model) == before
    assert not [probe for probe in dead if probe() is not None]
    assert counts[1] - counts[0] < 2 * 1000  # the weak references of this list, and no object for every opening
