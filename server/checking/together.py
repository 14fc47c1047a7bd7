"""What the alias would make of the pairs: its scorers' values as one total, calibrated and combined as it chooses.

The calibration has learned from all pairs before it is used, as that of a server has that has served for a while; a
scorer that failed on a pair is left out there, as it would be for a group. What cannot be asked about given answers at
all (`trial.why_not`) is no part of it, and the report says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reward.ensemble import Ensemble, Member
from reward.types import Candidate, Score
from server.checking.trial import Trial, report_of
from server.config import AliasConfig
from server.pipeline.judges import as_combined
from server.wire.reward import ScorerReport

Pairs = Mapping[int, tuple[Candidate, Candidate]]
"""(chosen, rejected) by the pair's number."""


def total_report(alias: AliasConfig, trials: Sequence[Trial], pairs: Pairs) -> ScorerReport:
    """The row of the ensemble's total."""
    members = tuple(Member(one.scorer, one.config.weight) for one in trials)
    ensemble = as_combined(Ensemble(members), alias)
    if ensemble.calibration is not None:
        for position, trial in enumerate(trials):
            said = [value for both in trial.values if both is not None for value in both]
            ensemble.calibration.of(position, trial.scorer.version).observe(said)
    margins = [_margin(ensemble, trials, number, both) for number, both in sorted(pairs.items())]
    found = report_of("ensemble", alias.ensemble.combiner, margins)
    left_out = [one.label for one in alias.scorers if one.label not in {trial.config.label for trial in trials}]
    return found.model_copy(
        update={
            "failures": sum(margin is None for margin in margins),
            "reason": f"without {', '.join(left_out)}" if left_out else None,
        }
    )


def _margin(
    ensemble: Ensemble, trials: Sequence[Trial], number: int, both: tuple[Candidate, Candidate]
) -> float | None:
    """None where no scorer gave a value."""
    rows = [
        tuple(
            Score(
                trial.scorer.name, trial.scorer.version, None if (said := trial.values[number]) is None else said[which]
            )
            for trial in trials
        )
        for which in (0, 1)
    ]
    failed = {trial.scorer.name for trial in trials if trial.values[number] is None}
    chosen, rejected = ensemble.combine(rows, both, failed)
    return None if chosen.total is None or rejected.total is None else chosen.total - rejected.total
