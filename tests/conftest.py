"""Shared small models; shape contracts of the package are enforced while the tests run."""

from __future__ import annotations

import os
import re
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

_SHAPED = (
    "attention.blocks",
    "attention.joint",
    "attention.reductions",
    "attention.reordered",
    "attention.scores",
    "pipelines.forward",
    "segmentation",
    "evaluation",
    "metrics",
    "magnet",
    "baselines",
)  # the modules whose signatures state shapes
_CONTRACTS = install_import_hook([f"mmdit_probe.{name}" for name in _SHAPED], "beartype.beartype")

import pytest
import torch
from hypothesis import settings

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("suite")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, len(os.sched_getaffinity(0))))


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    """After every test no probe is active in this thread, the kernel chosen for diffusers is as it was, no figure
    stays open, and every random stream starts anew."""
    torch.manual_seed(0)
    before = _kernel_chosen()
    yield
    from mmdit_probe.attention.intercept import active_probes

    assert active_probes() == 0
    assert torch.overrides._get_current_function_mode() is None
    assert _kernel_chosen() == before or before is None
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def _kernel_chosen():
    """The attention kernel that diffusers gives every model that names none; None before diffusers is loaded."""
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    return dispatch and dispatch._AttentionBackendRegistry._active_backend


NEWEST_FAMILIES = (0, 42)
"""The release of diffusers that has all classes of the families."""
_ABSENT = re.compile(
    r"module '?diffusers[\w.]*'? has no attribute '?(\w+)|cannot import name '(\w+)' from 'diffusers"
    r"|No module named '(diffusers[\w.]*)"
)


def _skip_absent(error):
    """One rule for older releases of diffusers: a test of a class that is not there is skipped."""
    import diffusers

    missing = _ABSENT.search(str(error))
    if missing and tuple(map(int, diffusers.__version__.split(".")[:2])) < NEWEST_FAMILIES:
        pytest.skip(f"diffusers {diffusers.__version__} has no {next(filter(None, missing.groups()))}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    try:
        return (yield)
    except (AttributeError, ImportError) as error:
        _skip_absent(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except (AttributeError, ImportError) as error:
        _skip_absent(error)
        raise


@pytest.fixture
def sd3():
    """A small random SD3 transformer, 3 layers of 2 heads, 4 x 6 tokens for 8 x 12 latents."""
    return make_sd3()


@pytest.fixture
def inputs():
    return make_inputs()


def make_sd3(layers: int = 3, dual: tuple[int, ...] = (), qk_norm: str | None = None):
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=16,
        dual_attention_layers=dual,
        qk_norm=qk_norm,
    )
    return model.eval().requires_grad_(False)


def make_inputs(batch: int = 2, text: int = 7, dtype: torch.dtype = torch.float32, height: int = 8, width: int = 12):
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    return {
        "hidden_states": randn(batch, 4, height, width),
        "encoder_hidden_states": randn(batch, text, 16),
        "pooled_projections": randn(batch, 8),
        "timestep": torch.full((batch,), 500.0),
    }


@pytest.fixture(scope="session")
def tiny():
    """The embedded pipeline."""
    from mmdit_probe import load_pipeline

    return load_pipeline("tiny-sd3")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser's driver."""
    from browser import started

    driver = started(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory):
    """A pipeline folder of tiny-sd3's classes with random weights and 3 layers."""
    from dataclasses import replace

    from mmdit_probe.tiny.kinds import make_denoiser, make_pipeline
    from mmdit_probe.tiny.parts import make_autoencoder
    from mmdit_probe.tiny.recipe import Recipe

    recipe = replace(Recipe(), layers=3, autoencoder_channels=(8, 8, 8, 8))
    denoiser = make_denoiser(recipe).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in denoiser.transformer.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    folder = tmp_path_factory.mktemp("model") / "random-sd3"
    make_pipeline(denoiser, make_autoencoder(recipe).eval(), recipe).save_pretrained(folder)
    return folder


@pytest.fixture
def random_pipe(random_folder):
    from mmdit_probe import load_pipeline

    return load_pipeline(str(random_folder))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, random_folder):
    """Run the command line in an empty folder; returns exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    from mmdit_probe.cli import main

    def run(*arguments, model=True):
        chosen = ["--model", str(random_folder)] if model else []
        monkeypatch.setattr(sys, "argv", ["mmdit-probe", *arguments, *chosen])
        with pytest.raises(SystemExit) as stopped:
            main()
            sys.exit(0)
        output = capsys.readouterr()
        return stopped.value.code or 0, output.out, output.err

    return run


def in_two_processes(arguments, folder, before=""):
    """The command line in two CPU processes, as torchrun and `accelerate launch` start them; its standard output.

    ``before`` is Python that each process runs first.
    """
    (folder / "start.py").write_text(f"{before}\nfrom mmdit_probe.cli import main\n\nmain()\n")
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "start.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*program, *arguments], capture_output=True, text=True, cwd=folder, check=False, env=environment, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
