"""Spearman's rank correlation between the columns of a table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def rank_correlations(table: pd.DataFrame, names: Sequence[str], target: str) -> pd.Series:
    """Spearman's rank correlation of each column in ``names`` with the column ``target``, in [-1, 1].

    Rows with NaN in either column are left out; NaN if a column is constant.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"miou": [0.1, 0.5, 0.3], "same": [1, 9, 8], "reverse": [3, 1, 2]})
    >>> rank_correlations(table, ["same", "reverse"], "miou").to_dict()
    {'same': 1.0, 'reverse': -1.0}
    """
    return table[[*names, target]].corr(method="spearman")[target].drop(target)
