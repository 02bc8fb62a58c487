"""Losses at test time: how often both objects of a prompt are drawn, plainly and with subjects kept apart or excited.

python analyses/subjects_apart.py [--model MODEL] [--quick]

Prompts are sentences of held-out scenes with two objects, read by a scene reader: for tiny-sd3, or another model of scenes. The
settings were fixed before; all are reported.
"""

from _analysis import Analysis, main

from mmdit_probe.configs import SamplingConfig
from mmdit_probe.metrics.scene_reader import SceneReader
from mmdit_probe.studies.subjects import (
    LossVariant,
    measure_subjects,
    run_subjects,
    subject_lines,
    subject_table,
    two_object_prompts,
)

PROMPTS = 40
STEPS = 14
STRENGTH = 0.2


def run(analysis: Analysis) -> list[str]:
    steps = analysis.fewer(STEPS, 2)
    variants = [
        LossVariant(
            f"{loss}, {moves} moved",
            {"loss": loss, "moves": moves, "strength": STRENGTH, "steps": list(range(steps // 2))},
        )
        for loss in ("apart", "excite")
        for moves in ("velocity", "latents")
    ]
    prompts = two_object_prompts(analysis.fewer(PROMPTS, 2))
    generation = SamplingConfig(steps=steps, max_sequence_length=0)
    made = run_subjects(analysis.pipe(), prompts, variants, (0,), generation, analysis.folder(), analysis.label)
    table = subject_table(measure_subjects(prompts, made, SceneReader.load()))
    analysis.table(table, "subjects_apart")
    return subject_lines(table)


if __name__ == "__main__":
    main(run, __doc__)
