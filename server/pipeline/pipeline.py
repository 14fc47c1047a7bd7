"""The way itself: input rules → generate → judge → select → commit, for one request.

The group is durable before the caller can send the last byte of the answer. A request that fails or is
abandoned leaves a group too, in the state `failed` or `aborted`, which is never trained on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing

from reward.policy import GuardDown, is_blocked
from reward.selection import choose, ranked, rival
from reward.types import Judgement, Selection, Verdict
from server import faults
from server.agreement import ENSEMBLE
from server.engine.port import Engine, Generation
from server.errors import BadRequest, SafetyUnavailable
from server.inflight import InFlight
from server.metrics import Metrics
from server.pipeline.asking import Asking
from server.pipeline.exploring import other_policy
from server.pipeline.growing import GrowingAnswer
from server.pipeline.judges import Judges
from server.pipeline.recording import build_record, store_groups, taught_at_once
from server.pipeline.second_wave import SecondWave
from server.pipeline.shadow import Shadows
from server.pipeline.stepwise import Stepwise
from server.pipeline.task import ChatTask, Outcome, Piece, Wave
from server.pipeline.waves import Waves
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.records import GroupRecord, GroupState

log = logging.getLogger(__name__)

NOBODY_ELSE = Wave.empty()
NOTHING_CHOSEN = Selection(None, 1.0, "none", "no candidate")


class Pipeline:
    """Answers tasks on one engine. Safe for concurrent use on one event loop."""

    def __init__(
        self,
        *,
        engine: Engine,
        database: Database,
        blobs: BlobStore,
        judges: Mapping[str, Judges],
        in_flight: InFlight,
        shadows: Shadows,
        metrics: Metrics,
        base_digest: str,
        engine_timeout_s: float,
        rng: random.Random,
        clean: Callable[[str], str],
    ) -> None:
        """`clean`: what every text goes through before it is tokenised."""
        self._engine = engine
        self._database = database
        self._blobs = blobs
        self._judges = judges
        self._asking = Asking(engine, judges, engine_timeout_s)
        self._waves = {name: Waves(one, engine_timeout_s) for name, one in judges.items()}
        self._in_flight = in_flight
        self._shadows = shadows
        self._metrics = metrics
        self._base_digest = base_digest
        self._rng = rng
        self._second_waves = {name: SecondWave(one, self._asking.ask_again, clean) for name, one in judges.items()}
        self._notes: set[asyncio.Task[None]] = set()

    async def answer(self, task: ChatTask) -> tuple[Outcome, GroupRecord]:
        """All candidates, judged; the group is committed.

        Raises `EngineUnavailable`, `SafetyUnavailable` or `BadRequest`.
        """
        task, verdicts = self._admit(task)
        with self._in_flight.hold(task.tenant, task.completion_id), self._writing_images(task) as images:
            async with self._kept_on_failure(task):
                outcome = await self._answer(task, verdicts)
            record = await self._commit(task, outcome, images)
        self._shadows.offer(task, outcome)
        return outcome, record

    async def roll_out(self, task: ChatTask) -> GroupRecord:
        """As `answer`, for a learner: by that adapter or by none, without a second wave, which is of another prompt.
        Nothing of it is kept, counted as traffic, or learned by a calibration.
        """
        task, verdicts = self._admit(task)
        if (refusing := await self._refusing(task, verdicts, is_counted=False)) is not None:
            outcome = _refused(task, refusing)
        else:
            task, made = await self._asking.generate(task, may_be_base=False)
            judges = self._judges[task.alias.name]
            found = await judges.judge(task.prompt, made.candidates, observe=False, always=True)
            outcome = self._select(task, Wave(made, *found))
        return await self._record(task, outcome)

    async def stream(self, task: ChatTask) -> AsyncGenerator[Piece | tuple[Outcome, GroupRecord]]:
        """One candidate (`best_of` 1, or sentence by sentence), as rules allow; the last item is the committed outcome.

        Text leaves only once nothing that may follow makes it part of what a rule forbids or redacts
        (`SafetyPolicy.view`). A block ends the stream with what was already sent; where that is nothing, a second wave
        may answer.
        """
        task, verdicts = self._admit(task)
        with self._writing_images(task) as images:
            async with self._kept_on_failure(task):
                if (refusing := await self._refusing(task, verdicts)) is not None:
                    outcome = _refused(task, refusing)
                else:
                    parts = GrowingAnswer()
                    judges = self._judges[task.alias.name]
                    search = self._search(task) if task.is_stepwise else None
                    growing = self._asking.pieces(task, parts) if search is None else _sentences(search, parts)
                    async with aclosing(growing) as pieces:
                        async for _ in pieces:
                            if not parts.is_due():
                                continue
                            view = judges.policy.view(parts.text)
                            if view.is_blocked:
                                parts.finish_reason = "content_filter"
                                break
                            if ready := parts.release(view):
                                yield ready
                    if search is not None:
                        outcome = await self._found(search, may_try_again=not parts.sent)
                    else:
                        candidate = parts.candidate(task.assignment.adapter)
                        with task.trace.stage("judge"):
                            judgements, degraded = await judges.judge(task.prompt, (candidate,))
                        made = Generation(parts.prompt_token_ids, (candidate,), (tuple(parts.tokens),))
                        wave = Wave(made, judgements, degraded)
                        if not parts.sent:
                            wave = await self._second_waves[task.alias.name].after(task, wave)
                        outcome = self._select(task, wave)
                    if outcome.shown and (rest := parts.rest(outcome)):
                        yield rest
            yield outcome, await self._commit(task, outcome, images)
        self._shadows.offer(task, outcome)

    async def _answer(self, task: ChatTask, verdicts: tuple[Verdict, ...]) -> Outcome:
        if (refusing := await self._refusing(task, verdicts)) is not None:
            return _refused(task, refusing)
        if task.is_stepwise:
            search = self._search(task)
            async with aclosing(search.sentences()) as sentences:
                async for _ in sentences:
                    pass
            return await self._found(search)
        async with other_policy(task, self._asking, self._judges) as other:
            if task.is_adaptive:
                task, wave = await self._waves[task.alias.name].answer(task, self._asking.generate)
            else:
                task, generation = await self._asking.generate(task)
                with task.trace.stage("judge"):
                    judged = await self._judges[task.alias.name].judge(task.prompt, generation.candidates)
                wave = Wave(generation, *judged)
            wave = await self._second_waves[task.alias.name].after(task, wave)
            return self._select(task, wave, await other())

    def _search(self, task: ChatTask) -> Stepwise:
        judges = self._judges[task.alias.name]
        return Stepwise(task, judges, self._asking, metrics=self._metrics, rng=self._rng)

    async def _found(self, search: Stepwise, *, may_try_again: bool = True) -> Outcome:
        """What came of a search that has ended."""
        task, wave, selection = search.task, search.wave, search.selection
        if selection is not None and selection.index is not None:
            outcome = self._outcome(task, wave, selection, (selection.index,))
        else:
            if may_try_again:
                wave = await self._second_waves[task.alias.name].after(task, wave)
            outcome = self._select(task, wave)
        return dataclasses.replace(outcome, steps=tuple(search.steps))

    def _admit(self, task: ChatTask) -> tuple[ChatTask, tuple[Verdict, ...]]:
        """The task as the model, the store and everybody else get it: what input rules redact is gone."""
        prompt, verdicts = self._judges[task.alias.name].policy.admit(task.prompt)
        return task if prompt is task.prompt else dataclasses.replace(task, prompt=prompt), verdicts

    async def _refusing(
        self, task: ChatTask, verdicts: tuple[Verdict, ...], *, is_counted: bool = True
    ) -> Verdict | None:
        """What refuses the request, if anything does; raises `SafetyUnavailable` where a guard cannot tell."""
        if not is_blocked(verdicts):
            try:
                verdicts += await self._judges[task.alias.name].policy.check_request(task.prompt)
            except GuardDown as down:
                self._metrics.rule_failures.labels(task.alias.name, str(down)).inc()
                raise SafetyUnavailable("The safety check of requests does not answer; try again.") from None
        if is_counted:
            self._count_verdicts(task, verdicts)
        return next((verdict for verdict in verdicts if verdict.action.forbids), None)

    def _select(self, task: ChatTask, wave: Wave, other: Wave = NOBODY_ELSE) -> Outcome:
        """`other`: what another policy said, for comparison only."""
        judgements = _whole_first(task, wave.judgements)
        selection = choose(task.strategy, judgements, explore=task.alias.random_share, draw=self._rng.random())
        shown: tuple[int, ...] = ()
        if selection.index is not None:
            shown = ranked(judgements, selection.index, task.n)
            if task.compare and len(shown) == 1:
                shown += self._beside(task, judgements, selection.index, other.judgements)
        return self._outcome(task, *_with(other, wave, selection), shown)

    @staticmethod
    def _beside(task: ChatTask, own: Sequence[Judgement], winner: int, others: Sequence[Judgement]) -> tuple[int, ...]:
        """What is shown beside the winner, for a choice; nothing where there is none worth asking for.

        Another policy's answer (`others`, which count on behind `own`) where there is one that says something else.
        """
        is_auto = task.compare == "auto"
        judgements = (*own, *others)
        foreign = [one for one in others if one.candidate.adapter != task.assignment.adapter]
        if rival((own[winner], *foreign), 0, of_content=is_auto) is None:
            other = rival(own, winner, of_content=is_auto)
        else:
            other = len(own)  # another policy says one thing
        if other is None or (is_auto and not task.alias.compare.asks(judgements, winner, other)):
            return ()
        return (other,)

    def _outcome(self, task: ChatTask, wave: Wave, selection: Selection, shown: tuple[int, ...]) -> Outcome:
        return Outcome(
            task.assignment,
            wave.generation.prompt_token_ids,
            wave.judgements,
            selection,
            shown,
            wave.degraded,
            wave.generation.tokens,
            reward=self._judges[task.alias.name].reward(wave.judgements[shown[0]]) if shown else None,
        )

    @contextlib.contextmanager
    def _writing_images(self, task: ChatTask) -> Iterator[Awaitable[object]]:
        """The images on their way to the disk beside the engine's work; to be awaited before their group is stored.

        Without a group they belong to nothing, and a sweep takes them (`server.images`).
        """
        images = task.prompt.images if task.is_stored else ()
        writing = asyncio.gather(*(self._blobs.put(image.sha256, image.data) for image in images))
        try:
            yield writing
        finally:
            if not writing.cancel() and not writing.cancelled():
                writing.exception()  # nobody may have awaited it

    async def _commit(self, task: ChatTask, outcome: Outcome, images: Awaitable[object]) -> GroupRecord:
        """Build the group and make it durable, after its images; raises `StorageUnavailable`."""
        record = await self._record(task, outcome)
        self._count(task, outcome)
        if task.is_stored:
            started = time.monotonic()
            with task.trace.stage("commit"):
                await images
                lessons = taught_at_once(record, task.alias)
                await self._database.add(store_groups, (record, bool(lessons)))
                self._in_flight.settle(task.tenant, task.completion_id)
                await faults.async_point("chat.after_commit")
            self._metrics.store_write_seconds.observe(time.monotonic() - started)
            for pair in lessons.pairs:
                self._metrics.automatic_pairs.labels(task.alias.name, pair.source).inc()
        return record

    async def _record(self, task: ChatTask, outcome: Outcome) -> GroupRecord:
        return build_record(
            task,
            outcome,
            base_digest=self._base_digest,
            engine_version=await self._engine.version(),
            duration_s=time.monotonic() - task.started_s,
        )

    def _kept_on_failure(self, task: ChatTask) -> _KeptOnFailure:
        return _KeptOnFailure(self, task)

    def note(self, task: ChatTask, state: GroupState) -> asyncio.Task[None]:
        """Remember a request without an answer, also when whoever asked is gone."""
        hold = contextlib.ExitStack()
        hold.enter_context(self._in_flight.hold(task.tenant, task.completion_id))
        noting = asyncio.create_task(self._keep_failed(task, state))
        self._notes.add(noting)
        noting.add_done_callback(self._notes.discard)
        noting.add_done_callback(lambda _: hold.close())
        return noting

    async def _keep_failed(self, task: ChatTask, state: GroupState) -> None:
        """Never raises: it is only a note."""
        try:
            with self._writing_images(task) as images:
                await self._commit(task, Outcome(task.assignment, (), (), NOTHING_CHOSEN, (), state=state), images)
        except Exception:
            log.exception("could not keep the group of a request that ended as %s", state)

    def _count(self, task: ChatTask, outcome: Outcome) -> None:
        alias = task.alias.name
        if outcome.state is GroupState.COMPLETED:
            blocked = sum(judgement.is_blocked for judgement in outcome.judgements)
            rejected = sum(not judgement.is_feasible for judgement in outcome.judgements) - blocked
            self._metrics.candidates.labels(alias, "blocked").inc(blocked)
            self._metrics.candidates.labels(alias, "rejected").inc(rejected)
            self._metrics.candidates.labels(alias, "chosen").inc(len(outcome.shown))
            rest = len(outcome.judgements) - blocked - rejected - len(outcome.shown)
            self._metrics.candidates.labels(alias, "not_chosen").inc(rest)
            self._count_answer(alias, outcome)
        for part in outcome.degraded:
            self._metrics.degraded.labels(alias, part).inc()
        for judgement in outcome.judgements:
            self._count_verdicts(task, judgement.verdicts)
            for verdict in judgement.verdicts:
                if verdict.action.forbids:
                    self._metrics.rule_blocks.labels(alias, verdict.rule).inc()

    def _count_answer(self, alias: str, outcome: Outcome) -> None:
        metrics = self._metrics
        metrics.request_candidates.labels(alias).observe(len(outcome.judgements))
        metrics.prompt_tokens.labels(alias).inc(len(outcome.prompt_token_ids))
        metrics.generated_tokens.labels(alias).inc(outcome.generated_tokens)
        if outcome.reward is not None:
            metrics.reward_score.labels(alias, ENSEMBLE).observe(outcome.reward)
        for score in outcome.judgements[outcome.shown[0]].scores if outcome.shown else ():
            if score.value is not None:
                metrics.reward_score.labels(alias, score.scorer).observe(score.value)

    def _count_verdicts(self, task: ChatTask, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.has_failed:
                self._metrics.rule_failures.labels(task.alias.name, verdict.rule).inc()
            elif verdict.action != "allow":
                self._metrics.rule_hits.labels(task.alias.name, verdict.rule, verdict.action).inc()


class _KeptOnFailure:
    """Keeps a group for a request that fails or is abandoned, then lets the error go on."""

    def __init__(self, pipeline: Pipeline, task: ChatTask) -> None:
        self._pipeline = pipeline
        self._task = task

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None or issubclass(kind, BadRequest):
            return
        is_abandoned = issubclass(kind, asyncio.CancelledError | GeneratorExit)
        state = GroupState.ABORTED if is_abandoned else GroupState.FAILED
        await asyncio.shield(self._pipeline.note(self._task, state))


async def _sentences(search: Stepwise, parts: GrowingAnswer) -> AsyncGenerator[None]:
    """Fills `parts` as sentences are decided; yields after each."""
    async with aclosing(search.sentences()) as sentences:
        async for delta in sentences:
            parts.add(delta)
            yield


def _refused(task: ChatTask, verdict: Verdict) -> Outcome:
    reason = f"rule {verdict.rule} blocked the request"
    return Outcome(task.assignment, (), (), Selection(None, 1.0, "none", reason), ())


def _with(other: Wave, wave: Wave, selection: Selection) -> tuple[Wave, Selection]:
    """The group with another policy's candidates at its end, which could not have been chosen."""
    if not other.judgements:
        return wave, selection
    first = len(wave.judgements)
    numbered = tuple(
        dataclasses.replace(one, candidate=dataclasses.replace(one.candidate, index=first + place))
        for place, one in enumerate(other.judgements)
    )
    probabilities = selection.probabilities + (0.0,) * len(numbered)
    whole = wave.followed_by(dataclasses.replace(other, judgements=numbered))
    return whole, dataclasses.replace(selection, probabilities=probabilities)


def _whole_first(task: ChatTask, judgements: tuple[Judgement, ...]) -> tuple[Judgement, ...]:
    """As they are chosen from: half a JSON or half a call is of no use, so what was cut comes behind the rest."""
    whole = [one for one in judgements if one.is_feasible and one.candidate.finish_reason == "stop"]
    if not (task.sampling.json_schema or task.sampling.forced_tools) or not whole:
        return judgements
    floor = min((one.total for one in whole if one.total is not None), default=0.0)
    return tuple(
        dataclasses.replace(one, total=(floor if one.total is None else one.total) if one in whole else None)
        for one in judgements
    )
