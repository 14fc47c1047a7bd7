"""The `plumbline` command: run the stack, and operate a server from a terminal.

Exit status: 0 done, 1 the server (or the stack) said no, 2 wrong arguments, 3 no connection.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

from clients.cli.app import app
from clients.cli.session import WRONG_ARGUMENTS

USAGE_ERROR: Any = typer.BadParameter.__base__
"""Of the click that typer brings, or of its own."""
INTERRUPTED = 130


def main() -> None:
    """Entry point of the `plumbline` script. Wrong arguments end in one line, as every other failure."""
    try:
        sys.exit(app(standalone_mode=False))
    except USAGE_ERROR as error:
        message = error.format_message()
        if "\n" in message or error.ctx is None:  # the help of a group that was called alone
            error.show()
        else:
            print(f"plumbline: {message.rstrip('.')}. See: {error.ctx.command_path} --help", file=sys.stderr)
        sys.exit(WRONG_ARGUMENTS)
    except typer.Abort:
        sys.exit(INTERRUPTED)


__all__ = ["app", "main"]
