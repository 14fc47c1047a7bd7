"""Judged candidates, as tests of selection want them."""

from __future__ import annotations

from reward.types import Action, Candidate, Judgement, Verdict


def judged(total: float | None, *, blocked: bool = False, text: str = "x", finish_reason: str = "stop") -> Judgement:
    verdicts = (Verdict("rule", "1", Action.BLOCK),) if blocked else ()
    return Judgement(Candidate(0, "base", text, (1,), (-1.0,), finish_reason), verdicts, (), total)
