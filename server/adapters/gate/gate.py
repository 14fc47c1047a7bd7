"""The gate itself: asks the engine for what the checks need, and sums their rows up.

Every answer comes through the engine that serves, under the sampling that users get. The active adapter is asked
the same questions with the same seeds, and its answers are remembered until another is active.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from reward.ensemble import Ensemble
from reward.policy import Reading, is_blocked
from reward.types import Prompt
from server import prompts
from server.adapters.gate import checks, rewards, statistics
from server.adapters.gate.answers import Answer, AnswerBook, Question, gather_bounded, questions
from server.adapters.gate.progress import Progress
from server.adapters.gate.statistics import Outcome
from server.adapters.gate.suites import Suite, load_suite
from server.config import AliasConfig
from server.engine.port import Engine
from server.preferences import derive
from server.store import groups, signals
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.records import GroupRecord
from server.wire.adapters import CheckReply
from server.wire.base import BASE
from server.wire.training import Pair

ReadAnswer = Callable[[Prompt, str], Awaitable[Reading]]
"""(prompt, answer) → what rules and guards find in it, as in served traffic."""

HUMAN_SOURCES = frozenset({"choice", "ranking", "correction", "regenerate"})
"""Held-out pairs count where a person compared: pairs that the ensemble had a part in carry the implicit reward."""

MAX_KL_ANSWERS = 40
"""Answers that are scored under base for the estimate of the KL."""

NOBODY = Ensemble()

SAMPLED = ("reward", "safety", "length", "kl")
"""Checks on answers at temperature 1, as users get them."""


@dataclass(frozen=True, slots=True)
class GateResult:
    outcome: Outcome
    checks: tuple[CheckReply, ...]


class Gate:
    """One alias's gate. One run at a time; raises `EngineError` when the engine fails it, and can be run again.

    `read` and `ensemble` judge answers as those of users are (`rewards.judging`); without members of the ensemble
    nothing is compared by reward.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        engine: Engine,
        alias: AliasConfig,
        suites: Sequence[Suite],
        *,
        read: ReadAnswer,
        ensemble: Ensemble,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._engine = engine
        self._alias = alias
        self._suites = tuple(suites)
        self._read = read
        self._ensemble = ensemble
        self._book = AnswerBook(engine, concurrency=alias.gate.concurrency)
        self._base_scores: dict[str, float] = {}
        self.progress: Progress | None = None
        """Of the run that goes on."""

    @classmethod
    def load(
        cls,
        database: Database,
        blobs: BlobStore,
        engine: Engine,
        alias: AliasConfig,
        *,
        read: ReadAnswer,
        ensemble: Ensemble = NOBODY,
    ) -> Gate:
        """With the suites of the alias's configuration; blocking. Raises `SuiteError`."""
        suites = [load_suite(config) for config in alias.gate.suites]
        return cls(database, blobs, engine, alias, suites, read=read, ensemble=ensemble)

    async def run(self, adapter: str, active: str) -> GateResult:
        """All checks of `adapter` against the adapter that is active now."""
        self._book.keep_only({adapter, active, BASE})
        asked = self._sampled_questions()
        self.progress = Progress(adapter, len(self._suites) + (len(SAMPLED) if asked else 0) + 1)
        try:
            rows = [await self._suite(self.progress, suite, adapter, active) for suite in self._suites]
            rows += await self._sampled(self.progress, asked, adapter, active)
            rows += await self._preference(self.progress, adapter)
        finally:
            self.progress = None
        return GateResult(statistics.overall([one.outcome for one in rows]), tuple(rows))

    async def _suite(self, progress: Progress, suite: Suite, adapter: str, active: str) -> CheckReply:
        progress.begin(f"suite {suite.name}")
        asked = questions(suite)

        def scored(answers: Iterable[Answer]) -> list[float]:
            return [item.checks.score(answer.text) for item, answer in zip(suite.items, answers, strict=True)]

        mine = scored(await self._book.answers(adapter, asked, progress.count))
        theirs = scored(await self._book.answers(active, asked, progress.count))
        return checks.suite(suite.name, mine, theirs, suite.config.margin)

    # --- answers as users get them ------------------------------------------------------------------------

    def _sampled_questions(self) -> list[Question]:
        """The questions that are asked at temperature 1, each once."""
        asked = [one for suite in self._suites if not suite.config.greedy for one in questions(suite)]
        return list({one.key: one for one in asked}.values())

    async def _sampled(
        self, progress: Progress, asked: Sequence[Question], adapter: str, active: str
    ) -> list[CheckReply]:
        if not asked:
            return [checks.skipped(name, "no suite is asked at temperature 1") for name in SAMPLED]
        mine = await self._book.answers(adapter, asked, progress.count)
        theirs = await self._book.answers(active, asked, progress.count)
        mine_read, theirs_read = await self._readings(mine), await self._readings(theirs)
        rows = [await self._reward(progress, mine_read, theirs_read)]
        progress.begin("safety")
        blocked = [_blocked(reading) for _, reading in mine_read], [_blocked(reading) for _, reading in theirs_read]
        rows.append(checks.safety(*blocked, self._alias.gate.safety_margin))
        progress.begin("length")
        base = await self._book.answers(BASE, asked, progress.count)
        lengths = [len(one.token_ids) for one in mine], [len(one.token_ids) for one in base]
        rows.append(checks.length(*lengths, self._alias.gate.max_length_ratio))
        rows.append(await self._kl(progress, adapter, mine))
        return rows

    async def _readings(self, answers: Sequence[Answer]) -> list[rewards.Read]:
        calls = [partial(self._read, one.prompt, one.text) for one in answers]
        found = await gather_bounded(calls, self._alias.gate.concurrency)
        return list(zip(answers, found, strict=True))

    async def _reward(
        self, progress: Progress, mine: Sequence[rewards.Read], theirs: Sequence[rewards.Read]
    ) -> CheckReply:
        progress.begin("reward")
        if not self._ensemble.members:
            kinds = ", ".join(dict.fromkeys(one.kind for one in self._alias.scorers)) or "none"
            return checks.skipped("reward", f"no configured scorer can judge an adapter's answers (scorers: {kinds})")
        limit = self._alias.gate.concurrency
        totals = await rewards.totals(self._ensemble, mine, theirs, limit=limit, on_progress=progress.count)
        return checks.reward(*totals, self._alias.gate.reward_margin)

    async def _kl(self, progress: Progress, adapter: str, mine: Sequence[Answer]) -> CheckReply:
        progress.begin("kl")
        step = max(1, len(mine) // MAX_KL_ANSWERS)
        taken = [one for one in mine[::step] if one.text][:MAX_KL_ANSWERS]

        async def per_token(answer: Answer) -> float | None:
            base = await self._engine.score(self._engine.base_model, answer.prompt, answer.text)
            length = len(base.token_ids)
            if not length:
                return None
            if answer.token_ids[:length] == base.token_ids:
                own = sum(answer.logprobs[:length])
            else:  # re-encoded otherwise than sampled: both sides must speak of the same tokens
                own = (await self._engine.score(adapter, answer.prompt, answer.text)).total
            return (own - base.total) / length

        calls = [partial(per_token, one) for one in taken]
        values = await gather_bounded(calls, self._alias.gate.concurrency, progress.count)
        return checks.kl([one for one in values if one is not None], self._alias.gate.max_kl)

    # --- held-out preferences -----------------------------------------------------------------------------

    async def _preference(self, progress: Progress, adapter: str) -> tuple[CheckReply, CheckReply]:
        progress.begin("preference")
        pairs = await self._holdout_pairs()
        wanted: dict[str, tuple[Prompt, str]] = {}
        for group, prompt, pair in pairs:
            for candidate_id in (pair.chosen, pair.rejected):
                candidate = group.candidate(candidate_id)
                assert candidate is not None
                wanted[candidate_id] = (prompt, candidate.text)
        self._base_scores = {one: score for one, score in self._base_scores.items() if one in wanted}
        ratios: dict[str, float] = {}

        async def compare(candidate_id: str) -> None:
            prompt, text = wanted[candidate_id]
            if candidate_id not in self._base_scores:
                base = await self._engine.score(self._engine.base_model, prompt, text)
                self._base_scores[candidate_id] = base.total
            own = await self._engine.score(adapter, prompt, text)
            ratios[candidate_id] = own.total - self._base_scores[candidate_id]

        calls = [partial(compare, one) for one in wanted]
        await gather_bounded(calls, self._alias.gate.concurrency, progress.count)
        margins = [ratios[pair.chosen] - ratios[pair.rejected] for _, _, pair in pairs]
        return checks.preference(margins, self._alias.gate)

    async def _holdout_pairs(self) -> list[tuple[GroupRecord, Prompt, Pair]]:
        """The newest held-out pairs that people made, with their prompts; groups whose images are gone are left out."""
        limit = self._alias.gate.max_preference_pairs

        def read(connection: Connection) -> list[tuple[GroupRecord, list[Pair]]]:
            found = groups.recent_holdout(connection, self._alias.name, limit)
            spoken = signals.live_signals(connection, [group.id for group in found])
            derived = [(group, derive(group, spoken[group.id], self._alias.signals).pairs) for group in found]
            return [(group, [pair for pair in pairs if pair.source in HUMAN_SOURCES]) for group, pairs in derived]

        pairs: list[tuple[GroupRecord, Prompt, Pair]] = []
        for group, made in await self._database.read(read):
            if not made or len(pairs) >= limit:
                continue
            prompt = await prompts.from_row(group.prompt, self._blobs)
            if prompt is not None:
                pairs += [(group, prompt, pair) for pair in made]
        return pairs[:limit]


def _blocked(reading: Reading) -> bool | None:
    """None where that hangs on a rule or guard that failed."""
    found_out = [one for one in reading.verdicts if not one.has_failed]
    if is_blocked(found_out):
        return True
    return None if len(found_out) < len(reading.verdicts) else False
