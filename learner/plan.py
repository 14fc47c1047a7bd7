"""The plan of a round: which groups, in which order, from which parent, with which settings. Fixed when it begins."""

from __future__ import annotations

import logging
import random

from learner.context import Context
from learner.curriculum import easy_first
from learner.early_stop import kept_back
from learner.settings import Settings
from learner.state import RoundState

logger = logging.getLogger(__name__)


def plan(context: Context, settings: Settings) -> RoundState:
    """From everything that the replay holds. The signals that are new now count as learned from."""
    place, material = context.place, context.material
    state = place.state
    parent = context.lease.active
    context.tell("plan")
    material.gather(place.replay.all(), settings, parent)
    place.dirty.clear()
    number = state.rounds + 1
    planned = RoundState(
        number=number,
        parent=parent,
        settings=settings,
        seed=seeded(f"{place.alias} {number} {parent}").getrandbits(32),
        plan=list(material.examples),
        kept_back=sorted(kept_back(list(material.examples.values()), settings)),
        easy_first=easy_first(list(material.examples.values())) if settings.curriculum == "easy_then_hard" else [],
        signals=state.new_signals,
        feed_after=state.trained_upto,
        feed_upto=state.cursor,
        skipped=dict(material.skipped + place.replay.unreadable),
        reliabilities={name: eta for name, eta in state.reliabilities.items() if name in material.annotators},
    )
    state.new_signals = 0
    state.trained_upto = state.cursor
    material.skipped.clear()
    place.replay.unreadable.clear()
    place.directory.clear_rounds()
    logger.info("round %d: %d groups, %d new signals, from %s", number, len(planned.plan), planned.signals, parent)
    for reason, count in planned.skipped.items():
        logger.warning("skipped %d: %s", count, reason)
    return planned


def schedule(state: RoundState) -> list[list[list[str]]]:
    """The groups of every epoch's steps: each group once an epoch, in the curriculum's order or one of the seed's."""
    kept, size = set(state.kept_back), state.settings.batch_groups
    epochs = []
    for epoch in range(state.settings.epochs):
        order = [group for group in state.easy_first or state.plan if group not in kept]
        if not state.easy_first:
            seeded(f"{state.seed} {epoch}").shuffle(order)
        epochs.append([order[first : first + size] for first in range(0, len(order), size)])
    return epochs


def seeded(seed: str) -> random.Random:
    """The same numbers for the same seed, so that a resumed round repeats what an uninterrupted one does."""
    return random.Random(seed)  # noqa: S311 - an order that can be repeated, not a secret
