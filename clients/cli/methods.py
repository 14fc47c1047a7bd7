"""`plumbline methods`: what can be composed here, as the code itself tells it.

Learner and server tell what they have in processes of their own (`python -m learner.methods`, `... server.methods`):
the command can be installed without either.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Annotated, Final

import typer
from rich.markup import escape
from rich.table import Table

from clients.cli.session import REFUSED, WRONG_ARGUMENTS, console, fail, short_json, table
from server.wire.methods import METHODS, Method, MethodOption

TELLING: Final = ("learner", "server")
"""Parts that have methods; each is an extra of the package too."""
_MISSING: Final = re.compile(r"^ModuleNotFoundError: No module named '([\w.]+)'", re.MULTILINE)


def register(root: typer.Typer) -> None:
    """Add the command to the tree."""
    root.command("methods")(methods)


def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one alone, with its options.")] = None,
    *,
    kind: Annotated[str | None, typer.Option(help="Those of a kind alone: `pairwise`, `selection`, ...")] = None,
    needs: Annotated[
        str | None, typer.Option(help="Those that need this alone: `pairs`, `thumbs`, `ranks`, `rewards`, ...")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
) -> None:
    """List every method that an alias can be configured with: where it comes from, its formula, what it needs.

    Objectives, weightings, augmentations and advantages are settings of `[aliases.learner]`; the others are the
    alias's own. No server has to run.
    """
    known = [one for part in TELLING for one in _told_by(part)]
    _check("kind", kind, [one.kind for one in known])
    _check("needs", needs, [need for one in known for need in one.needs])
    _check("name", name, [one.name for one in known])
    chosen = [
        one
        for one in known
        if name in {None, one.name} and kind in {None, one.kind} and (needs is None or needs in one.needs)
    ]
    if json:
        print(METHODS.dump_json(chosen, indent=2).decode())
    elif not chosen:
        fail("no method is all of that", REFUSED)
    elif name is not None:
        _show_in_full(chosen)
    else:
        _show(chosen)


def _told_by(part: str) -> list[Method]:
    """What a part of this installation has."""
    command = [sys.executable, "-m", f"{part}.methods"]
    run = subprocess.run(command, capture_output=True, check=False)
    if run.returncode == 0:
        return METHODS.validate_json(run.stdout)
    said = run.stderr.decode(errors="replace").strip()
    if (missing := _MISSING.search(said)) is not None:
        said = f"{missing[1]} is not installed; `pip install 'plumbline[{part}]'` brings it"
    fail(f"the {part}'s methods cannot be listed: {said}")
    return []


def _check(what: str, given: str | None, known: Sequence[str]) -> None:
    """That there is such a thing."""
    if given is None or given in known:
        return
    like = difflib.get_close_matches(given, known, 3) if what == "name" else sorted(set(known))
    there_are = f"; there are: {', '.join(dict.fromkeys(like))}" if like else ""
    fail(f"no method has the {what} {given!r}{there_are}", WRONG_ARGUMENTS)


def _show(chosen: Iterable[Method]) -> None:
    """One table a kind: a row a method, what is said of it line by line."""
    screen = console()
    for kind, group in groupby(chosen, key=lambda one: one.kind):
        rows = [(one.name, "\n".join(one.needs), escape("\n".join(_lines(one)))) for one in group]
        screen.print(table((kind, "needs", "what it is, its formula, its options"), rows), soft_wrap=False)
        screen.print()


def _lines(one: Method) -> list[str]:
    what = f"{one.what}. " if one.what != one.formula else ""
    options = ", ".join(f"{option.name} {_default(option)}" for option in one.options)
    return [f"{what}{_cited(one)}", one.formula, *([options] if options else []), ""]


def _cited(one: Method) -> str:
    """Authors, address, place."""
    return ", ".join(part for part in (one.source, one.url) if part)


def _show_in_full(chosen: Iterable[Method]) -> None:
    screen = console()
    for one in chosen:
        said = {
            "kind": one.kind,
            "what": one.what,
            "source": _cited(one),
            "formula": one.formula,
            "needs": ", ".join(one.needs),
            "reads": ", ".join(one.reads),
        }
        screen.print(_facts(one.name, said), soft_wrap=False)
        rows = [(option.name, escape(_default(option)), escape(option.meaning)) for option in one.options]
        if rows:
            screen.print()
            screen.print(table(("option", "default", "meaning"), rows), soft_wrap=False)


def _facts(name: str, said: dict[str, str]) -> Table:
    return table(("", name), [(key, escape(value)) for key, value in said.items() if value])


def _default(option: MethodOption) -> str:
    return "-" if option.default is None else short_json(option.default).strip('"')
