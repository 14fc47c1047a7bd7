"""Does the engine serve the adapter that the learner made? Told by log-probabilities of given answers, not by text.

For the manifest's fingerprint (stored prompt, stored answer, the learner's own values) the engine's value must be
the learner's within tolerance, for the adapter and for base, and adapter and base must differ by more than that
somewhere. So one probe catches an adapter that is accepted and does nothing, a stale cache, and a difference
between training and serving. An upload without a fingerprint is only asked to differ from base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sqlalchemy import Connection

from reward.types import Message, Prompt
from server import prompts
from server.engine.port import Engine, EngineError, ScoredAnswer, UnknownModel
from server.store import adapters as rows
from server.store import groups
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.records import AdapterRecord, CandidateRecord, GroupRecord
from server.wire.adapters import CheckReply, Fingerprint

MAX_TRIPLES = 16
"""Answers that are scored; a fingerprint may hold more."""
MAX_RECENT = 4
"""Stored answers that stand in for a fingerprint: only one has to show a difference."""
AT_ONCE = 2
"""Answers that are scored at once, each by the adapter and by base."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two computations of one answer's log-probability (a sum over tokens, in nats) may lie apart."""

    absolute: float
    relative: float

    def of(self, logprob: float) -> float:
        return self.absolute + self.relative * abs(logprob)


FLOAT32 = Tolerance(0.02, 1e-3)
"""Different kernels and orders of summation: about 1e-4 a token was seen, so this leaves a factor of ten."""
BFLOAT16 = Tolerance(0.5, 2e-2)
"""Eight bits of mantissa: about 1e-2 a token, more on unlikely ones."""

FALLBACK = (
    (Prompt((Message("user", ("What do you see?",)),)), "I see a picture."),
    (Prompt((Message("user", ("Describe it.",)),)), "There are several things in the picture, and they differ."),
)
"""Where nothing is stored yet: neutral answers that every adapter of the language layers moves a little."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    outcome: Literal["passed", "failed"]
    checks: tuple[CheckReply, ...]

    @property
    def reason(self) -> str:
        return "; ".join(f"{check.name}: {check.detail}" for check in self.checks if check.outcome == "failed")


@dataclass(frozen=True, slots=True)
class _Triple:
    prompt: Prompt
    text: str
    sampled: tuple[int, ...] = ()
    expected: Fingerprint | None = None


@dataclass(frozen=True, slots=True)
class _Measured:
    adapter: float
    base: float
    expected: Fingerprint | None


class Probe(Protocol):
    """Who can tell whether an engine serves an adapter."""

    async def run(self, engine: Engine, adapter: AdapterRecord) -> ProbeResult:
        """Raises `EngineError` where the engine may answer later."""
        ...


class Prober:
    """Probes adapters on one engine at a time. Raises `EngineError` where the engine may answer later."""

    def __init__(self, database: Database, blobs: BlobStore, *, tolerance: Tolerance = FLOAT32) -> None:
        self._database = database
        self._blobs = blobs
        self._tolerance = tolerance

    async def run(self, engine: Engine, adapter: AdapterRecord) -> ProbeResult:
        triples = await self._triples(adapter)
        try:
            measured = await self._measured(engine, adapter.id, triples)
        except UnknownModel:
            return _result([_failed("loads", "the engine does not load the adapter")])
        except EngineError as error:
            if error.retryable:
                raise
            return _result([_failed("loads", "the engine cannot score with the adapter")])
        return _result(self._checks(measured))

    async def _measured(self, engine: Engine, adapter_id: str, triples: Sequence[_Triple]) -> list[_Measured]:
        """Few at once, because users wait meanwhile; where only a difference is asked for, up to the first."""
        # The first one alone: it makes the engine load the adapter, or shows that it cannot.
        found = [await _measure(engine, adapter_id, triples[0])]
        for start in range(1, len(triples), AT_ONCE):
            known = [one for one in found if one is not None]
            if triples[0].expected is None and known and self._differs(known).outcome == "passed":
                break
            batch = triples[start : start + AT_ONCE]
            found += await asyncio.gather(*(_measure(engine, adapter_id, triple) for triple in batch))
        return [one for one in found if one is not None]

    def _checks(self, measured: Sequence[_Measured]) -> list[CheckReply]:
        if not measured:
            return [_failed("differs_from_base", "no answer could be scored")]
        checks = []
        expected = [(one, one.expected) for one in measured if one.expected is not None]
        if expected:
            own = [(one.adapter, wanted.logprob) for one, wanted in expected]
            base = [(one.base, wanted.base_logprob) for one, wanted in expected]
            checks.append(self._equal("fingerprint", own, "the engine and the learner disagree about the adapter"))
            checks.append(self._equal("base_fingerprint", base, "the engine and the learner disagree about base"))
        checks.append(self._differs(measured))
        return checks

    def _equal(self, name: str, pairs: Sequence[tuple[float, float]], problem: str) -> CheckReply:
        worst, wanted = max(pairs, key=lambda pair: abs(pair[0] - pair[1]) / self._tolerance.of(pair[1]))
        distance, margin = abs(worst - wanted), self._tolerance.of(wanted)
        return CheckReply(
            name=name,
            outcome="passed" if distance <= margin else "failed",
            value=distance,
            margin=margin,
            count=len(pairs),
            detail="" if distance <= margin else problem,
        )

    def _differs(self, measured: Sequence[_Measured]) -> CheckReply:
        best = max(measured, key=lambda one: abs(one.adapter - one.base) / self._tolerance.of(one.base))
        distance, margin = abs(best.adapter - best.base), self._tolerance.of(best.base)
        return CheckReply(
            name="differs_from_base",
            outcome="passed" if distance > margin else "failed",
            value=distance,
            margin=margin,
            count=len(measured),
            detail="" if distance > margin else "the adapter changes nothing: the engine serves base under its name",
        )

    # --- what is scored -----------------------------------------------------------------------------------

    async def _triples(self, adapter: AdapterRecord) -> list[_Triple]:
        fingerprint = [Fingerprint.model_validate(one) for one in adapter.manifest.get("fingerprint", [])]
        found = await self._from_fingerprint(fingerprint[:MAX_TRIPLES])
        return found or await self._from_recent(adapter.alias) or [_Triple(*one) for one in FALLBACK]

    async def _from_fingerprint(self, fingerprint: Sequence[Fingerprint]) -> list[_Triple]:
        ids = [one.group_id for one in fingerprint]
        stored = {group.id: group for group in await self._database.read(lambda c: groups.get_groups(c, ids))}
        triples = []
        for one in fingerprint:
            group = stored.get(one.group_id)
            candidate = group.candidate(one.candidate_id) if group is not None else None
            if group is not None and candidate is not None:
                triples += await self._triple(group, candidate, one)
        return triples

    async def _from_recent(self, alias: str) -> list[_Triple]:
        def read(connection: Connection) -> list[GroupRecord]:
            return groups.get_groups(connection, rows.recent_groups(connection, alias, MAX_RECENT))

        triples = []
        for group in await self._database.read(read):
            sampled = [one for one in group.candidates if one.token_ids and one.text]
            triples += await self._triple(group, sampled[0], None) if sampled else []
        return triples

    async def _triple(
        self, group: GroupRecord, candidate: CandidateRecord, expected: Fingerprint | None
    ) -> list[_Triple]:
        prompt = await prompts.from_row(group.prompt, self._blobs)
        return [_Triple(prompt, candidate.text, candidate.token_ids, expected)] if prompt is not None else []


async def _measure(engine: Engine, adapter_id: str, triple: _Triple) -> _Measured | None:
    """Both values; None where the engine encodes the answer otherwise than the learner's values were computed."""
    own, base = await asyncio.gather(
        engine.score(adapter_id, triple.prompt, triple.text),
        engine.score(engine.base_model, triple.prompt, triple.text),
    )
    if not own.token_ids or (triple.expected is not None and not _same_tokens(own, triple.sampled)):
        return None
    return _Measured(own.total, base.total, triple.expected)


def _same_tokens(scored: ScoredAnswer, sampled: tuple[int, ...]) -> bool:
    """Equal but for the end-of-turn token, which a sampled answer has and a scored text has not."""
    length = len(scored.token_ids)
    return sampled[:length] == scored.token_ids and len(sampled) - length <= 1


def _failed(name: str, detail: str) -> CheckReply:
    return CheckReply(name=name, outcome="failed", detail=detail)


def _result(checks: Sequence[CheckReply]) -> ProbeResult:
    failed = any(check.outcome == "failed" for check in checks)
    return ProbeResult("failed" if failed else "passed", tuple(checks))
