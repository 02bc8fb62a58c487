"""Small editing pipelines with reference images, from their own call: grids, words, budgets, edits, studies."""

import diffusers
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small_pipelines import small_pipeline

from mmdit_probe import I2RMaps, I2TMaps, Knockout, Probe, RegionMass, load_pipeline, read_image
from mmdit_probe.configs import GenerationConfig
from mmdit_probe.pipelines.generation import generation_arguments

WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
SQUARE = WIDE.resize((64, 64))
ARGUMENTS = {"num_inference_steps": 1, "height": 32, "width": 64, "output_type": "latent"}


def kontext():
    plain = small_pipeline("flux")
    names = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")
    pipe = diffusers.FluxKontextPipeline(**{name: plain.components[name] for name in names})

    def run():
        size = {"max_area": 32 * 64, "_auto_resize": False, "max_sequence_length": 8}
        noise = torch.Generator().manual_seed(0)
        return pipe(image=WIDE, prompt="a red heart", generator=noise, **size, **ARGUMENTS).images

    return pipe, run


def flux2():
    pipe = small_pipeline("flux2")

    def run():
        noise = torch.Generator().manual_seed(0)
        given = {"image": [WIDE, SQUARE], "prompt": "a red heart", "max_sequence_length": 32}
        return pipe(**given, generator=noise, **ARGUMENTS).images

    return pipe, run


@pytest.mark.parametrize(("make", "grids"), [(kontext, ["16 x 24"]), (flux2, ["16 x 24", "16 x 16"])])
def test_each_reference_has_the_grid_of_its_image(make, grids):
    pipe, run = make()
    plain = run()
    with Probe(pipe, [RegionMass(), I2RMaps(), I2TMaps()]) as probe:
        probed = run()
    assert torch.equal(plain, probed)
    record = probe.dataset()
    assert record.attrs["grid"] == [8, 16]  # 32 x 64 px, two px a latent, two latents a token
    assert record.attrs["reference_grids"] == "; ".join(grids)
    assert record.attrs["extra_tokens"] == 0
    mass = record["region_mass"]
    for asking in "ITR":
        whole = sum(mass.sel(region=f"{asking}2{key}", drop=True) for key in "ITR")
        np.testing.assert_allclose(whole, 1, atol=1e-5)
    for number, grid in enumerate(grids, 1):
        maps = record[f"i2r_{number}"]
        assert " x ".join(map(str, maps.shape[-2:])) == grid
        told = record["reference_mass"].sel(asking="image", reference=str(number)).mean("head")
        np.testing.assert_allclose(maps.sum(maps.dims[-2:]), told, atol=1e-5)


def test_an_image_without_its_reference_is_another():
    pipe, run = kontext()
    plain, layers = run(), range(2)
    with Probe(pipe, [RegionMass()], edits=[Knockout(layers, edge, batch="all") for edge in ("I2R", "T2R")]):
        cut = run()
    assert not torch.equal(plain, cut)
    assert torch.equal(run(), plain)


@pytest.fixture(scope="module")
def editing_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editing") / "flux2"
    small_pipeline("flux2-klein").save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path):
    for name, picture in (("wide.png", WIDE), ("square.png", SQUARE)):
        picture.save(tmp_path / name)
    return [str(tmp_path / "wide.png"), str(tmp_path / "square.png")]


DRAWN = ["--prompt", "a red heart", "--height", "32", "--width", "64", "--steps", "2", "--max-sequence-length", "20"]


def drawn(run, folder, files, *arguments):
    references = [part for file in files for part in ("--reference", file)]
    return run(*arguments, *DRAWN, *references, "--model", str(folder), model=False)


def test_commands_draw_with_reference_images(run, editing_folder, files, tmp_path):
    """In the order in which they are given; a run is continued only with the same images."""
    code, _, err = drawn(run, editing_folder, files, "attention-budget", "--timesteps", "1", "--json")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "results" / "attention-budget" / "attention_budget.csv")
    assert {"I2R", "T2R", "R2I"} <= set(table["region"])
    SQUARE.save(files[0])
    code, _, err = drawn(run, editing_folder, files, "attention-budget", "--timesteps", "1")
    assert code == 2
    assert "reference_content" in err


def test_the_explorer_shows_the_references_that_it_drew_with(run, editing_folder, files, tmp_path):
    code, _, err = drawn(run, editing_folder, files, "explore", "--layers", "1", "--save-record", "page.nc")
    assert code == 0, err
    page = (tmp_path / "results" / "explore" / "explore.html").read_text()
    alone = drawn(run, editing_folder, files[:1], "explore", "--layers", "1", "--out", "one.html")
    assert alone[0] == 0
    assert page.count("data:image/png;base64") > (tmp_path / "one.html").read_text().count("data:image/png;base64")


def test_maps_and_report_draw_with_references(run, editing_folder, files, tmp_path):
    words = ["--words", "heart", "--layers", "1", "--timesteps", "1"]
    plain, edited = (
        drawn(run, editing_folder, given, "maps", *words, "--out", name)
        for given, name in (([], "plain"), (files, "edited"))
    )
    assert plain[0] == edited[0] == 0, edited[2]
    one, other = (pd.read_csv(tmp_path / name / "maps.csv") for name in ("plain", "edited"))
    assert not np.allclose(one.select_dtypes("number"), other.select_dtypes("number"))
    assert drawn(run, editing_folder, files, "report")[0] == 0


def test_references_are_refused_where_nothing_attends_to_them(run, files, random_pipe, editing_folder):
    code, _, err = drawn(run, editing_folder, files, "maps", "--words", "heart", "--image", files[0])
    assert code == 2
    assert "with --image leave --reference out" in err
    with pytest.raises(ValueError, match="StableDiffusion3Pipeline takes no reference images; load an editing model"):
        generation_arguments(random_pipe, GenerationConfig(reference=tuple(files)))
    img2img = diffusers.FluxImg2ImgPipeline(**small_pipeline("flux").components)
    with pytest.raises(ValueError, match="FluxImg2ImgPipeline takes no reference images"):
        generation_arguments(img2img, GenerationConfig(reference=tuple(files)))
    with pytest.raises(ValueError, match="not-there"):
        generation_arguments(load_pipeline(str(editing_folder)), GenerationConfig(reference=("not-there.png",)))
    with pytest.raises(ValueError, match="leave --reference out"):
        read_image(random_pipe, files[0], "sand", generation=GenerationConfig(reference=tuple(files)))


def test_kontext_takes_one_reference_as_it_is(files):
    pipe, _ = kontext()
    assert generation_arguments(pipe, GenerationConfig(reference=(files[0],)))["image"].size == WIDE.size
