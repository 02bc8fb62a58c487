"""Words that a model does not know are found, named on standard error, and kept in the record."""

import pandas as pd
import pytest

from mmdit_probe import load_record
from mmdit_probe.families import TextPart
from mmdit_probe.pipelines import vocabulary
from mmdit_probe.pipelines.loading import embedded_folder
from mmdit_probe.pipelines.vocabulary import said_of, unknown_words
from mmdit_probe.storage.images import save_image

FEW = ["--steps", "2", "--max-sequence-length", "0"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red circle on grass", ()),
        ("A Red circle, on GRASS!", ()),
        ("a photo of a dog on grass", ("photo", "dog")),
        ("dog, dog and bench", ("dog", "bench")),
        ("\u732b on grass", ("\u732b",)),
        ("x on $ grass", ("x",)),
        ("half-moon", ()),
        ("", ()),
    ],
)
def test_words_of_the_embedded_model(tiny, text, expected):
    assert unknown_words(tiny, [text]) == expected


class Letters:
    """A tokenizer of a large vocabulary that knows all words but cat."""

    is_fast, bos_token_id, eos_token_id, pad_token_id, unk_token_id = False, 1, 2, 0, 3

    def __len__(self):
        return 30_000

    def __call__(self, texts, **options):
        return {"input_ids": [[3] if "cat" in text else [17, 18] for text in texts]}


@pytest.mark.parametrize(("unknown", "expected"), [(3, ("cat",)), (2, ()), (None, ())])
def test_the_unknown_token_is_what_tells(monkeypatch, random_pipe, unknown, expected):
    """Words of several tokens are known to a large vocabulary; an unknown token that is also the end tells nothing."""
    tokenizer = Letters()
    tokenizer.unk_token_id = unknown
    part = TextPart("one", tokenizer, 8)
    monkeypatch.setattr(vocabulary, "text_parts_of", lambda *_: [part, TextPart("absent", None, 4)])
    assert unknown_words(random_pipe, ["a cat on grass"]) == expected


def test_no_positions_no_words(monkeypatch, random_pipe):
    monkeypatch.setattr(vocabulary, "text_parts_of", lambda *_: [])
    assert unknown_words(random_pipe, ["a dog"]) == ()


def test_a_line_is_short():
    assert said_of(()) == ""
    assert said_of(tuple(f"w{n}" for n in range(30))).endswith("w19 and 10 more")


PROMPT = ["--prompt", "a photo of a dog on grass"]
SAID = "words that this model does not know: photo, dog"


@pytest.mark.parametrize(
    ("command", "record"),
    [
        (["attention-budget", *PROMPT, *FEW], "attention-budget/attention_budget.nc"),
        (["value-norms", *PROMPT, *FEW], "value-norms/value_norms.nc"),
        (["maps", *PROMPT, "--words", "grass", *FEW], "maps/maps.nc"),
        (["pca", *PROMPT, *FEW], "pca/pca.nc"),
        (["analyze", *PROMPT, *FEW], "analyze/analyze.nc"),
        (["find-expert", *PROMPT, *FEW, "--timestep", "1"], None),
    ],
)
def test_commands_name_them(run, tmp_path, command, record):
    code, _, err = run(*command)
    assert code == 0, err
    assert SAID in err.splitlines()
    if record is None:
        assert pd.read_csv(tmp_path / "results/find-expert/expert.csv")["unknown_words"].unique().tolist() == [
            "photo, dog"
        ]
    else:
        assert load_record(tmp_path / "results" / record).attrs["unknown_words"] == "photo, dog"


def test_class_names_are_words_too(run, tmp_path):
    from mmdit_probe.datasets.scenes import scene

    save_image(scene("test", 0).image, tmp_path / "scene.png")
    code, _, err = run("segment", "scene.png", "--classes", "dog,bench,grass", "--layer", "1")
    assert code == 0, err
    assert "words that this model does not know: dog, bench" in err.splitlines()
    assert load_record(tmp_path / "results/segment/scene_maps.nc").attrs["unknown_words"] == "dog, bench"
    code, _, err = run("segment", "scene.png", "--classes", "sand,grass", "--layer", "1", "--out", "known")
    assert "does not know" not in err


def test_images_and_masks_keep_them_too(run, tmp_path):
    clip = str(embedded_folder().parent / "tiny-clip")
    arguments = [*PROMPT, *FEW, "--layer", "1", "--seeds", "0", "--clip", clip]
    code, _, err = run("perturb", *arguments)
    assert code == 0, err
    assert SAID in err.splitlines()
    items = list((tmp_path / "results/perturb/items").glob("*.nc"))
    assert items
    assert all(load_record(item).attrs["unknown_words"] == "photo, dog" for item in items)
