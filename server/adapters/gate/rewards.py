"""What the alias makes of two adapters' answers to the same questions: the totals that it would choose by.

Calibrated on these very answers, whichever adapter they are from, combined and penalised (length, rules) as among the
candidates of a request.

No policy is judged by its own likelihood: scorers that read it (`implicit`, `logprob`, `self_certainty`) rise with
every training, whatever it taught. Length alone is no taste either, and has a check of its own. Where nothing else is
configured there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from reward.ensemble import Calibration, Ensemble, Scored
from reward.policy import Reading
from reward.types import Candidate
from server.adapters.gate.answers import Answer, OnProgress, gather_bounded
from server.config.scorers import ScorerConfig

OWN_LIKELIHOOD = frozenset({"implicit", "logprob", "self_certainty"})
NO_TASTE = OWN_LIKELIHOOD | {"length"}


def judging(scorers: Sequence[ScorerConfig]) -> tuple[ScorerConfig, ...]:
    """The scorers that may judge an adapter; none where no one of them judges taste."""
    if all(one.kind in NO_TASTE for one in scorers):
        return ()
    return tuple(one for one in scorers if one.kind not in OWN_LIKELIHOOD)


Read = tuple[Answer, Reading]
"""An answer, and what the alias's policy finds in it."""


async def totals(
    ensemble: Ensemble, mine: Sequence[Read], theirs: Sequence[Read], *, limit: int, on_progress: OnProgress
) -> tuple[list[float | None], list[float | None]]:
    """Each side's totals, in order. Both answers of a question are scored together; None where a scorer failed."""
    if ensemble.calibration is not None:
        ensemble = replace(ensemble, calibration=Calibration())

    async def score(one: Answer, other: Answer) -> tuple[Scored, ...] | None:
        scored, degraded = await ensemble.score(one.prompt, _pair(one, other))
        return None if degraded else scored

    pairs = list(zip(mine, theirs, strict=True))
    calls = [partial(score, one, other) for (one, _), (other, _) in pairs if one.text != other.text]
    scored = iter(await gather_bounded(calls, limit, on_progress))
    found: list[tuple[float | None, float | None]] = []
    for (one, reading), (other, other_reading) in pairs:
        if one.text == other.text:
            found.append((0.0, 0.0))
            continue
        both = next(scored)
        if both is None:
            found.append((None, None))
            continue
        # Anew: the calibration has seen all of them by now.
        first, second = ensemble.combine([both[0].scores, both[1].scores], _pair(one, other), ())
        found.append((_less(first.total, reading.penalty), _less(second.total, other_reading.penalty)))
    return [pair[0] for pair in found], [pair[1] for pair in found]


def _pair(one: Answer, other: Answer) -> list[Candidate]:
    return [replace(one.candidate, index=0), replace(other.candidate, index=1)]


def _less(total: float | None, penalty: float) -> float | None:
    return None if total is None else total - penalty
