"""Every command that reads or changes a model answers for tiny-flux as it does for tiny-sd3."""

import pytest

PROMPT = ["--prompt", "a red circle on grass", "--steps", "2"]
IMAGES = [*PROMPT, "--seeds", "0"]
COMMANDS = {
    "attention-budget": [*PROMPT, "--timesteps", "1"],
    "value-norms": [*PROMPT, "--timesteps", "1"],
    "sinks": [*PROMPT, "--timesteps", "1"],
    "maps": [*PROMPT, "--words", "circle", "--timesteps", "1"],
    "pca": [*PROMPT, "--timesteps", "1"],
    "analyze": [*PROMPT, "--timesteps", "1"],
    "report": [*PROMPT],
    "explore": [*PROMPT, "--timesteps", "1"],
    "neglect": ["--scene-sentences", "2", "--steps", "2", "--timesteps", "1"],
    "leakage": ["scenes", "--limit", "6"],
    "evaluate": ["scenes", "--limit", "2"],
    "group": ["scene.png"],
    "segment": ["scene.png", "--classes", "circle,grass"],
    "perturb": IMAGES,
    "guide": [*IMAGES, "--scale", "2"],
    "patch": ["--from", "a red circle on grass", "--to", "a blue square on sand", "--steps", "2", "--layers", "3"],
    "bind": ["--layouts", "2", "--steps", "2"],
    "find-expert": ["--prompt", "a red circle on grass", "--steps", "2", "--timestep", "1", "--scene-count", "2"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_answers_for_tiny_flux(run, tmp_path, command):
    from PIL import Image

    from mmdit_probe.datasets.scenes import scene

    Image.fromarray(scene("test", 0).image).save(tmp_path / "scene.png")
    code, out, err = run(command, *COMMANDS[command], "--model", "tiny-flux", model=False)
    assert (code, "error:" in err) == (0, False), err[-500:]
    assert "Written:" in out


def test_words_to_edit_are_looked_for_in_the_text_as_long_as_it_is_asked_for(run):
    word = ["--edit", "knockout", "--words", "grass"]
    assert run("perturb", *IMAGES, *word, "--model", "tiny-flux", model=False)[0] == 0
    blue = ["--edit", "knockout", "--words", "blue"]
    code, _, err = run("perturb", *IMAGES, *blue, "--model", "tiny-flux", "--out", "other", model=False)
    assert (code, "words: 'blue' is not" in err) == (2, True)


def test_magnet_trains_sd3_alone(run):
    code, _, err = run("magnet", "train", "--steps", "1", "--model", "tiny-flux", model=False)
    assert (code, "only Stable Diffusion 3 and 3.5 can be trained" in err) == (2, True)
