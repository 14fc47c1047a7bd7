"""`POST /v1/chat/completions`."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from server.api.deps import AppCaller, Principal, Role, ServicesDep, json_body, now
from server.api.direct import DirectRoute
from server.api.errors import error_body
from server.api.models import unknown_model
from server.api.paced import Paced
from server.api.presence import unless_disconnected
from server.api.replies import Shaper
from server.budgets import Reservation
from server.config import AliasConfig
from server.config.selection import STEPWISE
from server.engine.port import EngineError, Sampling
from server.errors import (
    BadRequest,
    Busy,
    EngineUnavailable,
    NotFound,
    PlumblineError,
    SafetyUnavailable,
    StorageUnavailable,
)
from server.ids import new_id
from server.pipeline.admission import Place
from server.pipeline.task import Assignment, ChatTask, Piece
from server.pipeline.trace import Trace, traced
from server.services import Services
from server.store import groups
from server.wire.base import BASE
from server.wire.chat import ChatReply, ChatRequest

log = logging.getLogger(__name__)

router = APIRouter(route_class=DirectRoute)

NOTHING_SPENT = (BadRequest, Busy, EngineUnavailable, SafetyUnavailable)
"""A request that ends so gets its candidates and tokens back."""


@router.post("/v1/chat/completions", response_model=ChatReply)
async def create_chat_completion(
    request: Request,
    caller: AppCaller,
    services: ServicesDep,
    body: Annotated[ChatRequest, json_body(ChatRequest)],
) -> Response:
    """Candidates for a conversation, judged; the best one is returned."""
    started_s = time.monotonic()
    # Images are waited for before a place is taken.
    building = build_task(body, caller, services, started_s=started_s, headers=request.headers)
    task = await (unless_disconnected(request, building) if body.has_images_to_fetch else building)
    with ExitStack() as held:
        held.enter_context(task.trace)
        place = held.enter_context(services.admission.join(caller.tenant))
        reserved = services.budgets.reserve(caller.key, candidates=task.candidates, max_tokens=task.sampling.max_tokens)
        shaper = Shaper(services.signer, body, task, services.config)
        if body.stream:
            events = _stream(services, task, shaper, Admitted(place, reserved))
            return EventStream(services, task, events, shaper.early_headers() | reserved.headers, held.pop_all())
        try:
            with task.trace.stage("queue"):
                await place.turn()
            outcome, record = await unless_disconnected(request, services.pipeline.answer(task))
        except NOTHING_SPENT:
            reserved.settle(candidates=0, tokens=0)
            raise
        reserved.settle(candidates=len(outcome.judgements), tokens=outcome.generated_tokens)
        reply = shaper.reply(outcome, record).model_dump_json(exclude_none=True)
        task.trace.answered(**traced(task, outcome))
    headers = shaper.headers(outcome) | reserved.headers
    return Response(reply, media_type="application/json", headers=headers)


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a request holds while it is answered."""

    place: Place
    reserved: Reservation


class EventStream(StreamingResponse):
    """The events of one answer, which is in flight from before its id leaves. Ends its source with the connection, and
    gives up its place then.
    """

    def __init__(
        self,
        services: Services,
        task: ChatTask,
        events: AsyncGenerator[str],
        headers: dict[str, str],
        held: ExitStack,
    ) -> None:
        self._paced = Paced(events, services.config.http.heartbeat_s)
        super().__init__(self._paced, media_type="text/event-stream", headers=headers)
        self._held = held
        self._hold = services.in_flight.hold(task.tenant, task.completion_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held, self._hold:
            async with aclosing(self._paced):
                await super().__call__(scope, receive, send)


async def build_task(
    body: ChatRequest,
    caller: Principal,
    services: Services,
    *,
    started_s: float | None = None,
    headers: Mapping[str, str] = {},
) -> ChatTask:
    """The validated task; raises `BadRequest` or `NotFound`. `started_s`: when its request began (monotonic)."""
    limits = services.config.chat
    alias, fixed = await resolve_model(body.model, caller, services)
    best_of, is_adaptive = _candidates_wanted(body, alias, limits.max_best_of)
    is_stepwise = _is_stepwise(body, alias, best_of, is_adaptive)
    rejects_early = not is_stepwise and _rejects_early(body, alias, best_of, is_adaptive)
    if body.plumbline.return_group and caller.role is Role.APP:
        raise BadRequest("return_group is for operators and learners.", param="plumbline.return_group")
    max_tokens = body.token_limit or limits.default_max_tokens
    if max_tokens > limits.max_tokens:
        raise BadRequest(f"max_tokens may be at most {limits.max_tokens}.", param="max_tokens")
    if body.speaks_of_tools:
        await _require_tools(services)
    prompt = await services.assembler(body.messages, body.tools)
    user_hash = services.signer.user_hash(caller.tenant, body.user) if body.user else None
    if body.plumbline.regenerate_of is not None:
        await _require_group(body.plumbline.regenerate_of, caller, services)
    await services.lease.renew()
    assignment = fixed or services.router.assign(alias.name, user_hash)
    return ChatTask(
        completion_id=services.signer.completion_id(caller.tenant) if body.store else new_id("cmpl"),
        created_at=now(),
        started_s=time.monotonic(),
        alias=alias,
        assignment=assignment,
        tenant=caller.tenant,
        user_hash=user_hash,
        prompt=prompt,
        sampling=Sampling(
            max_tokens=max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            min_p=body.min_p,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            repetition_penalty=body.repetition_penalty,
            stop=tuple(body.stop),
            seed=body.seed,
            top_logprobs=body.top_logprobs,
            certainty_top_k=alias.certainty_top_k if best_of > 1 else 0,
            logit_bias=tuple((int(token), bias) for token, bias in body.logit_bias.items()),
            json_schema=body.answer_schema,
            forced_tools=body.forced_tools,
        ),
        n=body.n,
        best_of=best_of,
        strategy=alias.selection.build(body.plumbline.selection),
        compare=body.plumbline.compare,
        regenerate_of=body.plumbline.regenerate_of,
        is_stored=body.store,
        calls_tools=body.may_call_tools,
        is_adaptive=is_adaptive and best_of > 1,
        rejects_early=rejects_early,
        is_stepwise=is_stepwise,
        beside=services.router.beside(alias.name, assignment, alias.pilaf) if _explores(body, alias) else None,
        trace=_trace(services, alias, started_s, headers),
    )


def _explores(body: ChatRequest, alias: AliasConfig) -> bool:
    """Whether people are to compare policies: where they are asked for a choice at all, and it is one between texts."""
    is_of_texts = body.answer_schema is None and not body.may_call_tools
    return alias.explore == "pilaf" and bool(body.plumbline.compare) and body.n == 1 and is_of_texts


def _trace(services: Services, alias: AliasConfig, started_s: float | None, headers: Mapping[str, str]) -> Trace:
    elapsed_s = 0.0 if started_s is None else time.monotonic() - started_s
    span = services.tracing.begin(alias.name, headers, elapsed_s)
    return Trace(services.metrics, alias.name, started_s=started_s, span=span)


async def _require_tools(services: Services) -> None:
    try:
        if await services.engine.speaks_of_tools():
            return
    except EngineError:
        raise EngineUnavailable("No engine can answer now; try again after the time in Retry-After.") from None
    raise BadRequest(
        "The model's chat template knows no tools, or writes calls in a form that is not supported.",
        param="tools",
        code="tools_not_supported",
    )


def _candidates_wanted(body: ChatRequest, alias: AliasConfig, limit: int) -> tuple[int, bool]:
    """`best_of` as asked for or as the alias sets it, and whether it only bounds waves; 1 at temperature 0."""
    if body.n > limit:
        raise BadRequest(f"n may be at most {limit}.", param="n")
    asked = body.best_of
    if isinstance(asked, int) and not body.n <= asked <= limit:
        raise BadRequest(f"best_of must lie between n ({body.n}) and {limit}.", param="best_of")
    if body.temperature == 0:
        if body.n > 1 or (isinstance(asked, int) and asked > 1):
            raise BadRequest("At temperature 0 all candidates are the same: n and best_of must be 1.", param="n")
        return 1, False
    chosen = alias.best_of if asked is None else asked
    wanted = alias.auto.max_candidates if chosen == "auto" else chosen
    if not isinstance(asked, int):  # the alias's number gives way to the request's n and the server's bound
        wanted = max(body.n, min(wanted, limit))
    return (max(wanted, 2) if body.plumbline.compare else wanted), chosen == "auto"


def _is_stepwise(body: ChatRequest, alias: AliasConfig, best_of: int, is_adaptive: bool) -> bool:
    """Where there is something to choose from, and nothing in the way; what is in the way of a wish is an error."""
    if (body.plumbline.selection or alias.selection.strategy) != STEPWISE:
        return False
    in_the_way = next((name for name, stands in _beside_steps(body, is_adaptive) if stands), None)
    if in_the_way is not None and body.plumbline.selection == STEPWISE:
        raise BadRequest(f'selection "stepwise" and {in_the_way} do not go together.', param="plumbline.selection")
    return best_of > 1 and in_the_way is None


def _beside_steps(body: ChatRequest, is_adaptive: bool) -> Iterator[tuple[str, bool]]:
    """What needs whole answers, or looks back over what was generated: the engine sees each step alone."""
    yield 'best_of "auto"', is_adaptive
    yield "n above 1", body.n > 1
    yield "compare", bool(body.plumbline.compare)
    yield "early_reject", bool(body.plumbline.early_reject)
    yield "tools", body.speaks_of_tools
    yield "response_format", body.answer_schema is not None
    yield "stop", bool(body.stop)
    yield "penalties", bool(body.presence_penalty or body.frequency_penalty or body.repetition_penalty not in {None, 1})


def _rejects_early(body: ChatRequest, alias: AliasConfig, best_of: int, is_adaptive: bool) -> bool:
    """Where there is more than one candidate, and none is waited for to decide about others."""
    asked = body.plumbline.early_reject
    if asked and is_adaptive:
        raise BadRequest(
            'early_reject and best_of "auto" do not go together: give best_of a number.', param="plumbline.early_reject"
        )
    return best_of > 1 and not is_adaptive and (alias.early_reject.enabled if asked is None else asked)


async def resolve_model(name: str, caller: Principal, services: Services) -> tuple[AliasConfig, Assignment | None]:
    """An alias; or, for operators and learners, one adapter by its id, or "base"."""
    for alias in services.config.aliases:
        if alias.name == name:
            return alias, None
    if caller.role is not Role.APP:
        if name == BASE:
            alias = services.config.aliases[0]
            return alias, Assignment(BASE, services.router.current(alias.name).generation)
        adapter = await services.registry.servable(name)
        return services.alias(adapter.alias), Assignment(adapter.id, services.router.current(adapter.alias).generation)
    raise unknown_model()


async def _require_group(group_id: str, caller: Principal, services: Services) -> None:
    await services.in_flight.settled(caller.tenant, group_id)
    group = await services.database.read(lambda c: groups.get_group(c, group_id))
    if group is None:
        services.in_flight.require_no_promise(caller.tenant, group_id)
    if group is None or group.tenant != caller.tenant:
        raise NotFound(
            "regenerate_of names no completion of yours.", param="plumbline.regenerate_of", code="response_not_found"
        )


async def _stream(services: Services, task: ChatTask, shaper: Shaper, admitted: Admitted) -> AsyncGenerator[str]:
    """Server-sent events: chunks, then the alignment, then `[DONE]`; an error ends the stream as an event."""
    try:
        with task.trace.stage("queue"):
            await admitted.place.turn()
        # A call is one only once it is whole.
        is_gradual = task.is_stepwise or (task.candidates == 1 and not task.calls_tools)
        stream = _stream_tokens if is_gradual else _stream_winner
        async with aclosing(stream(services, task, shaper, admitted.reserved)) as events:
            async for event in events:
                yield event
        yield "data: [DONE]\n\n"
    except PlumblineError as error:
        if isinstance(error, StorageUnavailable):
            services.metrics.store_errors.inc()
            log.error("store: %s", error.cause)
        if isinstance(error, NOTHING_SPENT):
            admitted.reserved.settle(candidates=0, tokens=0)
        yield _error_event(services, task, error)
    except Exception as error:
        log.exception("a stream broke off")
        task.trace.failed(error)
        yield _error_event(services, task, PlumblineError("Something went wrong here."))


def _error_event(services: Services, task: ChatTask, error: PlumblineError) -> str:
    services.metrics.errors.labels(error.code).inc()
    task.trace.failed(error)
    return f"data: {error_body(error)}\n\n"


async def _stream_tokens(
    services: Services, task: ChatTask, shaper: Shaper, reserved: Reservation
) -> AsyncGenerator[str]:
    yield shaper.opening_chunk(0)
    sent_anything = False
    async with aclosing(services.pipeline.stream(task)) as items:
        async for item in items:
            if isinstance(item, Piece):
                sent_anything = True
                task.trace.spoke()
                yield shaper.text_chunk(0, item)
                continue
            outcome, record = item
            reserved.settle(candidates=len(outcome.judgements), tokens=outcome.generated_tokens)
            task.trace.answered(**traced(task, outcome))
            if outcome.is_refused and not sent_anything:
                yield shaper.text_chunk(0, Piece(task.alias.refusal))
            for chunk in shaper.closing_chunks(outcome, record):
                yield chunk


async def _stream_winner(
    services: Services, task: ChatTask, shaper: Shaper, reserved: Reservation
) -> AsyncGenerator[str]:
    """Nothing can leave before the choice is made."""
    outcome, record = await services.pipeline.answer(task)
    reserved.settle(candidates=len(outcome.judgements), tokens=outcome.generated_tokens)
    task.trace.answered(**traced(task, outcome))
    task.trace.spoke()
    for index, piece in enumerate(shaper.pieces(outcome)):
        yield shaper.opening_chunk(index)
        if piece.text or piece.tokens:
            yield shaper.text_chunk(index, piece)
    for chunk in shaper.call_chunks(outcome):
        yield chunk
    for chunk in shaper.closing_chunks(outcome, record):
        yield chunk
