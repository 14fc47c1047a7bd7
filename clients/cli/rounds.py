"""The command that shows training rounds, whatever became of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from clients.cli.operate import PAGES
from clients.cli.session import WRONG_ARGUMENTS, Session, command, fail, short_json, table, when
from server.wire.training import RoundReply, RoundSummary

COLUMNS = ("round", "outcome", "adapter", "from", "signals", "groups", "s", "told", "why")


def register(app: typer.Typer) -> None:
    """Add the command to the tree."""
    command(app)(rounds)


def rounds(
    session: Session,
    number: Annotated[int | None, typer.Argument(metavar="[ROUND]", help="Show this one alone.")] = None,
    *,
    alias: Annotated[str, typer.Option(help="Whose rounds.")] = "default",
    out: Annotated[Path | None, typer.Option(help="Write the round's page here: .html or .md.")] = None,
) -> None:
    """List an alias's training rounds, newest first, discarded and skipped ones too; or show one."""
    if out is not None and (number is None or out.suffix not in PAGES):
        return fail(f"--out wants a ROUND, and a file that ends in {' or '.join(PAGES)}", status=WRONG_ARGUMENTS)
    with session.client() as client:
        if number is None:
            found = client.rounds(alias)
            return session.show(found, lambda: _table(found.data))
        if out is not None:
            return _write(out, client.round_page(number, PAGES[out.suffix]))
        one = client.round(number)
    return session.show(one, lambda: _figures(one))


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text)
    except OSError as error:
        fail(f"{out}: {error.strerror}", WRONG_ARGUMENTS)


def _table(found: list[RoundSummary]) -> Table:
    rows = [
        (
            str(one.id),
            one.outcome,
            one.adapter or "-",
            one.parent or "-",
            _number(one.signals),
            _number(one.groups),
            _number(one.seconds),
            when(one.created_at),
            one.reason,
        )
        for one in found
    ]
    return table(COLUMNS, rows)


def _figures(one: RoundReply) -> Table:
    """What the learner told; curves are on the page."""
    told = {name: value for name, value in one.detail.items() if name != "curve"}
    return table(("", f"round {one.id}: {one.outcome}"), [(name, short_json(value)) for name, value in told.items()])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
