"""mmdit-probe neglect."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import EMBEDDED_MODELS, ModelConfig, NeglectConfig, PromptConfig

from .layers import check_layers, resolve_layers
from .options import RESULTS
from .session import Bar, check_prompts_fit, chosen_prompts, figure_line, finish, label, load
from .split import SplitRunConfig


def neglect(
    prompts: PromptConfig,
    config: NeglectConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "neglect"),
) -> None:
    """Which words of a prompt add little to its image: each word's contribution and attention against the other words'.

    With embedded models a scene reader says which words are missing in the image, and whether the measures tell them. Without
    --prompt and --prompts it takes the sentences of --scene-sentences held-out synthetic scenes.

    Writes neglect.pdf / .png, neglect.csv (a row for each word and layer) and neglect_words.csv (a row for each word).
    """
    none = not prompts.prompt and prompts.prompts is None
    chosen = chosen_prompts(prompts, model)
    check_layers(config.layers, model)

    from mmdit_probe.datasets.prompts import scene_prompts
    from mmdit_probe.figures.neglect import neglect_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.metrics.scene_reader import SceneReader
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.studies.neglect import layers_table, run_neglect, summary, words_table
    from mmdit_probe.utils.text import is_content_word

    if none:
        sentences = dict.fromkeys(scene_prompts(2 * config.scene_sentences))
        several = [text for text in sentences if sum(map(is_content_word, text.split())) > 1]
        chosen = tuple(several[: config.scene_sentences])
    config = replace(config, prompts=chosen)
    pipe = load(model)
    check_prompts_fit(pipe, config.prompts, config.generation.max_sequence_length)
    config = replace(config, layers=resolve_layers(pipe, config.layers))
    reader = SceneReader.load() if model.model in EMBEDDED_MODELS else None
    with Bar("prompts") as bar:
        records = run_neglect(pipe, config, output.out, label(model), reader, bar.update)
    table = layers_table(records)
    words = words_table(records, table, config.neglected_below)
    line = figure_line(model, config.prompts, "dotted: as the other words; dashed: the threshold")
    files = [
        *save_figure(neglect_figure(table, words, config.neglected_below), output.out / "neglect", line),
        write_text(output.out / "neglect.csv", table.to_csv(index=False)),
        write_text(output.out / "neglect_words.csv", words.to_csv(index=False)),
    ]
    finish(output, summary(words, config.neglected_below), files, words=words)
