"""`plumbline keys`: API keys are made, listed and revoked."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from clients.cli.session import WRONG_ARGUMENTS, Session, command, fail, table, when
from server.wire.keys import KeyReply, KeyRequest

UNITS_S: Final = {"m": 60.0, "h": 3600.0, "d": 86_400.0}
PAGE: Final = 1000


class RoleOption(StrEnum):
    APP = "app"
    LEARNER = "learner"
    OPERATOR = "operator"


Budget = Annotated[int | None, typer.Option(min=0, help="The key's own budget; 0: none. The role's if absent.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    group = typer.Typer(name="keys", help="Make, list and revoke API keys.", no_args_is_help=True)
    command(group)(create)
    command(group, name="list")(list_keys)
    command(group)(revoke)
    app.add_typer(group)


def create(
    session: Session,
    *,
    role: Annotated[RoleOption, typer.Option(help="What the key may do.")],
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    tenant: Annotated[str | None, typer.Option(help="Whose; the caller's own if absent.")] = None,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", metavar="TIME", help="As 90d, 12h or 30m; absent: never.")
    ] = None,
    requests_per_minute: Budget = None,
    candidates_per_minute: Budget = None,
    tokens_per_minute: Budget = None,
) -> None:
    """Make a key and print it, this once.

    The first operator's key is made while the server is stopped: python -m server --create-key operator.
    """
    seconds = _seconds(expires_in) if expires_in is not None else None
    if expires_in is not None and seconds is None:
        return fail(f"{expires_in}: give a number and its unit, as 90d, 12h or 30m", WRONG_ARGUMENTS)
    try:
        request = KeyRequest(
            role=role.value,
            name=name,
            tenant=tenant,
            expires_in_s=seconds,
            requests_per_minute=requests_per_minute,
            candidates_per_minute=candidates_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
    except ValidationError as error:
        first = error.errors()[0]
        return fail(f"{first['loc'][0]}: {first['msg']}", WRONG_ARGUMENTS)
    with session.client() as client:
        reply = client.create_key(request)
    return print(reply.model_dump_json(indent=2) if session.as_json else reply.key)


def list_keys(session: Session) -> None:
    """List every key, revoked ones too, oldest first."""
    with session.client() as client:
        reply = client.keys(PAGE)
        while reply.has_more:
            more = client.keys(PAGE, after=reply.data[-1].id)
            reply = more.model_copy(update={"data": [*reply.data, *more.data]})
    columns = ("key", "name", "role", "tenant", "made by", "made", "expires", "last used", "revoked")
    session.show(reply, lambda: table(columns, (_row(one) for one in reply.data)))


def revoke(
    session: Session,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="A key, as `plumbline keys list` shows it.")],
    force: Annotated[bool, typer.Option("--force", help="Even if it is the last operator's key.")] = False,
) -> None:
    """Stop a key: at once on the server that is asked, within seconds on others."""
    with session.client() as client:
        reply = client.revoke_key(key_id, force=force)
    session.show(reply, lambda: f"{reply.id} is revoked")


def _row(one: KeyReply) -> tuple[object, ...]:
    times = (one.created_at, one.expires_at, one.last_used_at, one.revoked_at)
    return (
        one.id,
        one.name,
        one.role,
        one.tenant,
        one.created_by,
        *(when(at) if at is not None else "" for at in times),
    )


def _seconds(text: str) -> float | None:
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    return int(found[1]) * UNITS_S[found[2]] if found else None
