"""State transitions and back-off, without processes or time."""

from __future__ import annotations

import pytest

from server.engine.health import MAX_BACKOFF_S, STABLE_PROBES, EngineState, Event, Health, backoff_s

OK, FAILED = Event.PROBE_OK, Event.PROBE_FAILED


def after(*events: Event) -> Health:
    health = Health()
    for event in events:
        health = health.after(event)
    return health


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((), EngineState.STARTING),
        ((FAILED,) * 50, EngineState.STARTING),
        ((FAILED, OK), EngineState.READY),
        ((OK, FAILED, FAILED), EngineState.READY),
        ((OK, FAILED, FAILED, OK, FAILED, FAILED), EngineState.READY),
        ((OK, FAILED, FAILED, FAILED), EngineState.DOWN),
        ((FAILED, FAILED, OK, FAILED), EngineState.READY),
        ((OK, FAILED, FAILED, FAILED, OK), EngineState.READY),
        ((Event.EXITED,), EngineState.DOWN),
        ((OK, Event.EXITED), EngineState.DOWN),
        ((OK, Event.EXITED, Event.RESTARTED), EngineState.STARTING),
        ((Event.START_TIMED_OUT,), EngineState.DOWN),
        ((OK, Event.START_TIMED_OUT), EngineState.READY),
        ((OK, Event.RESTARTED), EngineState.READY),
        ((OK, Event.STOP), EngineState.STOPPED),
        ((Event.STOP, OK, Event.EXITED, Event.RESTARTED), EngineState.STOPPED),
    ],
)
def test_states_follow_the_table(events: tuple[Event, ...], state: EngineState) -> None:
    """Three failures in a row take an engine down; while it starts, failures mean nothing; a stop is final."""
    assert after(*events).state is state


def test_restarts_are_counted() -> None:
    """All of them for the operator, those since the last stable time for the back-off."""
    crash = (Event.EXITED, Event.RESTARTED, OK)
    health = after(OK, *crash * 3)
    assert (health.restarts, health.attempts) == (3, 3)
    for _ in range(STABLE_PROBES):
        health = health.after(OK)
    assert (health.restarts, health.attempts) == (3, 0)


def test_the_pause_doubles_up_to_a_minute() -> None:
    """Half a second first; the jitter takes away up to half."""
    assert [backoff_s(attempts, 0.0) for attempts in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert backoff_s(1000, 0.0) == MAX_BACKOFF_S
    assert backoff_s(3, 1.0) == 2.0
    assert 0 < backoff_s(0, 0.999) < backoff_s(0, 0.0)
