"""What a training round's page says, from the stored row. Pure.

Its body is what the learner told, so nothing in it is believed: text is shown as text and shortened, only numbers are
drawn, and every table has an end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from server.adapters.report.content import Page, Section, Table, cell, figures_section, is_number, moment
from server.store.records import RoundRecord

MAX_ROWS: Final = 100
SHORT_HASH: Final = 8
"""Digits by which a page names an annotator: enough to tell them apart."""
STANDING: Final = {
    "examples": "examples",
    "accuracy": "signals it agrees with",
    "margin": "mean margin, nats",
    "kl": "KL to base, nats a token",
}
OWN_TABLES: Final = frozenset({"before", "after", "skipped", "phase_seconds", "discard_reasons", "reliabilities"})


def page(record: RoundRecord) -> Page:
    body = record.body
    number = body.get("round")
    facts = (
        ("alias", record.alias),
        ("outcome", record.outcome),
        ("why", cell(body.get("reason") or "-")),
        ("adapter", record.adapter or "none"),
        ("started from", cell(body.get("parent", "-"))),
        ("signals", cell(body.get("signals", "-"))),
        ("groups", cell(body.get("groups", "-"))),
        ("steps", _steps(body)),
        ("told", moment(record.created_at)),
    )
    told = {name: value for name, value in body.items() if name not in OWN_TABLES and name != "reason"}
    sections = (
        _standing(body),
        figures_section("Steps", told),
        _counts("Left out", "groups or examples", body.get("skipped")),
        _counts("Steps discarded", "steps", body.get("discard_reasons")),
        _reliabilities(body.get("reliabilities")),
        _seconds(body),
    )
    name = f"round {number}" if is_number(number) else "round"
    return Page(f"{record.alias}, {name} (#{record.id})", record.outcome, facts, sections)


def total_seconds(body: Mapping[str, Any]) -> float | None:
    """Of the whole round; None where the learner did not tell."""
    value = body.get("seconds")
    return float(value) if is_number(value) else None


def _steps(body: Mapping[str, Any]) -> str:
    steps, discarded = body.get("steps"), body.get("steps_discarded")
    return f"{cell(steps)}, {cell(discarded)} of them discarded" if is_number(steps) else "none"


def _standing(body: Mapping[str, Any]) -> Section:
    before, after = (value if isinstance(value, dict) else {} for value in (body.get("before"), body.get("after")))
    if not before and not after:
        return Section("Before and after", words=("It was not measured: the round ended before that.",))
    rows = tuple((words, cell(before.get(name, "-")), cell(after.get(name, "-"))) for name, words in STANDING.items())
    return Section("Before and after", table=Table(("on the round's own signals", "before", "after"), rows))


def _counts(title: str, what: str, found: Any) -> Section:
    counts = found if isinstance(found, dict) else {}
    if not counts:
        return Section(title, words=("Nothing.",))
    rows = tuple((cell(count), cell(reason)) for reason, count in list(counts.items())[:MAX_ROWS])
    return Section(title, table=Table((what, "why"), rows))


def _reliabilities(found: Any) -> Section:
    """The least reliable first, as the learner tells them."""
    known = {name: value for name, value in found.items() if is_number(value)} if isinstance(found, dict) else {}
    if not known:
        return Section("Reliability of annotators", words=("No weighting of this round learns it.",))
    rows = tuple((cell(name[:SHORT_HASH]), cell(value)) for name, value in list(known.items())[:MAX_ROWS])
    return Section("Reliability of annotators", table=Table(("annotator", "labels that are right"), rows))


def _seconds(body: Mapping[str, Any]) -> Section:
    phases = _phases(body)
    rows = tuple((cell(name), cell(float(value))) for name, value in phases.items())
    words = () if rows else ("Not told.",)
    return Section("Seconds by phase", words=words, table=Table(("phase", "s"), rows) if rows else None)


def _phases(body: Mapping[str, Any]) -> dict[str, float]:
    found = body.get("phase_seconds")
    if not isinstance(found, dict):
        return {}
    return {str(name): float(value) for name, value in list(found.items())[:MAX_ROWS] if is_number(value)}
