"""Write → judge → refine → keep. Each criterion is judged as the `judge` scorer would go by it, pair by pair."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from reward import evaluation
from reward.types import Candidate
from server.config.scorers import JudgeConfig
from server.json_endpoint import EndpointError, JsonEndpoint
from server.mining import critic
from server.mining.critic import Choice
from server.scorers.errors import ScorerError
from server.scorers.judge import JudgeScorer
from server.scorers.judging import NoVerdict
from server.wire.base import BASE
from server.wire.mining import MinedCriterion, MiningProgress, MiningReport
from server.wire.reward import Interval

CHAT: Final = "/chat/completions"
SHOWN: Final = 10
"""Pairs that one request for criteria shows."""
SHOWN_WRONG: Final = 5
"""Pairs that one request for a better criterion shows."""
GOOD_ENOUGH: Final = 0.8
"""Share of what the critic has read that a criterion decides rightly, from which on it is not written anew."""

log = logging.getLogger(__name__)


class CannotMine(Exception):
    """In one line, for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Miner:
    """`count` criteria at most, each written anew in up to `rounds` rounds. Told how far it is by `tell`."""

    config: JudgeConfig
    endpoint: JsonEndpoint
    count: int
    rounds: int
    threshold: float
    tell: Callable[[MiningProgress], None] = field(default=lambda progress: None)

    async def mine(self, read: Sequence[Choice], held: Sequence[Choice]) -> MiningReport:
        """`read` is shown to the critic, `held` decides what is kept. Raises `CannotMine`."""
        criteria = await self._written(read)
        for number in range(self.rounds):
            criteria = await self._refined(criteria, read, f"refining, round {number + 1}")
        found = [
            _mined(text, margins, self.threshold) for text, margins in await self._judged(criteria, held, "held apart")
        ]
        found.sort(key=lambda one: (one.is_kept, one.accuracy.low if one.accuracy else 0.0), reverse=True)
        kept = [one.text for one in found if one.is_kept]
        together = await self._together(kept, held) if kept else None
        return MiningReport(criteria=found, together=together, read=len(read), held=len(held))

    async def _written(self, read: Sequence[Choice]) -> list[str]:
        """By the critic, from a few pairs at a time; the first of those that are worded alike."""
        parts = [read[first : first + SHOWN] for first in range(0, len(read), SHOWN)]
        self.tell(MiningProgress(doing="writing", done=0, total=len(parts)))
        asked = [critic.writing_body(self.config, part, self.count) for part in parts]
        replies = await asyncio.gather(*(self.endpoint.post(CHAT, body) for body in asked), return_exceptions=True)
        lists, problem = [], "its replies are not in the form that was asked for"
        for reply in replies:
            if isinstance(reply, EndpointError):
                problem = str(reply)
            elif isinstance(reply, BaseException):
                raise reply
            else:
                try:
                    lists.append(critic.criteria_from(reply))
                except NoVerdict:
                    log.warning("the critic's reply names no criteria")
        # One of each request in turn, so that no few pairs have all the say.
        longest = max(map(len, lists), default=0)
        in_turn = (one[place] for place in range(longest) for one in lists if place < len(one))
        criteria = list(islice(_each_once(in_turn), self.count))
        if not criteria:
            raise CannotMine(f"the critic wrote no criteria: {problem}")
        return criteria

    async def _refined(self, criteria: Sequence[str], read: Sequence[Choice], doing: str) -> list[str]:
        """Those that decide too few of the pairs as people did are written anew, or given up."""

        async def one(text: str, margins: Sequence[float | None]) -> str:
            decided = [margin for margin in margins if margin]
            if decided and sum(margin > 0 for margin in decided) >= GOOD_ENOUGH * len(decided):
                return text
            wrong = [choice for choice, margin in zip(read, margins, strict=True) if margin is not None and margin <= 0]
            try:
                reply = await self.endpoint.post(CHAT, critic.refining_body(self.config, wrong[:SHOWN_WRONG], text))
                return critic.criterion_from(reply)
            except (EndpointError, NoVerdict):
                return text

        judged = await self._judged(criteria, read, doing)
        written = await asyncio.gather(*(one(text, margins) for text, margins in judged))
        return list(_each_once(filter(None, written))) or list(criteria)

    async def _together(self, kept: Sequence[str], held: Sequence[Choice]) -> MinedCriterion:
        text = "; ".join(kept)
        ((_, margins),) = await self._judged([text], held, "together")
        return _mined(text, margins, self.threshold)

    async def _judged(
        self, criteria: Sequence[str], choices: Sequence[Choice], doing: str
    ) -> list[tuple[str, list[float | None]]]:
        """Of each criterion and choice by how much the judge prefers what people did; None: it said nothing."""
        done, total = 0, len(criteria) * len(choices)
        reasons: list[str] = []
        self.tell(MiningProgress(doing=doing, done=0, total=total))

        async def margin(judge: JudgeScorer, choice: Choice) -> float | None:
            nonlocal done
            pair = [_candidate(place, text) for place, text in enumerate((choice.preferred, choice.other))]
            try:
                preferred, other = await judge.score(choice.prompt, pair)
            except (ScorerError, EndpointError) as error:
                reasons.append(str(error))
                preferred = other = None
            done += 1
            self.tell(MiningProgress(doing=doing, done=done, total=total))
            return None if preferred is None or other is None else preferred - other

        async def margins(text: str) -> list[float | None]:
            judge = JudgeScorer(self.config.model_copy(update={"criteria": text, "mode": "pairwise"}), self.endpoint)
            return await asyncio.gather(*(margin(judge, choice) for choice in choices))

        found = await asyncio.gather(*map(margins, criteria))
        if reasons and len(reasons) == total:
            raise CannotMine(f"the judge says nothing: {reasons[0]}")
        return list(zip(criteria, found, strict=True))


def _each_once(texts: Iterable[str]) -> Iterator[str]:
    """The first of those that differ in capitals alone."""
    seen = set[str]()
    for text in texts:
        if text.casefold() not in seen:
            seen.add(text.casefold())
            yield text


def _mined(text: str, margins: Sequence[float | None], threshold: float) -> MinedCriterion:
    said = [margin for margin in margins if margin is not None]
    decided = [margin for margin in said if margin]
    if not decided:
        return MinedCriterion(text=text, is_kept=False, pairs=len(said), decided=0)
    share = sum(margin > 0 for margin in decided) / len(decided)
    low, high = evaluation.wilson(share, len(decided))
    return MinedCriterion(
        text=text,
        is_kept=low > threshold,
        pairs=len(said),
        decided=len(decided),
        accuracy=Interval(value=share, low=low, high=high),
    )


def _candidate(place: int, text: str) -> Candidate:
    return Candidate(place, BASE, text, (), (), "stop")
