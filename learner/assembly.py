"""A round's policy with everything that trains it, made alike on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from learner.batch import Collator
from learner.dropout import Dropout
from learner.model import Base, Policy
from learner.prefix import PrefixModel
from learner.references import References
from learner.settings import Settings
from learner.team import Team
from learner.trainer import Trainer
from learner.vision import Vision
from learner.workplace import Pace


@dataclass(frozen=True, slots=True)
class Job:
    """What every rank must know of a round."""

    settings: Settings
    seed: int
    parent: Mapping[str, bytes] | None
    """Files of the adapter that it starts from; None: it starts at the base."""
    thumbs: tuple[float, float]
    """Weight of all thumbs up, and down."""
    reliabilities: Mapping[str, float]
    steps: int
    """Length of the schedule."""


@dataclass(frozen=True, slots=True)
class Assembly:
    policy: Policy
    engine: PrefixModel
    collator: Collator
    trainer: Trainer


def assemble(base: Base, vision: Vision, pace: Pace, team: Team, job: Job) -> Assembly:
    """Raises `LearnerError` when the settings or the parent do not fit the base. `Policy.close` undoes it."""
    team.tell("begin", pace, job)
    settings = job.settings
    fresh = job.parent is None
    policy = Policy.fresh(base, settings, job.seed) if job.parent is None else Policy.from_files(base, job.parent)
    engine = PrefixModel(policy.model, checkpointing=pace.gradient_checkpointing)
    recipe = settings.recipe().balanced(*job.thumbs)
    references = References(policy, settings.reference, begins_at_base=fresh, ema_decay=settings.ema_decay)
    dropout = Dropout(policy, engine, settings.dropout_passes, settings.dropout) if recipe.needs_dropout else None
    collator = Collator(
        references,
        engine,
        vision,
        pace.max_tokens,
        others=recipe.references,
        views=recipe.views,
        statistics=recipe.statistics,
        marker=recipe.marker,
        dropout=dropout,
        team=team,
    )
    trainer = Trainer(policy, collator, settings, job.steps, recipe=recipe, references=references)
    trainer.believe(job.reliabilities)
    return Assembly(policy, engine, collator, trainer)
