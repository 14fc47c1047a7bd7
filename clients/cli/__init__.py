"""The `plumbline` command: run the stack, and operate a server from a terminal.

Exit status: 0 done, 1 the server (or the stack) said no, 2 wrong arguments, 3 no connection.
"""

from __future__ import annotations

from clients.cli.app import app


def main() -> None:
    """Entry point of the `plumbline` script."""
    app()


__all__ = ["app", "main"]
