"""What an adapter's page says, from the stored rows. Pure.

Bodies of reports come from the server, but for a training round's, which whoever trained it wrote: everything is shown
as text, shortened, and only numbers are drawn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from pydantic import ValidationError

from server.adapters import lineage
from server.adapters.report import svg
from server.store.records import AdapterRecord, Report
from server.wire.adapters import CheckReply, IntervalReply, ShadowReply
from server.wire.base import BASE
from server.wire.operate import AuditEntry

MAX_CELL_CHARS: Final = 400
MAX_CURVES: Final = 12
MAX_POINTS: Final = 500
"""Of a curve that is drawn."""
PLACES: Final = ("active", "previous", "canary", "shadow")


@dataclass(frozen=True, slots=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page. `plot` is a whole SVG element, `plot_title` what it shows, in words."""

    title: str
    words: tuple[str, ...] = ()
    plot: str = ""
    plot_title: str = ""
    table: Table | None = None
    folded: Table | None = None
    """Figures for those who look closer."""


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    state: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def page(
    adapter: AdapterRecord,
    reports: Sequence[Report],
    history: Sequence[AuditEntry],
    known: Mapping[str, AdapterRecord],
    *,
    evidence: Mapping[str, Any] | None = None,
    shadow: ShadowReply | None = None,
) -> Page:
    """`history`: oldest first. `known`: the alias's adapters. `evidence`: of the running canary, if it is this one.
    `shadow`: what its unseen answers were worth, if there are any.
    """
    sections = [_history(adapter.id, history)]
    sections += [_report(one) for one in reversed(reports)]  # what decided it comes first
    if shadow is not None:
        sections.insert(1, _shadow(shadow))
    if evidence is not None:
        sections.insert(1, figures_section("canary: running", evidence))
    sections.append(_lineage(adapter, known))
    facts = (
        ("alias", adapter.alias),
        ("state", adapter.state.value),
        ("grown out of", adapter.parent),
        ("published", moment(adapter.created_at)),
        ("last change", moment(adapter.updated_at)),
        ("last gate", next((one.outcome for one in reversed(reports) if one.kind == "gate"), "none yet")),
    )
    return Page(adapter.id, adapter.state.value, facts, tuple(sections))


def moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# --- reports ----------------------------------------------------------------------------------------------


def _report(report: Report) -> Section:
    title = f"{report.kind}: {report.outcome} ({moment(report.created_at)})"
    checks = _checks(report.body.get("checks"))
    if not checks:
        return figures_section(title, report.body)
    drawn = [one for one in checks if one.at_least is not None or one.at_most is not None or one.outcome == "skipped"]
    rest = {name: value for name, value in report.body.items() if name != "checks"}
    return Section(
        title,
        plot=svg.forest(drawn) if drawn else "",
        plot_title="; ".join(f"{one.name}: {one.outcome}" for one in drawn),
        table=_check_table(checks),
        folded=_table(rest),
    )


def figures_section(title: str, body: Mapping[str, Any]) -> Section:
    """A body without checks: its words, its evidence or curves drawn, the rest as figures."""
    words = [one for one in body.get("words") or () if isinstance(one, str)]
    if isinstance(body.get("reason"), str) and body["reason"]:
        words.insert(0, body["reason"])
    shown, curves = _evidence(body), _curves(body.get("curve"))
    plot = svg.evidence(shown) if shown else svg.curves(curves) if curves else ""
    rest = {name: value for name, value in body.items() if name not in {"words", "reason", "curve"}}
    return Section(
        title,
        words=tuple(words),
        plot=plot,
        plot_title="; ".join([*(one.name for one in shown), *curves]),
        folded=_table(rest),
    )


def _shadow(reply: ShadowReply) -> Section:
    rows = (
        ("reward, against it", *_interval(reply.reward_difference)),
        ("blocked candidates, against it", *_interval(reply.blocked_difference)),
        ("blocked", svg.number(reply.blocked_share), "-", "-"),
        ("blocked, of the active one", svg.number(reply.active_blocked_share), "-", "-"),
        ("failed", *_interval(reply.failed_share)),
        ("mean duration, s", svg.number(reply.mean_duration_s), "-", "-"),
        ("mean duration of the active one, s", svg.number(reply.active_mean_duration_s), "-", "-"),
    )
    title = f"shadow of {reply.active}: {reply.answers} answers to {reply.users} users"
    return Section(title, table=Table(("", "value", "95% interval", "n"), rows))


def _interval(reply: IntervalReply | None) -> tuple[str, str, str]:
    if reply is None:
        return "-", "-", "-"
    return svg.number(reply.value), f"{svg.number(reply.low)} to {svg.number(reply.high)}", str(reply.count)


def _checks(found: Any) -> list[CheckReply]:
    try:
        return [CheckReply.model_validate(one) for one in found or ()]
    except (TypeError, ValidationError):
        return []


def _check_table(checks: Sequence[CheckReply]) -> Table:
    rows = []
    for one in checks:
        interval = "-" if one.low is None and one.high is None else f"{svg.number(one.low)} to {svg.number(one.high)}"
        figures = (svg.number(one.value), interval, svg.number(one.margin), str(one.count))
        rows.append((one.name, f"{svg.MARKS[one.outcome]} {one.outcome}", *figures, one.detail))
    return Table(("check", "outcome", "value", "95% interval", "margin", "n", "detail"), tuple(rows))


def _evidence(body: Mapping[str, Any]) -> list[svg.Evidence]:
    """Each metric's e-values against what is asked for, as a canary's summary has them."""
    found = []
    metrics = body.get("metrics")
    for name, figures in metrics.items() if isinstance(metrics, dict) else ():
        for kind, needed in (("harm", "harm_needed"), ("non_inferiority", "non_inferiority_needed")):
            value: Any = figures.get(f"evidence_of_{kind}") if isinstance(figures, dict) else None
            if is_number(value) and is_number(body.get(needed)):
                shown = f"{name}: {kind.replace('_', '-')}"
                found.append(svg.Evidence(shown, float(value), float(body[needed]), is_of_harm=kind == "harm"))
    return found


def _curves(found: Any) -> dict[str, list[float]]:
    if not isinstance(found, dict):
        return {}
    curves = {str(name): values for name, values in found.items() if isinstance(values, list) and len(values) > 1}
    return {
        cell(name): [float(value) for value in values[:: -(-len(values) // MAX_POINTS)]]
        for name, values in list(curves.items())[:MAX_CURVES]
        if all(is_number(value) for value in values)
    }


# --- history and lineage ----------------------------------------------------------------------------------


def _history(adapter: str, history: Sequence[AuditEntry]) -> Section:
    rows = []
    for entry in history:
        about = "" if entry.subject == adapter else f" of {entry.subject}"
        why = str(entry.detail.get("reason") or "") + (" (forced)" if entry.detail.get("force") else "")
        rows.append((moment(entry.at), entry.actor, f"{entry.action}{about}", _became(adapter, entry), cell(why)))
    return Section("Decisions", table=Table(("when", "who", "what", "then", "why"), tuple(rows)))


def concerns(adapter: str, entry: AuditEntry) -> bool:
    """Whether an entry is about the adapter, or about a move that changed its place."""
    return entry.subject == adapter or _place(adapter, entry, "before") != _place(adapter, entry, "after")


def _became(adapter: str, entry: AuditEntry) -> str:
    if "after" not in entry.detail:
        return str(entry.detail.get("state", ""))
    after = entry.detail["after"]
    share = f", {after.get('canary_share', 0):.0%} of users" if _place(adapter, entry, "after") == "canary" else ""
    return (_place(adapter, entry, "after") or "not routed") + share


def _place(adapter: str, entry: AuditEntry, when: str) -> str:
    routing = entry.detail.get(when)
    if not isinstance(routing, dict):
        return ""
    return next((place for place in PLACES if routing.get(place) == adapter), "")


def _lineage(adapter: AdapterRecord, known: Mapping[str, AdapterRecord]) -> Section:
    rows = []
    for relation, ids in (
        ("ancestor", reversed(lineage.ancestors(adapter.id, known))),
        ("this", [adapter.id]),
        ("descendant", lineage.descendants(adapter.id, known)),
    ):
        for one in ids:
            record = known.get(one)
            state = record.state.value if record is not None else "" if one == BASE else "unknown"
            rows.append((relation, one, state, moment(record.created_at) if record is not None else ""))
    columns = ("relation", "adapter", "state", "published")
    manifest = {name: value for name, value in adapter.manifest.items() if name != "fingerprint"}
    return Section("Lineage", table=Table(columns, tuple(rows)), folded=_table(manifest))


# --- values -----------------------------------------------------------------------------------------------


def _table(body: Mapping[str, Any]) -> Table | None:
    rows = tuple((cell(name), cell(value)) for name, value in body.items())
    return Table(("", ""), rows) if rows else None


def cell(value: Any) -> str:
    """A value as text, shortened."""
    if is_number(value) and isinstance(value, float):
        text = svg.number(value)
    elif isinstance(value, str):
        text = value
    else:
        text = json.dumps(value, default=str)
    return text if len(text) <= MAX_CELL_CHARS else f"{text[: MAX_CELL_CHARS - 1]}…"


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
