"""One scorer on many pairs: what it decides, what it costs, how it fails."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, quantiles

from reward import evaluation
from reward.ports import Scorer
from reward.types import Candidate, Prompt
from server.config.scorers import ScorerConfig
from server.engine.port import Engine, EngineError, ScoredAnswer
from server.scorers.errors import ScorerError
from server.wire.base import BASE
from server.wire.reward import Agreement, Interval, ScorerReport


@dataclass(frozen=True, slots=True)
class Policy:
    """Whose log-probabilities the scorers that read them get. `adapter`: empty for the base model."""

    engine: Engine
    adapter: str = ""


def why_not(config: ScorerConfig, policy: Policy | None) -> str | None:
    """Why a scorer cannot be asked about answers of unknown origin."""
    match config.kind:
        case "self_certainty":
            return "it reads what generation gave, and these answers were not generated here"
        case "logprob" | "length" if policy is None:
            return "it needs the policy's tokens: name an engine with --engine"
        case "implicit" if policy is None or not policy.adapter:
            return "it compares an adapter with its base: name them with --engine and --adapter"
    return None


@dataclass(slots=True)
class Trial:
    config: ScorerConfig
    scorer: Scorer
    values: list[tuple[float, float] | None] = field(default_factory=list)
    """What it says of chosen and rejected, for each pair; None where it failed."""
    seconds: list[float] = field(default_factory=list)
    """Of each answer."""
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def margins(self) -> list[float | None]:
        """Chosen less rejected, for each pair."""
        return [None if one is None else one[0] - one[1] for one in self.values]

    async def ask(self, number: int, prompt: Prompt, chosen: Candidate, rejected: Candidate) -> None:
        """Find the pair's values. Its answers' places are drawn, so that who favours a place gains nothing."""
        is_first = random.Random(number).random() < 0.5  # noqa: S311 - no secret
        pair = (chosen, rejected) if is_first else (rejected, chosen)
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.config.timeout_s):
                values = list(await self.scorer.score(prompt, pair))
        except TimeoutError:
            return self._failed(f"it took longer than {self.config.timeout_s:g} s (timeout_s)")
        except (ScorerError, EngineError) as error:
            return self._failed(str(error))
        except Exception as error:
            return self._failed(type(error).__name__)
        self.seconds.append((time.monotonic() - started) / 2)
        if len(values) != 2:
            return self._failed(f"{len(values)} values for 2 answers")
        one, other = values if is_first else values[::-1]
        if one is None or other is None or not (math.isfinite(one) and math.isfinite(other)):
            return self._failed("it gave no number")
        self.values[number] = (one, other)
        return None

    def _failed(self, reason: str) -> None:
        self.reasons[reason] += 1

    def report(self) -> ScorerReport:
        found = report_of(self.config.label, self.config.kind, self.margins)
        reason = self.reasons.most_common(1)[0][0] if self.reasons else None
        found = found.model_copy(update={"failures": self.reasons.total(), "reason": reason})
        if self.seconds:
            late = quantiles(self.seconds, n=20)[-1] if len(self.seconds) > 1 else self.seconds[0]
            found = found.model_copy(
                update={"ms_per_answer": 1000 * fmean(self.seconds), "ms_per_answer_p95": 1000 * late}
            )
        return found


def report_of(name: str, kind: str, margins: Sequence[float | None]) -> ScorerReport:
    """How good these decisions are."""
    known = [margin for margin in margins if margin is not None]
    found = ScorerReport(name=name, kind=kind, pairs=len(known), ties=sum(margin == 0 for margin in known))
    if not known:
        return found
    share = evaluation.accuracy(known)
    low, high = evaluation.wilson(share, len(known))
    return found.model_copy(
        update={
            "accuracy": Interval(value=share, low=low, high=high),
            "auc": evaluation.auc(known),
            "ece": evaluation.calibration_error(known),
        }
    )


def agreements(trials: list[Trial]) -> list[Agreement]:
    """Each two scorers once."""
    found = []
    for place, one in enumerate(trials):
        for other in trials[place + 1 :]:
            pairs, share = evaluation.agreement(one.margins, other.margins)
            found.append(Agreement(first=one.config.label, second=other.config.label, pairs=pairs, share=share))
    return found


async def candidates_of(prompt: Prompt, texts: tuple[str, str], policy: Policy | None) -> tuple[Candidate, Candidate]:
    """The two answers, with the policy's tokens where there is one; raises `EngineError`."""
    scored: Mapping[str, ScoredAnswer] = {}
    adapter = BASE
    if policy is not None:
        model = policy.adapter or policy.engine.base_model
        found = await asyncio.gather(*(policy.engine.score(model, prompt, text) for text in texts))
        scored, adapter = dict(zip(texts, found, strict=True)), policy.adapter or BASE
    one, other = (
        Candidate(
            place,
            adapter,
            text,
            scored[text].token_ids if text in scored else (),
            scored[text].logprobs if text in scored else (),
            "stop",
        )
        for place, text in enumerate(texts)
    )
    return one, other
