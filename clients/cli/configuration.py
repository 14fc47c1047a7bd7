"""`plumbline config`: what a server would be started with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter

from clients.cli.session import WRONG_ARGUMENTS, fail
from clients.toml import to_toml

TREE: Final = TypeAdapter(dict[str, Any])


def register(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command()(config)


def config(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", exists=True, dir_okay=False, help="TOML; the defaults if absent.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON in place of TOML.")] = False,
) -> None:
    """Check a configuration and print every setting as it would be, PLUMBLINE_* variables included, secrets masked.

    Exit status 2, with the setting that is wrong, for a configuration that a server would not start with.
    """
    settings = effective(file)
    if json:
        return print(settings)
    return print(to_toml(TREE.validate_json(settings)), end="")


def effective(file: Path | None) -> str:
    """Every setting as JSON; the end of the command, with the setting that is wrong, where a server would not start."""
    command = [sys.executable, "-m", "server", "--check-config", *(["--config", str(file)] if file else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["the server could not be asked; is it installed?"]
        fail(reason[0].removeprefix("plumbline: "), WRONG_ARGUMENTS)
    return done.stdout.strip()
