"""The study of losses at test time: prompts, what is measured, what is said."""

import numpy as np
import pandas as pd
import pytest

from mmdit_probe.configs import SamplingConfig
from mmdit_probe.metrics.scene_reader import prompt_facts
from mmdit_probe.studies.image_grid import generate_batch
from mmdit_probe.studies.subjects import (
    LossVariant,
    SubjectImages,
    measure_subjects,
    run_subjects,
    subject_lines,
    subject_table,
    two_object_prompts,
)

SHORT = SamplingConfig(steps=2, max_sequence_length=0)
VARIANTS = [LossVariant("moved", {"loss": "apart", "strength": 0.5, "steps": [0], "layers": [1]})]


def test_prompts_name_two_objects_that_differ():
    for one in two_object_prompts(6):
        objects = {" ".join(fact) for fact in prompt_facts(one.prompt) if len(fact) == 2}
        assert objects == set(one.subjects)
        assert len({subject.split()[0] for subject in one.subjects}) == 2
    with pytest.raises(ValueError, match="prompts, 100000 are asked for"):
        two_object_prompts(100000)


def test_images_are_steered_and_made_once(random_pipe, tmp_path, monkeypatch):
    prompts = two_object_prompts(2)
    made = run_subjects(random_pipe, prompts, VARIANTS, (0, 1), SHORT, tmp_path, "m")
    assert made.images["plain"].shape[:2] == (2, 2)
    assert (made.images["plain"][1, 1] == generate_batch(random_pipe, [prompts[1].prompt], 1, SHORT)[0]).all()
    assert (made.images["moved"] != made.images["plain"]).any()
    assert np.isnan(made.losses["plain"]).all()
    assert ((made.losses["moved"] >= 0) & (made.losses["moved"] <= 1)).all()
    monkeypatch.setattr("mmdit_probe.studies.subjects.generate_batch", lambda *_: pytest.fail("generated again"))
    again = run_subjects(random_pipe, prompts, VARIANTS, (0, 1), SHORT, tmp_path, "m")
    assert (again.images["moved"] == made.images["moved"]).all()


class Reader:
    """Finds all that a prompt says in bright images, and only shapes in dark ones."""

    def __init__(self, prompts):
        self.facts = [prompt_facts(one.prompt) for one in prompts]

    def read(self, images):
        shown = zip(self.facts, images, strict=True)
        shapes = [frozenset((fact[-1],) for fact in facts if len(fact) == 2) for facts in self.facts]
        return [facts | own if image.any() else own for (facts, image), own in zip(shown, shapes, strict=True)]


def test_gains_are_over_prompts():
    prompts = two_object_prompts(6)
    images = {name: np.full((6, 1, 4, 4, 3), value, np.uint8) for name, value in (("plain", 0), ("moved", 9))}
    made = SubjectImages(images, {name: np.full((6, 1), 0.5) for name in images})
    measured = measure_subjects(prompts, made, Reader(prompts))
    table = subject_table(measured).set_index("measure")
    assert table.loc["both", ["n", "plain", "steered", "gain"]].tolist() == [6, 0, 1, 1]
    assert table.loc["shapes", "gain"] == 0
    assert table.loc["scene", "gain"] == 1
    lines = subject_lines(table.reset_index())
    assert lines[0].startswith("moved: 100% of the images show both objects in their colors, 0% plainly: +100 points")
    assert lines[0].endswith("outside chance.")
    assert lines[1].endswith("within chance.")
    few = subject_table(measured[measured["prompt"] < 3])
    assert few["low"].isna().all()
    assert subject_lines(few)[0].endswith("no verdict.")


def test_of_many_variants_the_best_is_not_found_by_chance():
    """40 prompts whose objects are drawn in half of the images, whatever is done: 12 variants of noise, 40 times."""
    rng, claimed = np.random.default_rng(0), 0
    names = ["plain", *(f"variant {number}" for number in range(12))]
    for _ in range(40):
        rows = [{"variant": name, "prompt": prompt, "seed": 0} for name in names for prompt in range(40)]
        drawn = {measure: rng.integers(0, 2, len(rows)) for measure in ("both", "shapes", "scene")}
        lines = subject_lines(subject_table(pd.DataFrame(rows).assign(**drawn)))
        claimed += sum(line.endswith("outside chance among 12 variants.") for line in lines)
    assert claimed < 12  # of 1440 verdicts; each alone would claim 72
