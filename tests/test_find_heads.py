"""The greedy search for heads: what is chosen, on which prompts, and what is claimed of it."""

import numpy as np
import pandas as pd
import pytest

from mmdit_probe.configs import FindHeadsConfig, SamplingConfig
from mmdit_probe.studies.find_heads import found_lines, run_find_heads, split_prompts

PROMPTS = ("a red circle", "sand", "snow", "a blue star")
SHORT = SamplingConfig(steps=2, guidance_scale=3.0, max_sequence_length=0)


def config(**more):
    return FindHeadsConfig(**{"prompts": PROMPTS, "layers": (1,), "most": 2, "generation": SHORT, **more})


def brightness(images, references, prompts):
    return np.asarray(images, float).mean((1, 2, 3))


def test_each_round_adds_the_best_head_and_the_rest_is_held_out(random_pipe, tmp_path):
    found = run_find_heads(random_pipe, config(), brightness, tmp_path, "m")
    first = found.rounds[found.rounds["round"] == 0].set_index("head")["gain"]
    assert len(first) == 4
    layer, head = found.heads[0]
    assert first.idxmax() == f"{layer}.{head}"
    assert first.max() > 0
    if len(found.heads) == 2:
        second = found.rounds[found.rounds["round"] == 1]
        assert len(second) == 3
        assert second["gain"].max() > first.max()
    assert found.grid.prompts == PROMPTS[1::2]
    gained = [brightness(found.grid.images[name][:, 0], None, None) for name in ("chosen", "plain")]
    assert found.gain.mean == pytest.approx((gained[0] - gained[1]).mean())
    assert found.gain.n == 2
    lines = found_lines(found, config())
    assert "clip_t on 2 prompts" in lines[0]
    assert lines[1].endswith("no verdict.")


def test_an_interrupted_search_continues_with_what_it_has(random_pipe, tmp_path, monkeypatch):
    found = run_find_heads(random_pipe, config(), brightness, tmp_path, "m")
    monkeypatch.setattr("mmdit_probe.studies.image_grid.generate_batch", lambda *_: pytest.fail("generated again"))
    again = run_find_heads(random_pipe, config(), brightness, tmp_path, "m")
    assert again.heads == found.heads
    pd.testing.assert_frame_equal(again.rounds, found.rounds)


def test_no_head_is_chosen_if_none_raises_the_score(random_pipe, tmp_path):
    found = run_find_heads(random_pipe, config(), lambda images, *_: np.zeros(len(images)), tmp_path, "m")
    assert (found.heads, found.grid) == ((), None)
    assert found_lines(found, config()) == ["no head's guidance raises clip_t on 2 prompts."]


def test_one_prompt_can_not_be_split():
    with pytest.raises(ValueError, match="give at least 2 prompts, half of which are held out, got 1"):
        split_prompts(["sand"])


def test_the_command_leaves_candidates_and_sheet(run, tmp_path):
    few = [part for prompt in PROMPTS[:2] for part in ("--prompt", prompt)]
    short = ["--steps", "1", "--max-sequence-length", "0", "--layer", "1", "--most", "1", "--clip", "tiny-clip"]
    code, out, err = run("find-heads", *few, *short)
    assert code == 0, err
    assert "held-out" in out or "no head" in out
    assert len(pd.read_csv(tmp_path / "results/find-heads/find_heads.csv")) == 4
    code, _, err = run("find-heads", *few, *short, "--score", "scene", "--out", "other")
    assert (code, "--score scene is there for the embedded models alone" in err) == (2, True)
