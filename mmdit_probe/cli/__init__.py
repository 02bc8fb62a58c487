"""The command line: parse, call, print where the files are. One command a file; `program` lists them."""

from __future__ import annotations

import sys

import typer

from mmdit_probe.utils.distributed import ShareDone

from .collector import collector_paused
from .errors import user_message
from .held import release
from .terminal import flush, pipe_closed, prepare, say

INTERRUPTED = 130


def main() -> None:
    """Run; whatever the user can mend is one line on standard error and exit code 2, an interrupt 130."""
    prepare()
    if len(sys.argv) == 1:
        from .examples import tasks

        say(tasks())
        flush()
        sys.exit(0)
    try:
        with collector_paused():
            from .program import program

            code = program(sys.argv[1:])(standalone_mode=False, prog_name="mmdit-probe")
    except ShareDone as done:
        code = 0
        if done.share.is_part:
            say(str(done), err=True)
    except SystemExit as stopped:
        code = 0 if pipe_closed() else stopped.code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        say(f"error: {message}", err=True)
        code = 2
    finally:
        release()
    if code == INTERRUPTED:
        say("stopped; finished work is kept", err=True)
    flush()
    sys.exit(code if isinstance(code, int) else 0)
