"""Commands of an operator: routing, adapters and their reports, moves, rollback, audit."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from clients.cli.session import REFUSED, WRONG_ARGUMENTS, Session, command, fail, short_json, table, when
from clients.client import AdapterAction, PlumblineClient, PlumblineError
from clients.sdk.client import DEFAULT_SERVER
from server.wire.adapters import (
    AdapterReply,
    IntervalReply,
    LineageReply,
    MoveRequest,
    RollbackRequest,
    RoutingReply,
    ShadowReply,
)

COMPLETION_TIMEOUT_S: Final = 2.0


def known_adapters(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids for the shell's completion; none where the server cannot be asked."""
    url, key = ctx.params.get("url") or DEFAULT_SERVER, ctx.params.get("key")
    try:
        with PlumblineClient(url, key, timeout_s=COMPLETION_TIMEOUT_S, max_attempts=1) as client:
            return [one.id for one in client.adapters().data if one.id.startswith(incomplete)]
    except PlumblineError:
        return []


AdapterArgument = Annotated[
    str,
    typer.Argument(metavar="ID", help="An adapter, as `plumbline adapters` lists it.", autocompletion=known_adapters),
]
NOT_MOVED: Final = frozenset({"alias", "generation", "updated_at"})
PAGES: Final[dict[str, Literal["html", "markdown"]]] = {".html": "html", ".md": "markdown"}
CHECK_TIMEOUT_S: Final = 24 * 3600.0
CHECK_COLUMNS: Final = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())

ReasonOption = Annotated[str, typer.Option(help="Kept in the audit log.")]
ExpectOption = Annotated[
    int | None, typer.Option("--expect-generation", min=0, help="Refuse unless routing still stands there.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    for function in (
        routing,
        adapters,
        report,
        lineage,
        promote,
        reject,
        quarantine,
        canary,
        shadow,
        rollback,
        audit,
        check,
    ):
        command(app)(function)


def routing(session: Session) -> None:
    """Show which adapter serves each alias."""
    with session.client() as client:
        reply = client.routing()
    session.show(reply, lambda: _routing_table(*reply.data))


def adapters(
    session: Session,
    adapter: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show this one alone.")] = None,
    alias: Annotated[str | None, typer.Option(help="Only this alias's.")] = None,
) -> None:
    """List the adapters, newest last, or show one."""
    with session.client() as client:
        if adapter is not None:
            one = client.adapter(adapter)
            return session.show(one, lambda: _adapter_table([one]))
        found = client.adapters(alias)
    return session.show(found, lambda: _adapter_table(found.data))


def report(
    session: Session,
    adapter: AdapterArgument,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write the page with plots and history here: .html or .md; .json: the rows."),
    ] = None,
) -> None:
    """Show an adapter's reports: integrity, probe, gate, canary; or write them as a page for a browser."""
    if out is not None and out.suffix not in {*PAGES, ".json"}:
        return fail(f"{out}: give a name that ends in .html, .md or .json", WRONG_ARGUMENTS)
    with session.client() as client:
        if out is not None and out.suffix in PAGES:
            return _write(out, client.adapter_page(adapter, PAGES[out.suffix]))
        reply = client.adapter_report(adapter)
    if out is not None:
        return _write(out, reply.model_dump_json(indent=2) + "\n")
    return session.show(reply, lambda: report_table(reply.adapter, reply.reports, caption=_shadow_lines(reply.shadow)))


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        return fail(f"{out}: {error.strerror}")
    return print(f"written to {out}")


def lineage(session: Session, adapter: AdapterArgument) -> None:
    """Show what an adapter grew out of, and what grew out of it, as a tree."""
    with session.client() as client:
        reply = client.adapter_lineage(adapter)
        family = client.adapters(client.adapter(adapter).alias).data
    session.show(reply, lambda: lineage_tree(reply, {one.id: one for one in family}))


def promote(session: Session, adapter: AdapterArgument, reason: ReasonOption = "", expect: ExpectOption = None) -> None:
    """Give an adapter all traffic of its alias."""
    _move(session, adapter, "promote", MoveRequest(expect_generation=expect, reason=reason))


def reject(session: Session, adapter: AdapterArgument, reason: ReasonOption = "", expect: ExpectOption = None) -> None:
    """Decline an adapter; of a running canary: end it."""
    _move(session, adapter, "reject", MoveRequest(expect_generation=expect, reason=reason))


def quarantine(
    session: Session, adapter: AdapterArgument, reason: ReasonOption = "", expect: ExpectOption = None
) -> None:
    """Never serve an adapter again, and set aside the signals behind it.

    Those are what it learned from and its sound ancestors did not. The next round does without them; `plumbline
    set-aside --adapter ID --undo` takes them back in.
    """
    _move(session, adapter, "quarantine", MoveRequest(expect_generation=expect, reason=reason))


def canary(
    session: Session,
    adapter: AdapterArgument,
    *,
    share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of users; the alias's own if absent.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also a rejected adapter; audited.")] = False,
    reason: ReasonOption = "",
    expect: ExpectOption = None,
) -> None:
    """Try an adapter on a share of the users."""
    _move(session, adapter, "canary", MoveRequest(expect_generation=expect, share=share, force=force, reason=reason))


def shadow(
    session: Session,
    adapter: AdapterArgument,
    *,
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the requests; 0 ends it.")],
    reason: ReasonOption = "",
    expect: ExpectOption = None,
) -> None:
    """Let an adapter answer a share of the requests too, unseen; `report` compares."""
    _move(session, adapter, "shadow", MoveRequest(expect_generation=expect, share=share, reason=reason))


def rollback(
    session: Session,
    alias: Annotated[str | None, typer.Option(help="Which alias; needed where there are several.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring back what the last rollback took out.")] = False,
    reason: ReasonOption = "",
    expect: ExpectOption = None,
) -> None:
    """Give all traffic back to the previous adapter (or base), from the next request on."""
    request = RollbackRequest(alias=alias, expect_generation=expect, reason=reason)
    with session.client() as client:
        reply = client.undo_rollback(request) if undo else client.rollback(request)
    session.show(reply, lambda: _routing_table(reply))


def audit(
    session: Session, limit: Annotated[int, typer.Option(min=1, max=1000, help="Newest entries to show.")] = 20
) -> None:
    """Show who changed what, newest first."""
    with session.client() as client:
        reply = client.audit(limit)
    rows = (
        (when(one.at), one.actor, one.action, one.subject, one.detail.get("reason"), _happened(one.detail))
        for one in reply.data
    )
    session.show(reply, lambda: table(("at", "actor", "action", "subject", "why", "what"), rows))


def _happened(detail: Mapping[str, Any]) -> str:
    """Of a move what it changed, as `active base → a1`; of the rest what was noted beside its reason."""
    before, after = detail.get("before"), detail.get("after")
    if isinstance(before, dict) and isinstance(after, dict):
        fields = [name for name in after if name not in NOT_MOVED and before.get(name) != after[name]]
        forced = ["forced"] if detail.get("force") else []
        return ", ".join([*(f"{name} {_named(before.get(name))} → {_named(after[name])}" for name in fields), *forced])
    rest = {name: value for name, value in detail.items() if name != "reason"}
    return short_json(rest) if rest else ""


def _named(value: object) -> str:
    return "none" if value is None else f"{value:.0%}" if isinstance(value, float) else str(value)


def check(session: Session) -> None:
    """Look at the server's whole state and say what is wrong and what to do; exit status 1 if anything is.

    Reads every image and adapter once. Of a stopped server: python -m server --check-state.
    """
    errors = Console(stderr=True)
    progress = Progress(*CHECK_COLUMNS, console=errors, transient=True, disable=not errors.is_terminal)
    with progress, session.client(timeout_s=CHECK_TIMEOUT_S) as client:
        progress.add_task("reading the whole state", total=None)
        reply = client.check()
    rows = [(one.check, one.what, one.remedy) for one in reply.data]
    session.show(reply, lambda: table(("check", "wrong", "what to do"), rows) if rows else "nothing is wrong")
    if rows:
        raise typer.Exit(REFUSED)


def report_table(adapter: str, reports: list[dict[str, Any]], caption: str | None = None) -> Table:
    """Every report of an adapter, oldest first, one line for each of its checks."""
    columns = ("report", "outcome", "check", "value", "95% interval", "margin", "n", "detail")
    rows: list[tuple[object, ...]] = []
    for one in reports:
        body = one.get("body") or {}
        rows.append((one.get("kind"), one.get("outcome"), "", "", "", "", "", body.get("reason")))
        rows += [_check_row(check) for check in body.get("checks", [])]
    made = table(columns, rows, title=adapter)
    made.caption = caption
    return made


def _shadow_lines(reply: ShadowReply | None) -> str | None:
    if reply is None:
        return None
    lines = [
        f"As a shadow of {reply.active}: {reply.answers} answers to {reply.users} users.",
        f"Reward against it: {_interval(reply.reward_difference)}. Blocked against it: "
        f"{_interval(reply.blocked_difference)}. Failed: {_interval(reply.failed_share)}.",
        f"Mean duration: {_figure(reply.mean_duration_s) or '?'} s; "
        f"that of {reply.active}: {_figure(reply.active_mean_duration_s) or '?'} s.",
    ]
    return "\n".join(lines)


def _interval(reply: IntervalReply | None) -> str:
    if reply is None:
        return "nothing known"
    return f"{_figure(reply.value)} ({_figure(reply.low) or '?'} to {_figure(reply.high) or '?'})"


def _check_row(check: dict[str, Any]) -> tuple[object, ...]:
    low, high = check.get("low"), check.get("high")
    interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    figures = (_figure(check.get("value")), interval, _figure(check.get("margin")), check.get("count"))
    return ("", check.get("outcome"), check.get("name"), *figures, check.get("detail"))


def lineage_tree(reply: LineageReply, family: Mapping[str, AdapterReply]) -> Tree:
    """From the oldest ancestor down; the adapter itself stands out."""

    def label(name: str) -> Text:
        record = family.get(name)
        words = f"{name}  {record.state}, {when(record.created_at)}" if record is not None else name
        return Text(f"{words}  ← this one" if name == reply.adapter else words, "bold" if name == reply.adapter else "")

    line = [*reversed(reply.ancestors), reply.adapter]
    tree = Tree(label(line[0]))
    branches = {line[0]: tree}
    for parent, name in pairwise(line):
        branches[name] = branches[parent].add(label(name))
    for name in reply.descendants:  # oldest first, so a parent comes before its children
        record = family.get(name)
        parent = record.parent if record is not None and record.parent in branches else reply.adapter
        branches[name] = branches[parent].add(label(name))
    return tree


def _move(session: Session, adapter: str, action: AdapterAction, request: MoveRequest) -> None:
    with session.client() as client:
        reply = client.move_adapter(adapter, action, request)
    session.show(reply, lambda: _routing_table(reply))
    if reply.signals_set_aside is not None and not session.as_json:
        print(f"{reply.signals_set_aside} signals behind {adapter} were set aside")


def _routing_table(*rows: RoutingReply) -> Table:
    columns = ("alias", "active", "previous", "canary", "share", "shadow", "share", "generation", "since", "waiting")
    return table(
        columns,
        (
            (
                one.alias,
                one.active,
                one.previous,
                one.canary,
                f"{one.canary_share:.0%}" if one.canary else "",
                one.shadow,
                f"{one.shadow_share:.0%}" if one.shadow else "",
                one.generation,
                when(one.updated_at),
                one.waiting,
            )
            for one in rows
        ),
    )


def _adapter_table(found: list[AdapterReply]) -> Table:
    columns = ("adapter", "alias", "state", "parent", "created", "updated")
    return table(
        columns,
        (
            (
                one.id,
                one.alias,
                f"{one.state} ({one.progress})" if one.progress else one.state,
                one.parent,
                when(one.created_at),
                when(one.updated_at),
            )
            for one in found
        ),
    )


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""
