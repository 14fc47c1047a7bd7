"""Groups from elsewhere on their way into the store.

An imported group is a group like any other: its prompt passes the same checks as a chat request's, its answers are
read by the alias's safety rules, the engine makes the token ids, and the same prompts are held out. But no model of
this installation sampled its answers, so they have no log-probabilities and never count as on-policy.

Ids follow from contents, under the installation's secret, so that they tell nothing of them. A file that is imported
twice, or again after it was broken off, is kept once; new opinions on known answers are added; and what was erased or
has expired stays away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from reward.types import Prompt
from server import prompts
from server.answers import AnswerIntake
from server.config import AliasConfig
from server.engine.port import Engine, EngineError
from server.errors import BadRequest, EngineUnavailable, Forbidden
from server.ids import candidate_id
from server.metrics import Metrics
from server.pipeline.recording import may_train
from server.store import audit, exchange, feed, groups, signals
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.records import IMPORTED, FeedKind, GroupRecord, GroupState, SignalKind, SignalRecord
from server.tokens import Signer
from server.wire.chat import ChatMessage, ToolDefinition
from server.wire.exchange import ImportGroup, ImportPair, ImportRefusal, ImportReply, ImportRequest

IMPORT = "import"
"""Adapter name of an answer from elsewhere."""

CONCURRENCY = 8
"""Groups of one request that are prepared at once."""


@dataclass(frozen=True, slots=True)
class Importer:
    """In whose name a request imports, and into what. `source` is the annotator of opinions that name nobody."""

    tenant: str
    key_id: str
    alias: AliasConfig
    source: str


@dataclass(frozen=True, slots=True)
class Contents:
    """A checked group. `answers`: its different ones, in the order of their texts; `places`: each candidate's."""

    id: str
    prompt: Prompt
    digest: str
    answers: tuple[str, ...]
    places: tuple[int, ...]
    group: ImportGroup


@dataclass(frozen=True, slots=True)
class Arrival:
    """A group as it will be kept. `record` None: it was kept before, only opinions may be new."""

    id: str
    record: GroupRecord | None
    opinions: tuple[SignalRecord, ...]


class ImportDesk:
    """Takes groups from elsewhere. A reply means: durable."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        engine: Engine,
        assembler: Callable[[Sequence[ChatMessage], Sequence[ToolDefinition]], Awaitable[Prompt]],
        intake: AnswerIntake,
        signer: Signer,
        metrics: Metrics,
        base_digest: str,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._engine = engine
        self._assembler = assembler
        self._intake = intake
        self._signer = signer
        self._metrics = metrics
        self._base_digest = base_digest
        self._clock = clock

    async def take(self, importer: Importer, request: ImportRequest) -> ImportReply:
        """Keep the groups; those that cannot be kept are named in the reply and spoil no other."""
        if importer.tenant not in importer.alias.train_tenants:
            raise Forbidden("The tenant of this key may not train this alias (train_tenants).")
        free = asyncio.Semaphore(CONCURRENCY)

        async def bring(group: ImportGroup) -> Arrival | BadRequest:
            async with free:
                try:
                    return await self._arrival(importer, await self._contents(importer, group))
                except BadRequest as error:
                    return error

        brought = await asyncio.gather(*(bring(group) for group in request.groups))
        arrivals = [one for one in brought if isinstance(one, Arrival)]
        refused = [
            ImportRefusal(index=index, message=one.public, code=one.code)
            for index, one in enumerate(brought)
            if isinstance(one, BadRequest)
        ]
        reply, kinds = await self._database.write(lambda c: self._keep(c, importer, arrivals))
        for kind in kinds:
            self._metrics.signals.labels(self._metrics.alias(importer.alias.name), kind).inc()
        return reply.model_copy(update={"refused": refused})

    # --- one group ----------------------------------------------------------------------------------------

    async def _contents(self, importer: Importer, group: ImportGroup) -> Contents:
        prompt = await self._assembler(group.messages, ())
        texts = [self._intake.clean(text) for text in group.candidates]
        answers = tuple(sorted(set(texts)))
        digest = prompts.digest(prompt)
        group_id = f"imp-{self._signer.content_id(importer.tenant, importer.alias.name, digest, *answers)}"
        return Contents(group_id, prompt, digest, answers, tuple(answers.index(text) for text in texts), group)

    async def _arrival(self, importer: Importer, contents: Contents) -> Arrival:
        known = await self._database.read(lambda c: exchange.states_of(c, [contents.id]))
        record = None if known else await self._record(importer, contents)
        if record is not None:
            for image in contents.prompt.images:
                await self._blobs.put(image.sha256, image.data)
        return Arrival(contents.id, record, tuple(self._opinions(importer, contents)))

    async def _record(self, importer: Importer, contents: Contents) -> GroupRecord:
        try:
            encoded = await self._engine.encode(contents.prompt, contents.answers)
            version = await self._engine.version()
        except EngineError as error:
            if not error.retryable:
                raise BadRequest(
                    "The prompt with an answer does not fit the model's context.", code="context_length_exceeded"
                ) from None
            raise EngineUnavailable("No engine can tokenise now; try again.") from error
        alias, user = importer.alias, contents.group.user
        return GroupRecord(
            id=contents.id,
            tenant=importer.tenant,
            alias=alias.name,
            state=GroupState.COMPLETED,
            created_at=self._clock(),
            generation=0,
            adapter=IMPORT,
            is_canary=False,
            user_hash=None if user is None else self._signer.user_hash(importer.tenant, user),
            prompt_digest=contents.digest,
            is_holdout=prompts.is_holdout(contents.digest, alias.signals.holdout_share),
            regenerate_of=None,
            prompt=prompts.to_row(contents.prompt),
            sampling={},
            on_policy_sampling=False,
            prompt_token_ids=encoded.prompt_token_ids,
            base_digest=self._base_digest,
            engine_version=version,
            selection=IMPORT,
            degraded=(),
            candidates=tuple(
                [
                    await self._intake.candidate(
                        alias.name,
                        contents.id,
                        position,
                        text,
                        prompt=contents.prompt,
                        adapter=IMPORT,
                        position=position,
                        token_ids=encoded.answers[position],
                        is_shown=True,
                    )
                    for position, text in enumerate(contents.answers)
                ]
            ),
            media=prompts.media_of(contents.prompt),
        )

    def _opinions(self, importer: Importer, contents: Contents) -> Iterator[SignalRecord]:
        alias = importer.alias.name
        for opinion in contents.group.opinions:
            annotator = f"{IMPORTED}{self._annotator(importer, opinion.user or contents.group.user)}"
            payload: dict[str, Any]
            if isinstance(opinion, ImportPair):
                better, worse = contents.places[opinion.chosen], contents.places[opinion.rejected]
                if opinion.source == "safety" and self._intake.blocks(alias, contents.answers[worse]):
                    continue  # the alias's own rules say the same, and make the pair
                kind, slot = SignalKind.CHOICE, f"pair:{min(better, worse)}:{max(better, worse)}"
                payload = {
                    "chosen": candidate_id(contents.id, better),
                    "rejected": [candidate_id(contents.id, worse)],
                    "source": opinion.source,
                    "weight": opinion.weight,
                }
            else:
                rated = candidate_id(contents.id, contents.places[opinion.candidate])
                kind, slot = SignalKind.RATING, f"rating:{rated}"
                payload = {"candidate_id": rated, "rating": opinion.rating}
                payload |= opinion.model_dump(include={"comment", "labels"}, exclude_defaults=True)
            name = self._signer.content_id(contents.id, annotator, slot, json.dumps(payload, sort_keys=True))
            yield SignalRecord(f"sig-{name}", contents.id, kind, slot, annotator, self._clock(), payload)

    def _annotator(self, importer: Importer, user: str | None) -> str:
        """A user's keyed hash; for nobody in particular that of the import's source, which no user can be named."""
        return self._signer.user_hash(importer.tenant, f"\0{importer.source}" if user is None else user)

    # --- all of them --------------------------------------------------------------------------------------

    def _keep(
        self, connection: Connection, importer: Importer, arrivals: Sequence[Arrival]
    ) -> tuple[ImportReply, list[SignalKind]]:
        reply = ImportReply(new=0, changed=0, known=0, gone=0, holdout=0)
        kinds: list[SignalKind] = []
        states = exchange.states_of(connection, [arrival.id for arrival in arrivals])
        for arrival in arrivals:
            state = states.get(arrival.id)
            states.setdefault(arrival.id, GroupState.COMPLETED)  # it may come twice in one request
            if state not in {None, GroupState.COMPLETED} or (state is None and arrival.record is None):
                reply.gone += 1
                continue
            if state is None and arrival.record is not None:
                groups.insert_group(connection, arrival.record)
                reply.new += 1
                reply.holdout += arrival.record.is_holdout
            fresh = self._fresh(connection, arrival.opinions)
            overrides = [signals.insert_signal(connection, signal) for signal in fresh]
            kinds += [signal.kind for signal in fresh]
            if state is not None:
                reply.changed += bool(fresh)
                reply.known += not fresh
            if fresh or state is None:
                kind = FeedKind.OVERRIDE if any(overrides) else FeedKind.SIGNAL
                self._tell(connection, importer.alias, arrival, kind)
        if reply.new or reply.changed:
            audit.record(
                connection,
                actor=importer.key_id,
                action="import",
                subject=importer.alias.name,
                detail={"source": importer.source, "new": reply.new, "changed": reply.changed},
                now=self._clock(),
            )
        return reply, kinds

    def _fresh(self, connection: Connection, opinions: Sequence[SignalRecord]) -> list[SignalRecord]:
        """The opinions that are not kept yet, each once."""
        known = exchange.known_signals(connection, [one.id for one in opinions])
        return list({one.id: one for one in opinions if one.id not in known}.values())

    def _tell(self, connection: Connection, alias: AliasConfig, arrival: Arrival, kind: FeedKind) -> None:
        group = arrival.record or groups.get_group(connection, arrival.id)
        if group is not None and may_train(group, alias):
            feed.append(connection, alias.name, arrival.id, kind, self._clock())
