"""What is said to live in one room lives there alone; `make check` has the import contract."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mmdit_probe"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def top(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    ("words", "home"),
    [
        (("torch.overrides", "TorchFunctionMode"), {"attention"}),
        (("transformer_blocks", "context_pre_only"), {"families"}),
        (("_scaled_dot_product", "_fused_sdp_choice"), {"attention"}),
    ],
)
def test_what_lives_in_one_file(words, home):
    for path in FILES:
        if top(path) in home or top(path) == "tiny":
            continue
        assert not [word for word in words if word in path.read_text()], path


INSIDE = {
    *("transformer", "unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "text_encoder_3"),
    *("tokenizer_2", "tokenizer_3", "_execution_device", "vae_scale_factor", "default_sample_size"),
    *("latent_dist", "scaling_factor", "shift_factor", "alphas_cumprod", "step_index", "set_timesteps", "sigmas"),
    *("to_q", "to_k", "to_v", "to_out", "to_out.0", "_attention_backend", "_orig_mod", "down_blocks", "up_blocks"),
    *("attn1", "attn2", "guidance_embeds", "added_cond_kwargs", "pooled_projections", "hidden_states"),
}
"""Names inside a pipeline: its parts, their configurations and modules, the transformer's arguments."""
OURS = {"sigmas", "transformer"}
"""Also names of our own objects: only those read of something called pipe count."""


def names_read(tree):
    """Attributes, also by getattr and the like; those in `OURS` of a pipe alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr not in OURS or ast.unparse(node.value).split(".")[-1] == "pipe":
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            yield from [name.value for name in node.args if isinstance(name, ast.Constant)]


@pytest.mark.parametrize(
    "path", [path for path in FILES if top(path) not in ("families", "tiny")], ids=lambda path: path.stem
)
def test_only_families_knows_what_is_inside_a_pipeline(path):
    tree = ast.parse(path.read_text())
    known = INSIDE & set(names_read(tree))
    assert not known
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert top(path) == "pipelines" or not [name for name in imported if str(name).startswith("diffusers")]


def test_files_are_small():
    assert not [path for path in FILES if len(path.read_text().splitlines()) > 300]
