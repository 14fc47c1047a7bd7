"""Why the server does not move by itself yet, though the evidence would let it: hysteresis and cool-down. Pure.

What came before is read from the audit trail, so a restart forgets nothing, and the moves of all servers count. None of
this hinders an operator, nor the end of a harmful canary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.config import RolloutConfig
from server.wire.operate import AuditEntry

HOUR_S = 3600.0
HARM_SHOWN = "harm shown"
"""The reason under which a canary is ended for harm."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What is waited for, in words; until when, where time alone decides (seconds since the epoch)."""

    reason: str
    until: float | None = None


def horizon_s(settings: RolloutConfig) -> float:
    """How far back the past matters."""
    return max(HOUR_S, settings.cooldown_s)


def before_canary(settings: RolloutConfig, moves: Sequence[AuditEntry], now: float) -> Wait | None:
    """Why no canary is started now. `moves`: the server's own on the alias, newest first."""
    harm = next((one.at for one in moves if one.detail.get("reason") == HARM_SHOWN), None)
    if harm is not None and now < harm + settings.cooldown_s:
        return Wait("cool-down after a harmful canary", harm + settings.cooldown_s)
    return _too_many(settings, moves, now)


def before_promotion(
    settings: RolloutConfig, started_at: float, moves: Sequence[AuditEntry], now: float
) -> Wait | None:
    """Why the canary that began at `started_at` is not promoted now."""
    if now < started_at + settings.min_canary_s:
        return Wait("the canary has not run for min_canary_s yet", started_at + settings.min_canary_s)
    return _too_many(settings, moves, now)


def _too_many(settings: RolloutConfig, moves: Sequence[AuditEntry], now: float) -> Wait | None:
    recent = [one.at for one in moves if one.at > now - HOUR_S]
    if len(recent) < settings.max_moves_per_hour:
        return None
    oldest_that_counts = sorted(recent, reverse=True)[settings.max_moves_per_hour - 1]
    return Wait("max_moves_per_hour is reached", oldest_that_counts + HOUR_S)
