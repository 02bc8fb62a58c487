"""Maps of many prompts and seeds, and maps that move."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from mmdit_probe import load_record
from mmdit_probe.configs import GenerationConfig, MapsConfig, SeveralConfig
from mmdit_probe.figures.animation import gif, strip
from mmdit_probe.figures.overlay import overlay
from mmdit_probe.storage.images import read_rgb
from mmdit_probe.studies import many_maps
from mmdit_probe.studies.many_maps import image_name, map_shown, maps_run, measure_many
from mmdit_probe.studies.word_maps import measure_maps, words_of_prompts

PROMPTS = ("a red circle on grass", "a blue star on grass")
GENERATION = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=3)
CONFIG = MapsConfig(words=("circle", "star", "grass"), timesteps=(1, 2), generation=GENERATION)
FEW = ["--steps", "2", "--timesteps", "1", "--layers", "1", "--format", "png"]
MANY = ["maps", "--prompts", "prompts.txt", "--seeds", "0,3", "--words", "circle,grass", *FEW]


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(["# two", *PROMPTS]))


def test_each_image_of_many_is_the_image_of_one(random_pipe, tmp_path):
    """The slow twin: each prompt and seed by itself."""
    run = maps_run(tmp_path / "many", "random", CONFIG, PROMPTS, (0, 3))
    found = list(measure_many(random_pipe, run, CONFIG, PROMPTS, (0, 3)))
    assert [(mapped.prompt, mapped.seed) for mapped in found] == [(p, s) for p in PROMPTS for s in (0, 3)]
    for mapped in found:
        words = tuple(word for word in CONFIG.words if word in mapped.prompt)
        alone = replace(CONFIG, prompt=mapped.prompt, words=words, generation=replace(GENERATION, seed=mapped.seed))
        expected = measure_maps(random_pipe, alone)
        np.testing.assert_array_equal(mapped.recording.image, expected.image)
        xr.testing.assert_equal(mapped.recording.record, expected.record)
        np.testing.assert_array_equal(read_rgb(tmp_path / "many" / "images" / f"{mapped.name}.png"), expected.image)


def test_what_is_done_is_not_made_again_but_what_is_missing(random_pipe, tmp_path, monkeypatch):
    made = []

    def counted(pipe, config):
        made.append(config.generation.seed)
        return measure_maps(pipe, config)

    monkeypatch.setattr(many_maps, "measure_maps", counted)

    def names():
        run = maps_run(tmp_path / "many", "random", CONFIG, PROMPTS[:1], (0, 3))
        config = replace(CONFIG, words=("circle",))
        return [mapped.name for mapped in measure_many(random_pipe, run, config, PROMPTS[:1], (0, 3))]

    first = names()
    assert made == [0, 3]
    assert names() == first
    assert made == [0, 3]
    (tmp_path / "many" / "images" / f"{first[1]}.png").unlink()
    assert names() == first
    assert made == [0, 3, 3]


def test_the_command_leaves_one_tidy_folder(run, tmp_path, prompts):
    code, out, err = run(*MANY, "--json")
    assert code == 0, err
    folder, told = tmp_path / "results" / "maps", json.loads(out)
    stems = [image_name(number, prompt, seed) for number, prompt in enumerate(PROMPTS) for seed in (0, 3)]
    assert {path.name for path in folder.iterdir()} == {
        *("images", "overlays", "items", "maps.csv", "sheet.png", "run.json"),
    }
    assert {path.stem for path in (folder / "images").iterdir()} == set(stems)
    overlays = {path.stem for path in (folder / "overlays").iterdir()}
    assert overlays == {f"{stem}-grass" for stem in stems} | {f"{stem}-circle" for stem in stems[:2]}
    table = pd.read_csv(folder / "maps.csv")
    assert list(table.columns[:4]) == ["image", "prompt", "seed", "word"]
    assert len(table) == 2 * 2 + 2
    assert len(told["table"]) == len(table)
    assert told["summary"][0].startswith("'circle' in 2 images: peaks from ")
    record = load_record(folder / "items" / f"{stems[1]}.nc")
    assert (record.attrs["prompt"], record.attrs["seed"]) == (PROMPTS[0], 3)
    shown, _ = map_shown(record, None)
    expected = overlay(read_rgb(folder / "images" / f"{stems[1]}.png"), shown.sel(word="grass").values)
    np.testing.assert_array_equal(read_rgb(folder / "overlays" / f"{stems[1]}-grass.png"), np.asarray(expected))
    before = {path: path.stat().st_mtime_ns for path in (folder / "items").iterdir()}
    (tmp_path / "prompts.txt").write_text("other")  # what is repeated is what was read
    assert run("maps", "--from", str(folder))[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "items").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--words", "snow"], "'snow' is not among the tokens of any of the 2 prompts"),
        (["--words", "circle"], "the prompt 'a blue star on grass' has none of the words"),
        (["--image", "one.png"], "--image is one image, read with one --prompt"),
        (["--prompt", "sand"], "give --prompt or --prompts, not both"),
        (["--animate", "film"], "--animate must be some of gif, strip, frames, got 'film'"),
        (["--animate", "gif", "--layers", "0,1"], "--animate: shows one layer, got 2; name one with --layer"),
        (["--animate", "strip", "--timesteps", "1"], "--animate: over timesteps takes two or more, got 1"),
        (["--animate", "frames", "--layers", "1"], "over the frames of a video; this model makes images"),
        (["--animate", "gif"], "no expert layer is known for this model: give --layer N"),
    ],
)
def test_what_cannot_be_is_one_line(run, tmp_path, prompts, arguments, message):
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    code, out, err = run("maps", "--prompts", "prompts.txt", "--steps", "2", *arguments)
    assert code == 2
    assert not out
    assert message in err.strip().splitlines()[-1]
    assert not (tmp_path / "results").exists()


def test_words_are_read_where_they_stand(random_pipe):
    config = MapsConfig(words=("grass", "circle"), generation=GENERATION)
    assert words_of_prompts(random_pipe, PROMPTS, config) == [("grass", "circle"), ("grass",)]
    assert words_of_prompts(random_pipe, PROMPTS, replace(config, words=())) == [
        ("red", "circle", "grass"),
        ("blue", "star", "grass"),
    ]
    concepts = replace(config, words=("sky",), direction="concept")
    assert words_of_prompts(random_pipe, PROMPTS, concepts) == [("sky",), ("sky",)]
    with pytest.raises(ValueError, match="the prompt 'of the' has no content word"):
        words_of_prompts(random_pipe, ["sand", "of the"], replace(config, words=()))


def test_maps_that_move_are_of_all_timesteps_and_one_layer():
    moving = SeveralConfig(animate=("gif",))
    assert moving.of_one_layer(CONFIG) == replace(CONFIG, layers="expert")
    assert moving.of_one_layer(replace(CONFIG, timesteps=None)).chosen_timesteps == (2, 1)
    assert moving.of_one_layer(replace(CONFIG, aggregate="mean")) == replace(CONFIG, aggregate="mean")
    over_frames = SeveralConfig(animate=("frames",)).of_one_layer(replace(CONFIG, timesteps=None))
    assert over_frames.timesteps is None
    assert SeveralConfig().of_one_layer(CONFIG) == CONFIG


def frames_of(path):
    with Image.open(path) as opened:
        for number in range(opened.n_frames):
            opened.seek(number)
            yield np.asarray(opened.convert("RGB")).astype(int)


def test_an_animation_is_the_overlays_one_after_the_other(tmp_path):
    rng = np.random.default_rng(0)
    image, maps = rng.integers(0, 255, (1, 32, 64, 3)).astype(np.uint8), rng.random((3, 4, 8))
    (tmp_path / "one.gif").write_bytes(gif(image, maps, ["a", "b", "c"]))
    found = list(frames_of(tmp_path / "one.gif"))
    assert len(found) == 3
    large = image[0].repeat(4, 0).repeat(4, 1)
    for drawn, grid in zip(found, maps, strict=True):
        expected = np.asarray(overlay(large, grid, top=maps.max())).astype(int)
        assert np.abs(drawn[:128] - expected).mean() < 6  # 256 colors
        assert (drawn[128:] < 100).any()  # the label
    with Image.open(tmp_path / "one.gif") as opened:
        assert opened.info["loop"] == 0


def test_a_strip_has_a_row_a_word_and_a_scale_a_row():
    rng = np.random.default_rng(0)
    maps = rng.random((2, 16, 4, 4)) * np.array([1.0, 0.1])[:, None, None, None]
    page = strip(
        np.zeros((1, 16, 16, 3), np.uint8), maps, ["red", "circle"], [f"t = {n}" for n in range(16)], "layer 7"
    )
    drawn = [ax for ax in page.axes if ax.images]
    assert len(drawn) == 2 * 16
    assert [ax.get_title() for ax in page.axes if ax.get_title()] == [f"t = {n}" for n in range(16)]
    assert {ax.images[-1].get_clim()[1] for ax in drawn} == {maps[0].max(), maps[1].max()}
    heat = page.axes[8 + 1].images[-1].get_array()
    np.testing.assert_array_equal(heat, maps[1, 1])


def test_the_command_animates_over_timesteps(run, tmp_path):
    moving = ["maps", "--prompt", PROMPTS[0], "--words", "circle,grass", "--steps", "3", "--format", "png"]
    code, out, err = run(*moving, "--layers", "1", "--animate", "gif,strip")
    assert code == 0, err
    folder = tmp_path / "results" / "maps"
    assert {"map_circle.gif", "map_grass.gif", "map_strip.png"} <= {path.name for path in folder.iterdir()}
    assert "map_circle.gif" in out
    record = load_record(folder / "maps.nc")
    assert record["timestep"].values.tolist() == [3, 2, 1]
    found = list(frames_of(folder / "map_circle.gif"))
    assert len(found) == 3
    grids = record["word_map"].sel(word="circle").isel(layer=0).values
    image = read_rgb(folder / "image.png").repeat(4, 0).repeat(4, 1)
    for drawn, grid in zip(found, grids, strict=True):  # from the noise on
        expected = np.asarray(overlay(image, grid, top=float(grids.max()))).astype(int)
        assert np.abs(drawn[: len(image)] - expected).mean() < 6


def small_video_pipeline():
    """A random CogVideoX that makes 9 frames of 16 x 16 px in 3 latent frames."""
    import diffusers
    import torch
    from small_pipelines import LENGTH, T5, tokenizer
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=16,
        num_layers=2, sample_width=4, sample_height=4, sample_frames=9, max_text_seq_length=LENGTH,
    )  # fmt: skip
    encoder, scheduler = T5EncoderModel(T5Config(**T5)), diffusers.CogVideoXDDIMScheduler()
    pipe = diffusers.CogVideoXPipeline(tokenizer(), encoder, vae, transformer, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe, LENGTH


def test_maps_move_over_the_frames_of_a_video(run, tmp_path, monkeypatch, prompts):
    pipe, length = small_video_pipeline()
    for module in ("maps", "many_maps"):
        monkeypatch.setattr(f"mmdit_probe.cli.{module}.load", lambda model: pipe)
    few = ["--words", "grass", "--layers", "1", "--steps", "2", "--max-sequence-length", str(length), "--format", "png"]
    code, _, err = run("maps", "--prompt", PROMPTS[0], *few, "--timesteps", "1", "--animate", "frames", "--out", "one")
    assert code == 0, err
    record = load_record(tmp_path / "one" / "maps.nc")
    assert record["word_map"].sizes["frame"] == 3
    assert {"map_frames-t1-grass.gif", "map_frames-t1-strip.png"} <= {
        file.name for file in (tmp_path / "one").iterdir()
    }
    assert len(list(frames_of(tmp_path / "one" / "map_frames-t1-grass.gif"))) == 3
    code, _, err = run("maps", "--prompts", "prompts.txt", *few, "--animate", "gif,frames", "--out", "many")
    assert code == 0, err
    stems = [image_name(number, prompt, 0) for number, prompt in enumerate(PROMPTS)]
    moving = {file.name for file in (tmp_path / "many" / "animations").iterdir()}
    assert {f"{stem}-frames-t{t}-grass.gif" for stem in stems for t in (1, 2)} < moving
    assert {f"{stem}-grass.gif" for stem in stems} < moving
    videos = [sorted((tmp_path / "many" / "images" / stem).iterdir()) for stem in stems]
    assert [len(video) for video in videos] == [9, 9]
    middle = read_rgb(tmp_path / "many" / "images" / f"{stems[0]}.png")
    np.testing.assert_array_equal(read_rgb(videos[0][4]), middle)
    monkeypatch.setattr(many_maps, "measure_maps", None)  # all of it is there
    assert run("maps", "--prompts", "prompts.txt", *few, "--animate", "gif,frames", "--out", "many")[0] == 0
