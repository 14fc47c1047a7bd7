"""What an engine's probes and exits mean: states, transitions and back-off, without clock or I/O.

    STARTING --probe ok--> READY --3 failed probes, exit--> DOWN --restart--> STARTING
    STARTING --exit, time-out--> DOWN          DOWN --probe ok--> READY (an engine that others restart)
    any --stop--> STOPPED, for good

Called by `supervisor`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

MAX_FAILED_PROBES = 3
STABLE_PROBES = 6
"""After so many good probes in a row an engine counts as stable, and the next back-off starts small again."""
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 60.0


class EngineState(StrEnum):
    """Whether requests may be sent."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"
    STOPPED = "stopped"


class Event(StrEnum):
    """What was observed, or done."""

    PROBE_OK = "probe_ok"
    PROBE_FAILED = "probe_failed"
    EXITED = "exited"
    START_TIMED_OUT = "start_timed_out"
    RESTARTED = "restarted"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Health:
    """All that is known about one engine."""

    state: EngineState = EngineState.STARTING
    failed_probes: int = 0
    """In a row."""
    good_probes: int = 0
    """In a row."""
    restarts: int = 0
    """Since the supervisor started."""
    attempts: int = 0
    """Restarts since the engine was last stable."""

    def after(self, event: Event) -> Health:
        """The health once `event` has happened. An event that means nothing in a state changes nothing."""
        state, new = self.state, self
        match event:
            case _ if state is EngineState.STOPPED:
                pass
            case Event.STOP:
                new = replace(self, state=EngineState.STOPPED)
            case Event.PROBE_OK:
                new = self._after_good_probe()
            case Event.PROBE_FAILED:
                new = self._after_failed_probe()
            case Event.EXITED:
                new = self._down()
            case Event.START_TIMED_OUT if state is EngineState.STARTING:
                new = self._down()
            case Event.RESTARTED if state is EngineState.DOWN:
                new = Health(restarts=self.restarts + 1, attempts=self.attempts + 1)
        return new

    def _after_good_probe(self) -> Health:
        good = min(self.good_probes + 1, STABLE_PROBES)
        attempts = 0 if good == STABLE_PROBES else self.attempts
        return replace(self, state=EngineState.READY, failed_probes=0, good_probes=good, attempts=attempts)

    def _after_failed_probe(self) -> Health:
        failed = min(self.failed_probes + 1, MAX_FAILED_PROBES)
        if self.state is EngineState.READY and failed == MAX_FAILED_PROBES:
            return self._down()
        return replace(self, failed_probes=failed, good_probes=0)

    def _down(self) -> Health:
        return replace(self, state=EngineState.DOWN, failed_probes=0, good_probes=0)


def backoff_s(attempts: int, jitter: float) -> float:
    """Pause before restart number `attempts` (from 0) since the engine was stable; `jitter` in [0, 1) spreads it.

    Doubles from 0.5 s to 60 s; the jitter takes away up to half, so that replicas do not start in step.
    """
    longest = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(attempts, 32))
    return longest * (1.0 - jitter / 2)
