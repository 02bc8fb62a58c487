"""Whether the layer with the largest of a measure leads the others by more than chance, over prompts."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from ..metrics.inference import FEWEST, best
from ..metrics.verdicts import Form, counted, few, lead_lines, listed


def over_prompts(table: pd.DataFrame) -> str:
    """Over how many prompts a table's numbers are averages, in words; ``n`` may be missing from a table."""
    return counted(int(table["n"].max()), "prompt") if "n" in table else "prompts"


def layer_lead(values: xr.DataArray, form: Form) -> list[str]:
    """Lines on the lead of the layer with the largest mean of ``values`` (prompt, layer, ...), averaged over all other dims.

    One line, without a verdict, for too few prompts; none for a single layer.
    """
    over = [dim for dim in values.dims if dim not in ("prompt", "layer")]
    mean = values.mean(over)
    wide = (mean if "prompt" in mean.dims else mean.expand_dims(prompt=1)).transpose("layer", "prompt")
    names = [f"layer {layer}" for layer in wide["layer"].values]
    if len(names) < 2 or wide.isnull().all():
        return []
    lead = best(wide.values[:, :, None].astype(float))
    leader = names[lead.leader].capitalize()
    if lead.value.n < FEWEST:
        return [f"{leader} leads in this sample; {few(lead.value.n, 'prompt')}, no verdict."]
    if len(lead.tied) > 1:
        return [f"{listed([names[place] for place in lead.tied]).capitalize()} tie: none leads."]
    return [f"{leader}: {line}" for line in lead_lines(lead, names, form, "prompt", "layer")]
