"""What the alias's ensemble makes of two adapters' answers to the same questions.

No policy is judged by its own likelihood: scorers that read it (`implicit`, `logprob`, `self_certainty`) rise with
every training, whatever it taught. Length alone is no taste either, and has a check of its own. Where nothing else is
configured there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from reward.ensemble import Ensemble
from server.adapters.gate.answers import Answer, OnProgress, gather_bounded
from server.config_scorers import ScorerConfig

OWN_LIKELIHOOD = frozenset({"implicit", "logprob", "self_certainty"})
NO_TASTE = OWN_LIKELIHOOD | {"length"}


def judging(scorers: Sequence[ScorerConfig]) -> tuple[ScorerConfig, ...]:
    """The scorers that may judge an adapter; none where no one of them judges taste."""
    if all(one.kind in NO_TASTE for one in scorers):
        return ()
    return tuple(one for one in scorers if one.kind not in OWN_LIKELIHOOD)


async def totals(
    ensemble: Ensemble, mine: Sequence[Answer], theirs: Sequence[Answer], *, limit: int, on_progress: OnProgress
) -> tuple[list[float | None], list[float | None]]:
    """Each side's totals, in order. Both answers of a question are scored together; None where a scorer failed."""

    async def compare(one: Answer, other: Answer) -> tuple[float | None, float | None]:
        if one.text == other.text:
            return 0.0, 0.0
        pair = [replace(one.candidate, index=0), replace(other.candidate, index=1)]
        (first, second), degraded = await ensemble.score(one.prompt, pair)
        return (None, None) if degraded else (first.total, second.total)

    calls = [partial(compare, one, other) for one, other in zip(mine, theirs, strict=True)]
    found = await gather_bounded(calls, limit, on_progress)
    return [pair[0] for pair in found], [pair[1] for pair in found]
