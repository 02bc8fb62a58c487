"""Fig. 3 and 29: principal components of queries, keys and values, every layer; with R^2 from position and class.

python analyses/fig03_fig29_pca.py [--model MODEL] [--quick]

Reads held-out scenes, whose classes are known; the page shows the first.
"""

from _analysis import Analysis, main

from mmdit_probe.configs import PCAConfig
from mmdit_probe.figures.pca import pca_page, r2_figure, text_page
from mmdit_probe.studies.feature_pca import colors, measure_pca, pca_table, summary, text_colors
from mmdit_probe.utils.distributed import leave_to_first

SCENES = 50
TIMESTEP = 8


def run(analysis: Analysis) -> list[str]:
    leave_to_first()  # nothing is split
    scenes = tuple(range(analysis.fewer(SCENES, 1)))
    config = PCAConfig(prompt=None, scenes=scenes, timesteps=(TIMESTEP,), stream="both")
    recording = measure_pca(analysis.pipe(), config)
    table, record, steps = pca_table(recording.record), recording.record, config.generation.steps
    analysis.figure(pca_page(colors(record).isel(timestep=0), recording.image, steps), "fig29_pca", "scene 0")
    analysis.figure(text_page(text_colors(record).isel(timestep=0), steps), "fig29_pca_text", "scene 0")
    analysis.figure(r2_figure(table, steps), "fig03_r2", f"averages over n = {len(scenes)} scenes")
    analysis.table(table, "fig03_fig29_pca")
    return summary(table)


if __name__ == "__main__":
    main(run, __doc__)
