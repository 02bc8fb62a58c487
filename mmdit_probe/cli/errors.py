"""What stopped a command, in one line, where the user can do something about it."""

from __future__ import annotations

import sys
from typing import Any

from mmdit_probe.utils.text import one_line


def user_message(error: Exception) -> str | None:
    """One line for what comes of arguments, files, disks or memory; None for a mistake of this program."""
    if hasattr(error, "format_message"):
        return _usage(error)
    if isinstance(error, ValueError):
        return one_line(str(error))
    if _is_memory(error):
        return (
            "out of memory; a smaller --batch, fewer layers or timesteps, --dtype bf16 or --offload model need less "
            f"({one_line(str(error), 160)})"
        )
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}{error.strerror or error}")
    return None


def _usage(error: Any) -> str:
    """A wrong option; the help itself where a command was called without arguments."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    path = getattr(getattr(error, "ctx", None), "command_path", "mmdit-probe")
    return one_line(f"{error.format_message().rstrip('.')}; see {path} --help")


def _is_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))
