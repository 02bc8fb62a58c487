"""Tables as plain data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One dict per row of a table, from column to a value that JSON can hold; NaN and infinities become None.

    >>> import pandas as pd
    >>> json_rows(pd.DataFrame({"layer": [8, 9], "miou": [0.25, float("nan")]}))
    [{'layer': 8, 'miou': 0.25}, {'layer': 9, 'miou': None}]
    """
    return json.loads(table.to_json(orient="records"))
