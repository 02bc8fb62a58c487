"""Losses at test time: how often both objects of a prompt are drawn, plainly and with subjects kept apart or excited.

python analyses/subjects_apart.py [--model MODEL] [--quick]

Prompts are two-object scenes, which a scene reader can read: for tiny-sd3, or another model of 64 x 64 px scenes. Settings
are chosen on the first half of the prompts, those named "chosen" are then measured on the other half.
"""

from _analysis import Analysis, main

from mmdit_probe.configs import SamplingConfig
from mmdit_probe.metrics.scene_reader import SceneReader
from mmdit_probe.studies.binding import built_in_layouts
from mmdit_probe.studies.subjects import LossVariant, measure_subjects, run_subjects, subject_lines, subject_table

PROMPTS = 80
STEPS = 14
TRIED = [
    LossVariant(
        f"{loss} {moves} {strength:g}", {"loss": loss, "moves": moves, "strength": strength, "steps": STEPS // 2}
    )
    for loss in ("apart", "excite")
    for moves in ("velocity", "latents")
    for strength in (0.1, 0.4)
]


def run(analysis: Analysis) -> list[str]:
    steps = analysis.fewer(STEPS, 2)
    generation = SamplingConfig(steps=steps, max_sequence_length=0)
    tried = [
        LossVariant(one.name, {**one.settings, "steps": list(range(min(steps, one.settings["steps"])))})
        for one in analysis.fewer(TRIED, TRIED[:2])
    ]
    layouts = built_in_layouts(analysis.fewer(PROMPTS, 2))
    half, pipe, reader = len(layouts) // 2, analysis.pipe(), SceneReader.load()

    def measured(name: str, own: list, variants: list[LossVariant]):  # type: ignore[no-untyped-def, type-arg]
        made = run_subjects(pipe, own, variants, (0,), generation, analysis.folder(name), analysis.label)
        return measure_subjects(own, made, reader)

    search = subject_table(measured("search", layouts[:half], tried))
    analysis.table(search, "subjects_apart_search")
    best = (
        search[search["measure"] == "both"].groupby(lambda row: search.loc[row, "variant"].split()[0])["gain"].idxmax()
    )
    chosen = [next(one for one in tried if one.name == search.loc[row, "variant"]) for row in best]
    held_out = measured("held-out", layouts[half:], chosen)
    table = subject_table(held_out)
    analysis.table(table, "subjects_apart")
    return [
        f"chosen of {len(tried)} settings on {half} prompts, measured on {len(layouts) - half} others:",
        *subject_lines(table),
    ]


if __name__ == "__main__":
    main(run, __doc__)
