"""What is seen of a round is bounded, is JSON, and reaches the operator."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learner import metrics
from learner.metrics import Board, Clock, curve, finite
from server.metrics import LEARNER_GAUGES
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer


def test_a_curve_is_bounded_and_finite() -> None:
    """A hundred points at most of however many steps; what is no number is left out."""
    history = [{"loss": 1 / (step + 1), "kl": math.inf if step % 2 else 0.5} for step in range(1001)]
    found = curve([*history, {"late": 2.0}, {}])
    assert 50 <= len(found["loss"]) <= metrics.CURVE_POINTS and found["loss"][0] == 1.0
    assert set(found["kl"]) == {0.5}
    json.dumps(found, allow_nan=False)


def test_what_is_not_finite_becomes_null() -> None:
    """At any depth, and nothing else changes."""
    told = {"after": {"kl": math.nan, "examples": 3}, "curve": [1.0, -math.inf], "words": ("a", None, True)}
    assert finite(told) == {"after": {"kl": None, "examples": 3}, "curve": [1.0, None], "words": ["a", None, True]}


def test_a_clock_goes_on_where_an_earlier_process_left_it() -> None:
    """The time of a phase is added to what it took before."""
    seconds = {"train": 5.0}
    clock = Clock(seconds)
    clock.enter("train")
    clock.enter("upload")
    clock.enter("train")
    assert 5.0 < seconds["train"] < 6.0 and 0 < seconds["upload"] < 1.0


def test_tensorboard_has_each_step_once_after_a_restart(tmp_path: Path) -> None:
    """A process died behind its checkpoint: the steps that are done again take the place of the lost ones."""
    for first, steps, value in ((0, 5, 1.0), (3, 6, 2.0)):
        board = Board(tmp_path, 1, first)
        for step in range(first, steps):
            board.add(step, {"loss": value})
        board.close()
    events = EventAccumulator(str(tmp_path / "round-000001"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [
        (0, 1.0),
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
        (4, 2.0),
        (5, 2.0),
    ]


def test_old_rounds_leave_tensorboard(tmp_path: Path) -> None:
    """The newest hundred stay, so that the disk does not fill."""
    for number in range(metrics.KEPT_BOARDS + 20):
        (tmp_path / f"round-{number:06d}").mkdir()
    Board(tmp_path, 500).close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == metrics.KEPT_BOARDS and names[-1] == "round-000500" and names[0] == "round-000021"


def test_everything_a_round_tells_is_a_gauge_of_the_server(server: FakeServer, make_learner: MakeLearner) -> None:
    """What the curves and heartbeats have, operators see while the round runs."""
    pause = threading.Event()
    assert make_learner(lease_ttl_s=1.0, at=lambda point: None if point != "step" else pause.wait(0.15)).run() == 0
    told = set(server.reports[0].detail["curve"]).union(*(beat.metrics for beat in server.heartbeats))
    assert {"loss", "length", "groups", "skipped", "progress"} <= told <= LEARNER_GAUGES.keys()
