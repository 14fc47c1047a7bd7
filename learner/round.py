"""One round: plan → train → upload → report, resumable at every point.

The plan is fixed when the round begins and stands in the state file; everything after it follows from the plan, so a
resumed round repeats what an uninterrupted one does.
"""

from __future__ import annotations

import logging

from learner.context import Context
from learner.delivery import report, upload
from learner.errors import LeaseLost
from learner.lease import Heart
from learner.metrics import Clock
from learner.plan import plan
from learner.settings import Settings
from learner.state import RoundState
from learner.training import train
from learner.workplace import Workplace, abandon
from server.wire.training import LeaseReply, TrainingConfig

logger = logging.getLogger(__name__)


def run_round(
    place: Workplace, lease: LeaseReply, config: TrainingConfig, heart: Heart, settings: Settings
) -> RoundState:
    """Plan a new round, or resume the one in the state; returns it as reported. Raises `LeaseLost` or `Stopped`."""
    seconds: dict[str, float] = place.state.round.seconds if place.state.round is not None else {}
    context = Context(place, lease, config, heart, Clock(seconds))
    try:
        if place.state.round is None:
            place.state.round = plan(context, settings)
            place.state.round.seconds = seconds
            place.save()
            place.at("planned")
        state = place.state.round
        counts = {"signals": state.signals, "groups": len(state.plan), "skipped": sum(state.skipped.values())}
        context.tell(state.phase, {name: float(count) for name, count in counts.items()})
        if state.phase == "training":
            train(context, state)
            place.save()
            place.at("trained")
        if state.phase == "upload":
            upload(context, state)
            place.save()
            place.at("saved")
    except LeaseLost as error:
        logger.warning("round abandoned: %s", error)
        abandon(place)
        raise
    report(context, state)
    return state
