"""What the benchmark of many rounds counts, and when its world changes."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from benchmarks._continual import ARMS, Said, Served
from benchmarks._continual_learner import Ordered
from benchmarks._continual_world import (
    LONG,
    SHORT,
    TILTED_SHARE,
    Timeline,
    adapted_within,
    questions_with_tilted,
    rightly_named,
    short_share,
    words,
)
from benchmarks.continual import FULL, goals, summarise
from clients.demo.chat import Answer
from clients.demo.chat import Said as Choice
from clients.demo.language import Question, description_of
from clients.demo.measure import Descriptions
from clients.demo.scenes import USER_SEEDS, Scene, Shape
from clients.demo.statistics import Figure
from server.wire.base import BASE
from server.wire.training import LeaseReply, LeaseRequest

TIMELINE = Timeline(opening=2, rounds=3, taste_changes=1, shape_appears=2)
VIEW = Scene(0, (Shape("red", "triangle", 0, is_tilted=True), Shape("blue", "circle", 4)), 96, "white", "PNG")


def described(*texts: str) -> Descriptions:
    """These descriptions of one scene with a tilted red triangle and a blue circle; an empty one was refused."""
    answers = [
        Answer("c", "a", 1, (Choice("c.0", text, 9, is_refusal=not text),), False, candidates=1, blocked=0)
        for text in texts
    ]
    return Descriptions([description_of(VIEW)] * len(answers), answers)


def has_tilted(asked: Question) -> bool:
    return any(shape.is_tilted for shape in asked.scene.shapes)


def figure(value: float) -> Figure:
    return Figure(value, value - 0.02, value + 0.02)


def served(number: int, signals: int, short: float, tilted: float, outcome: str = "promoted") -> Served:
    said = Said(figure(0.01 * number), figure(1 - 0.01 * number), figure(short), 3.0, figure(0.001 * number))
    said = replace(said, tilted=figure(tilted), tilted_hallucination=figure(1 - tilted))
    return Served(number, signals, f"a{number}", outcome, said, kl=0.1 * number)


def test_taste_and_world_change_with_their_rounds() -> None:
    """Long answers before the change, short ones from it on; the new shape from its round on, in half of the scenes."""
    assert list(TIMELINE.numbers) == [-1, 0, 1, 2, 3]
    assert [TIMELINE.wordiness(number) for number in range(4)] == [LONG, SHORT, SHORT, SHORT]
    seeds = USER_SEEDS[:400]
    shares = [sum(has_tilted(TIMELINE.question(number)(seed)) for seed in seeds) / len(seeds) for number in range(4)]
    assert shares[:2] == [0, 0]
    assert shares[2] == shares[3] == pytest.approx(TILTED_SHARE, abs=0.08)
    assert all(map(has_tilted, questions_with_tilted(0, 30)))


def test_what_is_promised_for_the_full_run_is_what_it_does() -> None:
    """Twelve rounds, the taste at the fifth, the shape at the ninth; three rounds' signals are within the target."""
    assert FULL.timeline == Timeline(opening=3, rounds=12, taste_changes=5, shape_appears=9)
    assert 3 * FULL.round_signals <= 200


def test_style_is_what_is_said_beyond_the_names() -> None:
    """Refused answers have none."""
    found = described("red square, blue circle.", "There is a red square and a blue circle.", "")
    assert short_share(found).value == 0.5
    assert words(found) == 2.5


def test_the_new_shape_is_named_rightly_or_not() -> None:
    """Only its own name counts; other objects do not."""
    found = described("red triangle.", "red circle, blue circle.", "There is a red triangle.", "blue triangle.")
    assert rightly_named(found).value == 0.5
    assert found.hallucination.value == 0.5


def test_signals_until_adapted_are_counted_from_the_last_round_before_the_change() -> None:
    """The level before the change is of no account; a level that is never reached gives nothing."""
    signals, levels = [10, 20, 30, 40], [0.9, 0.5, 0.8, 0.7]
    assert adapted_within(signals, levels, reached=0.8) == 20
    assert adapted_within(signals, levels, reached=0.5) == 10
    assert adapted_within(signals[2:], levels[2:], reached=0.8) is None


def test_the_result_has_the_worst_of_what_was_served_and_the_last() -> None:
    """For each arm, without the opening; a round whose adapter was refused serves the one before: no promotion."""
    opening = replace(served(-1, 50, 0.3, 0.0), said=served(9, 50, 0.3, 0.0).said)
    ours = [
        opening,
        served(0, 100, 0.3, 0.0),
        served(1, 160, 0.6, 0.0),
        served(2, 220, 0.9, 0.2),
        served(3, 280, 0.9, 0.85),
    ]
    other = [served(0, 100, 0.3, 0.0), *(served(n, 100 + 60 * n, 0.5, 0.0, "rejected: skills") for n in (1, 2, 3))]
    figures = summarise({"ours": ours, "from_scratch": other}, TIMELINE)
    assert figures["adapted_style_ours"] == 120
    assert figures["adapted_shape_ours"] == 120
    assert figures["adapted_style_from_scratch"] is None
    assert figures["hallucination_max_ours"] == pytest.approx(0.03)
    assert figures["tilted_hallucination_ours"] == pytest.approx(0.15)
    assert figures["coverage_min_ours"] == pytest.approx(0.97)
    assert figures["skills_drop_max_ours"] == pytest.approx(0.003)
    assert figures["kl_max_ours"] == pytest.approx(0.3)
    assert (figures["promoted_ours"], figures["promoted_from_scratch"]) == (4, 1)
    assert goals(figures).row_count == 5


@pytest.mark.parametrize(("from_base", "parent"), [(True, BASE), (False, "a00003-x")])
def test_a_round_starts_where_its_arm_says(from_base: bool, parent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the base model, or from what the server says is active; the lease is the server's either way."""
    lease = LeaseReply(alias="a", token=7, expires_at=0.0, active="a00003-x", generation=3, head=9).model_dump_json()
    monkeypatch.setattr(httpx.Client, "send", lambda self, request, **_: httpx.Response(200, text=lease))
    with Ordered("http://localhost", from_base=from_base) as client:
        given = client.lease(LeaseRequest(alias="a", owner="me"))
    assert (given.active, given.token, given.head) == (parent, 7, 9)


def test_the_arms_differ_in_nothing_but_their_start_and_their_memory() -> None:
    """Same objectives, same passes: what the table compares is what it says. Ageing is a part of the memory."""
    assert len({str(arm.learner | {"max_replay_groups": 0, "half_life_signals": 0}) for arm in ARMS}) == 1
    assert ["half_life_signals" in arm.learner for arm in ARMS] == [True, False, False]
    assert [(arm.from_base, arm.forgets) for arm in ARMS] == [(False, False), (True, False), (False, True)]
