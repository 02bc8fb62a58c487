"""What goes with MAGNET: released files, captions by a model, the folder that T2I-CompBench++ reads."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_inputs
from PIL import Image

from mmdit_probe import load_pipeline
from mmdit_probe.configs import GenerationConfig
from mmdit_probe.magnet.captioner import Captioner, caption_files
from mmdit_probe.magnet.compbench import export_samples, read_compbench
from mmdit_probe.magnet.lora import add_lora
from mmdit_probe.magnet.official import import_official, official_weights


@pytest.fixture
def released(random_pipe, tmp_path):
    """A file as the released code writes it, of a LoRA that changes the output, and that model's transformer."""
    weights = add_lora(random_pipe, 2)
    for number, weight in enumerate(weights):
        weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    state = {
        f"backbone.transformer.{name}": weight
        for name, weight in random_pipe.transformer.state_dict().items()
        if "lora" in name
    }
    file = tmp_path / "lora_weights.pth"
    torch.save({"model": {**state, "attn_mlp.0.weight": torch.zeros(3)}, "iteration": 7}, file)
    return file, random_pipe.transformer


def test_a_released_file_gives_the_same_model(released, random_folder, tmp_path):
    file, transformer = released
    assert any(".lora_A.default.weight" in name for name in torch.load(file, weights_only=True)["model"])
    written = import_official(file, tmp_path / "out")
    loaded = load_pipeline(str(random_folder), lora=str(written.parent))
    inputs = make_inputs(batch=1)
    inputs["hidden_states"] = torch.randn(1, 16, 8, 8)
    inputs["encoder_hidden_states"] = torch.randn(1, 5, 192)
    inputs["pooled_projections"] = torch.randn(1, 192)
    with torch.no_grad():
        expected, plain = transformer(**inputs).sample, load_pipeline(str(random_folder)).transformer(**inputs).sample
        torch.testing.assert_close(loaded.transformer(**inputs).sample, expected)
    assert not torch.allclose(expected, plain)


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_file_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Malicious()}, "bad.pth")
    with pytest.raises(ValueError, match=r"bad.pth can't be read as tensors alone"):
        import_official(Path("bad.pth"), Path("out"))
    Path("raw.pth").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match=r"raw.pth can't be read as tensors alone"):
        import_official(Path("raw.pth"), Path("out"))
    assert not Path("executed").exists()
    assert not Path("out").exists()


def test_what_is_no_released_lora_is_explained(tmp_path):
    name = "backbone.transformer.blocks.0.attn.to_q.lora_{}.default.weight"
    with pytest.raises(ValueError, match=r"x holds no LoRA of the released code .* first name is 'other'"):
        official_weights({"other": torch.zeros(1)}, Path("x"))
    with pytest.raises(ValueError, match="has no lora_B of the same rank"):
        official_weights({name.format("A"): torch.zeros(2, 4)}, Path("x"))
    with pytest.raises(ValueError, match="has no lora_B of the same rank"):
        official_weights({name.format("A"): torch.zeros(2, 4), name.format("B"): torch.zeros(4, 3)}, Path("x"))
    with pytest.raises(ValueError, match="no file"):
        import_official(tmp_path / "none.pth", tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list; expected a dict of tensors"):
        import_official(tmp_path / "list.pth", tmp_path)


def test_the_command_imports(run, released):
    file, _ = released
    code, output, _ = run("magnet", "import-official", str(file), "--out", "taken", model=False)
    assert code == 0
    assert "--lora taken" in output
    assert Path("taken/pytorch_lora_weights.safetensors").is_file()
    code, _, error = run("magnet", "import-official", "nothing.pth", model=False)
    assert (code, error) == (2, "error: import-official: no file nothing.pth\n")


@pytest.fixture
def image_files(tmp_path):
    files = {}
    for name in ("b", "a", "c"):
        files[name] = tmp_path / f"{name}.png"
        Image.fromarray(np.full((32, 40, 3), ord(name), np.uint8)).save(files[name])
    return files


def test_captions_are_written_after_every_batch_and_kept(image_files, tmp_path):
    out, asked = tmp_path / "captions.json", []

    def describe(images):
        asked.append(len(images))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [f"grey {image[0, 0, 0]}" for image in images]

    with pytest.raises(KeyboardInterrupt):
        caption_files(describe, image_files, out, batch=2)
    assert json.loads(out.read_text()) == {"b.png": "grey 98", "a.png": "grey 97"}
    steps = []
    found = caption_files(describe, image_files, out, batch=2, progress=lambda *at: steps.append(at))
    assert found == {"b.png": "grey 98", "a.png": "grey 97", "c.png": "grey 99"}
    assert asked == [2, 1, 1]
    assert steps == [(3, 3)]
    out.write_text("[]")
    with pytest.raises(ValueError, match="is not a caption file and can't be continued"):
        caption_files(describe, image_files, out)


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A random BLIP of a few thousand weights, with its processor."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "on", "grass"]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = BlipTextConfig(
        vocab_size=len(words), encoder_hidden_size=16, max_position_embeddings=32, projection_dim=16, **sizes, **special
    )
    vision = BlipVisionConfig(image_size=32, patch_size=16, projection_dim=16, **sizes)
    torch.manual_seed(0)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_a_model_of_transformers_writes_captions(blip, image_files, run):
    captioner = Captioner(str(blip), max_new_tokens=5)
    images = [np.asarray(Image.open(file)) for file in image_files.values()]
    assert all(isinstance(caption, str) for caption in captioner(images))
    asked = Captioner(str(blip), "a red", max_new_tokens=5)(images)
    assert len(asked) == 3
    code, output, _ = run(
        "magnet", "caption", *map(str, image_files.values()), "--model", str(blip), "--longest", "5", "--out", "c/x.json",
        model=False)  # fmt: skip
    assert code == 0, output
    assert set(json.loads(Path("c/x.json").read_text())) == {"a.png", "b.png", "c.png"}
    code, _, error = run("magnet", "caption", str(image_files["a"]), "--model", "/no/model", model=False)
    assert code == 2
    assert error.startswith("error: caption: '/no/model' is not an image-to-text model that can be loaded")
    assert error.count("\n") == 1


def test_compbench_prompts_are_the_first_column(tmp_path):
    file = tmp_path / "color_val.txt"
    file.write_text("a green bench\tbench\n\na blue bowl\n")
    assert read_compbench(file) == ("a green bench", "a blue bowl")
    for text, message in (("\n", "holds no prompt"), ("a_b", "can't be the name"), ("a/b", "can't be the name")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_compbench(file)


def test_samples_are_named_and_seeded_as_the_evaluators_expect(random_pipe, tmp_path, monkeypatch):
    made = []

    def generate(pipe, prompts, seed, generation):
        made.append((list(prompts), seed))
        return np.full((len(prompts), 4, 4, 3), seed, np.uint8)

    monkeypatch.setattr("mmdit_probe.magnet.compbench.generate_batch", generate)
    prompts = ("a green bench", "a blue bowl", "a red cup")
    files = export_samples(random_pipe, prompts, tmp_path, GenerationConfig(), each=2, batch=2)
    assert sorted(file.name for file in files) == sorted(
        f"{prompt}_{2 * row + column:06d}.png" for row, prompt in enumerate(prompts) for column in range(2)
    )
    assert made == [(list(prompts[:2]), 42), ([prompts[2]], 42), (list(prompts[:2]), 43), ([prompts[2]], 43)]
    assert np.asarray(Image.open(tmp_path / "samples" / "a blue bowl_000003.png"))[0, 0, 0] == 43
    (tmp_path / "samples" / "a red cup_000005.png").unlink()
    made.clear()
    export_samples(random_pipe, prompts, tmp_path, GenerationConfig(), each=2, batch=2)
    assert made == [(["a red cup"], 43)]


def test_the_command_exports(run, tmp_path):
    (tmp_path / "shape_val.txt").write_text("a round box\n")
    code, output, _ = run("magnet", "compbench", "shape_val.txt", "--each", "2", "--steps", "1")
    assert code == 0
    assert "the evaluators' --out_dir is results/compbench/shape_val" in output
    assert len(list(Path("results/compbench/shape_val/samples").glob("a round box_00000*.png"))) == 2
