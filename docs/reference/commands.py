"""The reference of commands: `plumbline` from its own tree, the others as they describe themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer.main

from clients.cli import app
from docs.reference.markdown import cell, code, inline, table

INTRODUCTION: Final = """# Commands

## `plumbline`

Runs the stack, and operates a server from a terminal. The server and the key come from `--url` and `--key`, or
`PLUMBLINE_URL` and `PLUMBLINE_KEY`; without either, `http://127.0.0.1:8400` and no key. `--json` prints the reply as
JSON in place of a table. `plumbline --install-completion` teaches your shell to complete commands and options.

| exit status | |
|---|---|
| 0 | done |
| 1 | refused or failed: the server's words are on standard error |
| 2 | wrong arguments or a wrong configuration; nothing was sent |
| 3 | no connection |
"""
PROGRAMS: Final = {
    "server": "The service itself. `plumbline up` starts it with an engine and a learner.",
    "learner": "Trains adapters from what people say about the answers of one alias.",
    "learner.reward_bt": "Trains a reward model from one alias's pairs.",
    "server.checking": "What `plumbline reward check` runs: pairs on standard input, a report on standard output.",
    "server.mining": "What `plumbline reward criteria` runs: pairs on standard input, lines on standard output.",
    "clients.demo": "The demo (`make demo`).",
    "clients.demo.train": "Trains the demo's model again (`make demo-model`).",
    "clients.demo.evaluate": "Measures the demo's model.",
}


def page() -> str:
    lines = [INTRODUCTION]
    for name, command in commands():
        lines += _command(name, command)
    for module, what in PROGRAMS.items():
        lines += [f"## `python -m {module}`", "", what, "", "```text", help_of(module), "```", ""]
    return "\n".join(lines)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its whole name, as `keys create`."""

    def walk(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
        for name, one in group.commands.items():
            whole = f"{prefix} {name}"
            yield from walk(whole, one) if hasattr(one, "commands") else [(whole, one)]

    return walk("plumbline", typer.main.get_command(app))


def _command(name: str, command: Any) -> list[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    usage = " ".join([name, *(_metavar(one) for one in arguments), "[OPTIONS]"])
    paragraphs = [inline(one) for one in (command.help or "").split("\n\n")]
    lines = [f"### `{name}`", "", f"`{usage}`", "", *(line for one in paragraphs for line in (one, ""))]
    rows = [(code(_metavar(one)), inline(one.help or ""), "") for one in arguments]
    rows += [(_names(one), inline(one.help or ""), _default(one)) for one in options]
    return [*lines, *table(("argument or option", "meaning", "default"), rows)]


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _names(option: Any) -> str:
    """`--share`; of a flag with its opposite, both."""
    names = ", ".join(map(code, [*option.opts, *option.secondary_opts]))
    return f"{names} ({', '.join(_variables(option))})" if _variables(option) else names


def _variables(option: Any) -> list[str]:
    found = option.envvar or []
    return [code(one) for one in ([found] if isinstance(found, str) else found)]


def _default(option: Any) -> str:
    value = option.default
    if option.required:
        return "must be given"
    if value in (None, "", False) or callable(value):
        return ""
    return code(cell(str(getattr(value, "value", _without_place(value)))))


def _without_place(value: object) -> str:
    """A default below this directory, as it is everywhere."""
    return str(value).removeprefix(f"{Path.cwd()}{os.sep}")


def help_of(module: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PLUMBLINE_")}
    command = [sys.executable, "-m", module, "--help"]
    run = subprocess.run(
        command, env={**environment, "COLUMNS": "100"}, capture_output=True, text=True, check=True, timeout=120
    )
    return run.stdout.rstrip()
