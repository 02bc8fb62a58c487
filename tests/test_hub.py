"""Models and LoRAs that can't be had: the message names the cause, and nobody waits for it."""

import shutil
from pathlib import Path

import pytest

from mmdit_probe import load_pipeline
from mmdit_probe.pipelines import hub
from mmdit_probe.pipelines.pretrained import load_error


@pytest.fixture
def online(monkeypatch):
    """The hub is not switched off; ``answers`` of it are the test's."""
    monkeypatch.setattr(hub.constants, "is_offline_mode", lambda: False)
    hub._no_answer.cache_clear()
    yield monkeypatch
    hub._no_answer.cache_clear()


class Session:
    def __init__(self, error=None):
        self.error, self.asked = error, []

    def head(self, address, timeout):
        self.asked.append((address, timeout))
        if self.error is not None:
            raise self.error


def test_a_hub_that_does_not_answer_is_asked_once(online, monkeypatch):
    session = Session(TimeoutError("timed out"))
    online.setattr(hub, "get_session", lambda: session)
    from mmdit_probe.pipelines.layer_count import layer_count

    for name in ("owner/one", "owner/two"):
        assert layer_count(name) is None
        with pytest.raises(
            ValueError,
            match=r"can be reached, and no copy .*: https://\S+ does not answer within 5 seconds \(timed out\)",
        ):
            load_pipeline(name)
    assert session.asked == [(hub.constants.ENDPOINT, hub.PATIENCE)]


def test_a_hub_that_is_switched_off_is_said_to_be():
    with pytest.raises(ValueError, match="no copy of it is in the cache: HF_HUB_OFFLINE is set"):
        load_pipeline("owner/name")


def named(name, base=OSError):
    return type(name, (base,), {})("404")


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("RepositoryNotFoundError", "is neither a folder here nor a model on the hub; check the name"),
        ("RevisionNotFoundError", "is on the hub without this revision; check --revision"),
        ("GatedRepoError", "needs access: accept its license"),
    ],
)
def test_what_the_hub_answers_is_told(online, cause, message):
    online.setattr(hub, "get_session", Session)
    error = OSError("gated repo" if cause.startswith("Gated") else "no such thing")
    error.__cause__ = named(cause)
    assert message in load_error("model", "owner/name", error)


@pytest.mark.parametrize("name", ["../../x", "a/b/c", "my model", "C:\\models\\x", "/no/such/folder"])
def test_what_can_be_no_hub_id_is_a_wrong_path(name):
    with pytest.raises(ValueError, match="is neither a folder here nor a hub id such as OWNER/NAME; check the path"):
        load_pipeline(name)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ("nope", "lora: 'nope' is neither a file or folder here nor a hub id such as OWNER/NAME"),
        ("nope.safetensors", "lora: no file 'nope.safetensors'"),
        ("hollow", "lora: the folder 'hollow' holds no .safetensors file"),
        ("owner/nope", "lora: 'owner/nope' is neither a folder here nor a hub id that can be reached"),
    ],
)
def test_a_lora_that_is_not_there(run, tmp_path, lora, message):
    (tmp_path / "hollow").mkdir()
    arguments = ["maps", "--prompt", "a red circle", "--words", "circle", "--steps", "1", "--lora", lora]
    code, out, error = run(*arguments)
    assert (code, out) == (2, "")
    assert error.splitlines()[-1].startswith(f"error: {message}")
    assert not (tmp_path / "results").exists()


def test_a_missing_prompts_file_is_named(run):
    code, _, error = run("attention-budget", "--prompts", "none.txt")
    assert (code, error) == (2, "error: prompts: none.txt can't be read (No such file or directory)\n")


def test_commands_offer_the_layers_that_they_take(random_folder, monkeypatch, run, tmp_path):
    from PIL import Image

    folder = tmp_path / "unknown"
    shutil.copytree(random_folder, folder)
    (folder / "probe_defaults.json").unlink(missing_ok=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    code, _, error = run("segment", "photo.png", "--classes", "red", "--model", "unknown", model=False)
    assert code == 2
    assert error.splitlines()[-1].endswith("give --layer N, or --layer auto, which finds one")
    code, _, error = run("perturb", "--prompt", "sand", "--clip", "tiny-clip", "--model", "unknown", model=False)
    assert error.splitlines()[-1].endswith("which finds one, or --layers all")


def as_variant(folder, variant):
    """The folder of a model whose weights have the variant's name."""
    for file in list(Path(folder).rglob("*.safetensors")):
        file.rename(file.with_name(file.name.replace(".safetensors", f".{variant}.safetensors")))


def test_weights_of_a_variant(tmp_path, random_folder, run):
    shutil.copytree(random_folder, tmp_path / "half")
    as_variant(tmp_path / "half", "fp16")
    with pytest.raises(ValueError, match=r"has its weights as the variant fp16 alone; add --variant fp16"):
        load_pipeline(str(tmp_path / "half"))
    with pytest.raises(ValueError, match="has no weights of the variant 'bf16'; it has fp16"):
        load_pipeline(str(tmp_path / "half"), variant="bf16")
    one, other = load_pipeline(str(random_folder)), load_pipeline(str(tmp_path / "half"), variant="fp16")
    for (name, weight), same in zip(one.transformer.named_parameters(), other.transformer.parameters(), strict=True):
        assert (weight == same).all(), name
    arguments = ["maps", "--prompt", "a red circle", "--words", "circle", "--steps", "1", "--out", "out"]
    assert run(*arguments, "--model", "half", "--variant", "fp16", model=False)[0] == 0
    from mmdit_probe import load_record

    assert load_record(tmp_path / "out" / "maps.nc").attrs["model"].endswith("fp32, variant fp16")
