"""The hub that models are fetched from: whether it answers, and why a model of it could not be had."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from huggingface_hub import constants, get_session

from ..utils.text import one_line

PATIENCE = 5.0
"""Seconds that the hub has to answer in; it is asked once, where its client would ask again and again for each file."""
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def hub_trouble() -> str:
    """Why nothing can be fetched from the hub, in words; empty if it answers."""
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    return _no_answer(constants.ENDPOINT)


@lru_cache
def _no_answer(endpoint: str) -> str:
    try:
        get_session().head(endpoint, timeout=PATIENCE)
    except Exception as error:  # of the connection, its certificate or a proxy, whichever client is in use
        why = one_line(str(error), 160) or type(error).__name__
        return f"{endpoint} does not answer within {PATIENCE:g} seconds ({why}); check the network"
    return ""


def local_only(source: str) -> bool:
    """Whether ``source`` is to be read from this machine alone: it is a folder or file, or the hub can't be reached.

    A model that was fetched earlier is then found in the hub's cache.
    """
    return Path(source).exists() or bool(hub_trouble())


def is_hub_id(source: str) -> bool:
    """Whether a text can be the name of a repository: OWNER/NAME, or of an old one NAME."""
    return _ID.fullmatch(source) is not None and not any(part in source for part in ("..", "--"))


def missing_on_hub(source: str, error: BaseException) -> str | None:
    """Why a name that is no folder here could not be loaded, following "MODEL "; None if the hub is not the cause."""
    if not is_hub_id(source):
        return "is neither a folder here nor a hub id such as OWNER/NAME; check the path"
    kinds = {type(cause).__name__ for cause in _causes(error)}
    if "GatedRepoError" in kinds:
        return None
    trouble = hub_trouble()
    if trouble:
        return (
            f"is neither a folder here nor a hub id that can be reached, and no copy of it is in the cache: {trouble}"
        )
    if "RevisionNotFoundError" in kinds:
        return "is on the hub without this revision; check --revision"
    if "RepositoryNotFoundError" in kinds:
        return "is neither a folder here nor a model on the hub; check the name (one that is private needs `hf auth login`)"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
