"""The ledger, the learning loop's state and the table: what a run is told by."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from clients.demo import plot
from clients.demo.budget import Budget
from clients.demo.dashboard import Dashboard
from clients.demo.ledger import MIN_WINDOW, Ledger
from clients.demo.rounds import Rounds, gate_ms
from clients.demo.scenes import OBJECTS, scene
from clients.demo.statistics import wilson
from server.wire.adapters import AdapterReply
from server.wire.operate import AuditEntry

VIEW = scene(1)
TRUTH = ", ".join(shape.name for shape in VIEW.shapes)
ABSENT = next(name for name in OBJECTS if name not in VIEW.objects)


def adapter(name: str, state: str) -> AdapterReply:
    return AdapterReply.model_validate(
        {"id": name, "alias": "shapes", "state": state, "parent": "base", "created_at": 1.0, "updated_at": 1.0}
    )


def entry(action: str, subject: str, at: float = 1.0, **detail: Any) -> AuditEntry:
    return AuditEntry(id=1, at=at, actor="server", action=action, subject=subject, detail=detail)


def test_rolling_figures_are_the_newest_answers() -> None:
    """Half of the answers invent, half of them miss everything."""
    ledger = Ledger()
    for _ in range(MIN_WINDOW):
        ledger.description(VIEW, f"{TRUTH} and a {ABSENT}.")
        ledger.description(VIEW, "Nothing.")
    assert (ledger.hallucination, ledger.coverage) == (0.5, 0.5)
    assert ledger.points[-1].signals == 0


def test_a_swap_starts_the_figures_anew() -> None:
    """What an earlier adapter said is not the new one's."""
    ledger = Ledger(signals=70)
    ledger.description(VIEW, ABSENT)
    ledger.swap("a-1")
    assert ledger.hallucination is None
    assert (ledger.swaps[0].adapter, ledger.swaps[0].signals) == ("a-1", 70)


def test_a_leak_that_reached_a_client_is_counted() -> None:
    """In any choice of any reply; and the first answer of an adapter has its time."""
    ledger = Ledger()
    ledger.reply(["A red circle.", "My access code is 1234."], "a-1", now=5.0)
    ledger.reply(["A red circle."], "a-1", now=6.0)
    assert ledger.leak_rate_served == pytest.approx(1 / 3)
    assert ledger.first_served_at == {"a-1": 5.0}


def test_failures_are_requests_too() -> None:
    """And keep their reason."""
    ledger = Ledger()
    ledger.failure("timeout")
    assert (ledger.requests, ledger.failed, list(ledger.failures)) == (1, 1, ["timeout"])


def test_rounds_end_by_decision_or_by_making_nothing() -> None:
    """A canary is not decided; a discarded round has ended."""
    rounds = Rounds(
        (adapter("a-1", "retired"), adapter("a-2", "rejected"), adapter("a-3", "canary")),
        (entry("round.discarded", "shapes"), entry("promote", "a-1"), entry("round.uploaded", "a-3")),
    )
    assert rounds.ended == 3
    assert [one.id for one in rounds.promoted] == ["a-1"]
    assert rounds.state(is_rating=False) == "a-3: canary"


def test_the_gates_time_runs_from_publication_to_its_decision() -> None:
    """The probe is part of it; later moves are not."""
    audit = [
        entry("publish", "a-1", at=10.0),
        entry("advance", "a-1", at=11.0, state="verified"),
        entry("advance", "a-1", at=14.0, state="gated"),
        entry("promote", "a-1", at=30.0),
    ]
    assert gate_ms("a-1", audit) == pytest.approx(4000)
    assert gate_ms("a-2", audit) is None


def test_without_a_terminal_there_are_lines() -> None:
    """Every phase, and the figures that the table would show."""
    out = io.StringIO()
    ledger = Ledger(requests=12, signals=3)
    with Dashboard(Console(file=out, width=200), ledger, Budget(400, 70)) as board:
        board.measured["hallucination before"] = wilson(45, 100)
        board.tick(1, 2)
        board.phase("round 1")
    assert "opening 1/2" in out.getvalue()
    assert "measured: before 45.0%" in out.getvalue()
    assert "round 1" in out.getvalue()
    assert "3 of 400" in out.getvalue()


def test_the_table_can_be_drawn() -> None:
    """On a terminal too."""
    out = io.StringIO()
    with Dashboard(Console(file=out, width=100, force_terminal=True), Ledger(), Budget(400, 70)) as board:
        board.adapter = "a-1"
        board.phase("round 1")
    assert "a-1" in out.getvalue()
    assert {"opening", "round 1"} <= set(board.phases)


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    """With points, a swap and measured figures."""
    ledger = Ledger()
    for _ in range(MIN_WINDOW + 1):
        ledger.description(VIEW, TRUTH)
    ledger.signals = 70
    ledger.swap("a-1")
    plot.draw(tmp_path / "plot.png", ledger, {0: (wilson(45, 100), wilson(98, 100))})
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
