"""Commands that take back: a user's data for ever, signals until they are taken in again."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from clients.cli.session import WRONG_ARGUMENTS, Session, command, fail
from server.wire.operate import ErasureReply, QuarantineRequest


class Remedy(StrEnum):
    ROLL_BACK = "roll_back"
    RETRAIN = "retrain"


TenantOption = Annotated[str | None, typer.Option(help="The user's tenant; the key's own if absent.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    command(app)(erase)
    command(app, name="set-aside")(set_aside)


def erase(
    session: Session,
    *,
    user: Annotated[str, typer.Argument(metavar="USER", help="As the app names them.")],
    tenant: TenantOption = None,
    adapters: Annotated[
        Remedy | None, typer.Option(help="What to do about adapters that learned from it; shown if absent.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Erase all that is kept of a user, for ever, and show which adapters learned from it.

    roll_back: those never serve again; the newest ancestor that did not learn from it, or base, takes their place.
    retrain: the same, and the learner learns again from everybody else. May be asked for later: erase the user again.
    """
    if not yes and not typer.confirm(f"Erase everything of {user} for ever?", err=True):
        return fail("nothing was erased")
    with session.client() as client:
        reply = client.erase_user(user, tenant, adapters.value if adapters is not None else None)
    return session.show(reply, lambda: _in_words(reply))


def set_aside(
    session: Session,
    *,
    user: Annotated[str | None, typer.Option(help="All that this user has said, as the app names them.")] = None,
    tenant: TenantOption = None,
    annotator: Annotated[str | None, typer.Option(help="The same by the annotator's name in feed and export.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="What this adapter learned from, and its sound ancestors did not.")
    ] = None,
    signal: Annotated[list[str] | None, typer.Option(help="One signal; repeatable.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take them back in.")] = False,
    reason: Annotated[str, typer.Option(help="Kept in the audit log.")] = "",
) -> None:
    """Set signals aside, so that nothing is learned from them."""
    said: dict[str, Any] = {"user": user, "tenant": tenant, "annotator": annotator, "adapter": adapter}
    said = {name: value for name, value in {**said, "signal_ids": signal}.items() if value is not None}
    try:
        request = QuarantineRequest(**said, undo=undo, reason=reason)
    except ValidationError:
        return fail("give one of --user, --annotator, --adapter and --signal", WRONG_ARGUMENTS)
    with session.client() as client:
        reply = client.quarantine_signals(request)
    return session.show(reply, lambda: f"{reply.changed} signals {'taken back in' if undo else 'set aside'}")


def _in_words(reply: ErasureReply) -> str:
    lines = [f"erased: {reply.groups} groups, {reply.signals} signals, {reply.images} images"]
    lines.append(f"adapters that learned from it: {', '.join(reply.adapters) or 'none'}")
    if reply.undeclared:
        lines.append(f"adapters that do not say what they learned from: {', '.join(reply.undeclared)}")
    for alias in reply.remedies:
        if alias.taken is not None:
            lines += [f"done: {one.what}" for one in alias.remedies if one.action == alias.taken]
        else:
            lines += [f"--adapters {one.action}: {one.what}" for one in alias.remedies]
    return "\n".join(lines)
