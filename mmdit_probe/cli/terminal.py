"""What is said on the terminal: it never ends a run, whatever the terminal's encoding and however early a pipe closes."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, TextIO

import typer

from mmdit_probe.utils.distributed import worker_share
from mmdit_probe.utils.text import repaired


def say(text: str, err: bool = False) -> None:
    """Print a line on standard output or error; characters that it can't encode are escaped, as in ``\\u043a``.

    Where nobody reads it any more, nothing is said. `ValueError` if a file that it is led to can't hold it.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is None:
        return
    try:
        typer.echo(encodable(repaired(text), getattr(stream, "encoding", None)), err=err)
    except (OSError, ValueError) as error:  # a closed pipe, a terminal that has gone, a closed stream
        silence(stream)
        if isinstance(error, OSError) and error.errno in _FULL and not err:
            raise ValueError(f"standard output can't be written ({error.strerror}); make room") from error


def tell(text: str) -> None:
    """A notice on standard error; of processes that were started together the first one gives it."""
    if worker_share().begins:
        say(text, err=True)


def say_loading() -> None:
    """On a terminal, that what follows takes a while: PyTorch and diffusers are imported, where they are not yet."""
    if "diffusers" not in sys.modules and sys.stderr is not None and sys.stderr.isatty():
        tell("loading PyTorch and diffusers ...")


_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def encodable(text: str, encoding: str | None) -> str:
    """The text with what ``encoding`` has no bytes for escaped.

    >>> encodable("dog, \\u043a", "cp1252")
    'dog, \\\\u043a'
    """
    known = encoding or "utf-8"
    return text.encode(known, "backslashreplace").decode(known)


def silence(stream: Any) -> None:
    """From now on what is written to the stream is dropped, also what it still holds when the program ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # it has no file
        pass


def prepare() -> None:
    """What libraries print is escaped too where it can't be encoded."""
    for stream in _streams():
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write out what is left, if somebody reads it."""
    for stream in _streams():
        try:
            stream.flush()
        except (OSError, ValueError):
            silence(stream)


def pipe_closed() -> bool:
    """Whether typer or rich has met a closed pipe, as in ``mmdit-probe --help | head -1``, which is no fault.

    Typer then puts a wrapper around standard output, rich lets it go to the null device.
    """
    if sys.stdout is None or type(sys.stdout).__name__ == "PacifyFlushWrapper":
        return True
    try:
        own, null = os.fstat(sys.stdout.fileno()), os.stat(os.devnull)
    except (OSError, ValueError):
        return False
    return (own.st_dev, own.st_ino) == (null.st_dev, null.st_ino)


def _streams() -> list[TextIO]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]
