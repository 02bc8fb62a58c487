"""What a record's own coordinates mean; a readout's fields and axes say what theirs mean."""

from __future__ import annotations

from typing import Any

_MEANINGS = {
    "layer": "number of the attention block, from 0",
    "step": "position in the sampling loop, from 0 (the noisiest)",
    "timestep": "the paper's t: the step counted from the clean end, of which 1 is the cleanest",
    "sigma": "noise level, from 0 (image) to 1 (noise)",
    "scheduler_timestep": "the scheduler's own number of the noise level",
    "conditional": "whether the batch row carries the prompt rather than the negative prompt or a perturbed prediction",
    "branch": "branch of guidance: conditional, unconditional, or perturbed (the prompt, with something left out)",
    "token_text": "text of the token",
    "token_kind": "kind of the token: start, word, end, padding, template or absent",
    "token_encoder": "text encoder of the position",
}


def coordinate(name: str, dims: str | tuple[str, ...], values: Any) -> tuple[Any, Any, dict[str, str]]:
    """A coordinate as xarray takes it: dims, values, and attributes ``long_name`` and ``units``."""
    return dims, values, described(_MEANINGS[name])


def described(long_name: str, units: str = "1") -> dict[str, str]:
    """The attributes of a variable or coordinate."""
    return {"long_name": long_name, "units": units}
