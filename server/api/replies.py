"""Shapes outcomes as OpenAI's replies: one object, or chunks of a stream, with the `plumbline` part."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from reward.types import REJECTED, Judgement
from server import tool_calls
from server.api.deps import now
from server.config import Config
from server.engine.port import TokenAlternatives
from server.ids import candidate_id
from server.pipeline.task import ChatTask, Outcome, Piece, Step
from server.preferences import derive
from server.store.records import GroupRecord
from server.tokens import FeedbackGrant, Signer
from server.training import to_training_group
from server.wire.chat import (
    Alignment,
    AnswerMessage,
    CandidateExplanation,
    ChatChunk,
    ChatReply,
    ChatRequest,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    ChunkDelta,
    Explanation,
    FunctionCall,
    StepExplanation,
    TokenLogprob,
    ToolCallReply,
    TopLogprob,
    Usage,
)


class Shaper:
    """Shapes the replies of one request."""

    def __init__(self, signer: Signer, body: ChatRequest, task: ChatTask, config: Config) -> None:
        self._signer = signer
        self._body = body
        self._task = task
        self._config = config

    def early_headers(self) -> dict[str, str]:
        """What is known before the answer is."""
        return {"x-plumbline-completion-id": self._task.completion_id, "cache-control": "no-store"}

    def headers(self, outcome: Outcome) -> dict[str, str]:
        return {
            **self.early_headers(),
            "x-plumbline-adapter": outcome.assignment.adapter,
            "x-plumbline-generation": str(outcome.assignment.generation),
        }

    def reply(self, outcome: Outcome, record: GroupRecord) -> ChatReply:
        return ChatReply(
            id=self._task.completion_id,
            created=int(self._task.created_at),
            model=self._body.model,
            choices=list(self._choices(outcome)),
            usage=self._usage(outcome),
            plumbline=self._alignment(outcome, record),
        )

    def pieces(self, outcome: Outcome) -> list[Piece]:
        """What each choice says, as a whole."""
        if outcome.is_refused:
            return [Piece(self._task.alias.refusal)]
        return [Piece(self._said(outcome, position)[0], _tokens_of(outcome, position)) for position in outcome.shown]

    def _said(self, outcome: Outcome, position: int) -> tuple[str, list[ToolCallReply]]:
        """What a candidate says, and what it calls."""
        text = outcome.judgements[position].visible_text
        if not self._task.calls_tools:
            return text, []
        said, calls = tool_calls.read(text, [tool.name for tool in self._task.prompt.tools])
        source = candidate_id(self._task.completion_id, position)
        return said, [
            ToolCallReply(id=f"call-{source}-{number}", function=FunctionCall(name=name, arguments=arguments))
            for number, (name, arguments) in enumerate(calls if self._body.parallel_tool_calls else calls[:1])
        ]

    def opening_chunk(self, index: int) -> str:
        return self._event(ChunkChoice(index=index, delta=ChunkDelta(role="assistant", content="")))

    def text_chunk(self, index: int, piece: Piece) -> str:
        logprobs = self._logprobs(piece.tokens)
        return self._event(ChunkChoice(index=index, delta=ChunkDelta(content=piece.text), logprobs=logprobs))

    def call_chunks(self, outcome: Outcome) -> Iterator[str]:
        """The calls of each choice, each whole."""
        for index, position in enumerate(outcome.shown):
            for number, call in enumerate(self._said(outcome, position)[1]):
                delta = ChunkDelta(tool_calls=[call.model_copy(update={"index": number})])
                yield self._event(ChunkChoice(index=index, delta=delta))

    def closing_chunks(self, outcome: Outcome, record: GroupRecord) -> Iterator[str]:
        """Each choice's finish reason, the usage where it was asked for, and the alignment with the last chunk."""
        closing = [
            ChunkChoice(
                index=choice.index,
                delta=ChunkDelta(),
                finish_reason=choice.finish_reason,
                candidate_id=choice.candidate_id,
            )
            for choice in self._choices(outcome)
        ]
        alignment = self._alignment(outcome, record)
        wants_usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        for choice in closing if wants_usage else closing[:-1]:
            yield self._event(choice)
        if wants_usage:
            yield _sse(self._chunk([], usage=self._usage(outcome), alignment=alignment))
        else:
            yield _sse(self._chunk(closing[-1:], alignment=alignment))

    def _event(self, choice: ChunkChoice) -> str:
        return _sse(self._chunk([choice]))

    def _chunk(
        self, choices: list[ChunkChoice], *, usage: Usage | None = None, alignment: Alignment | None = None
    ) -> ChatChunk:
        return ChatChunk(
            id=self._task.completion_id,
            created=int(self._task.created_at),
            model=self._body.model,
            choices=choices,
            usage=usage,
            plumbline=alignment,
        )

    def _choices(self, outcome: Outcome) -> Iterator[Choice]:
        if outcome.is_refused:
            refusal = self._task.alias.refusal
            yield Choice(
                index=0,
                message=AnswerMessage(content=refusal, refusal=refusal),
                finish_reason="content_filter",
                candidate_id=candidate_id(self._task.completion_id, len(outcome.judgements)),
            )
            return
        for index, position in enumerate(outcome.shown):
            candidate = outcome.judgements[position].candidate
            text, calls = self._said(outcome, position)
            yield Choice(
                index=index,
                message=AnswerMessage(content=text or (None if calls else ""), tool_calls=calls or None),
                finish_reason="tool_calls" if calls else "length" if candidate.finish_reason == "length" else "stop",
                logprobs=self._logprobs(_tokens_of(outcome, position)),
                candidate_id=candidate_id(self._task.completion_id, position),
            )

    def _logprobs(self, tokens: tuple[TokenAlternatives, ...]) -> ChoiceLogprobs | None:
        return _logprobs(tokens) if self._body.logprobs and tokens else None

    def _usage(self, outcome: Outcome) -> Usage:
        prompt = len(outcome.prompt_token_ids)
        generated = outcome.generated_tokens
        served = sum(len(outcome.judgements[position].candidate.token_ids) for position in outcome.shown)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=generated,
            total_tokens=prompt + generated,
            served_tokens=served,
        )

    def _alignment(self, outcome: Outcome, record: GroupRecord) -> Alignment:
        task, options = self._task, self._body.plumbline
        token = None
        if task.is_stored:
            grant = FeedbackGrant(task.completion_id, task.tenant, task.user_hash)
            token = self._signer.sign(grant, now() + task.alias.signals.feedback_token_ttl_s)
        return Alignment(
            adapter=outcome.assignment.adapter,
            generation=outcome.assignment.generation,
            best_of=task.best_of,
            generated=len(outcome.judgements),
            selection=outcome.selection.strategy,
            degraded=list(outcome.degraded),
            feedback_token=token,
            compare=[
                candidate_id(task.completion_id, position)
                for position in (outcome.shown if task.compare and len(outcome.shown) > 1 else ())
            ],
            explanation=self._explanation(outcome) if options.explain else None,
            group=to_training_group(record, derive(record, [], task.alias.signals)) if options.return_group else None,
        )

    def _explanation(self, outcome: Outcome) -> Explanation:
        probabilities = outcome.selection.probabilities
        return Explanation(
            reason=outcome.selection.reason,
            candidates=[
                CandidateExplanation(
                    candidate_id=candidate_id(self._task.completion_id, position),
                    adapter=judgement.candidate.adapter,
                    text=_explained_text(judgement),
                    scores={score.scorer: score.value for score in judgement.scores},
                    finish_reason=judgement.candidate.finish_reason,
                    total=judgement.total,
                    value=judgement.value,
                    disagreement=judgement.disagreement,
                    verdicts=_verdicts(judgement),
                    probability=probabilities[position] if probabilities else 0.0,
                )
                for position, judgement in enumerate(outcome.judgements)
            ],
            steps=[self._step(one) for one in outcome.steps] or None,
        )

    def _step(self, step: Step) -> StepExplanation:
        ids = [candidate_id(self._task.completion_id, step.first + number) for number in range(step.count)]
        kept = step.selection.index
        return StepExplanation(
            candidates=ids, kept=None if kept is None else ids[kept - step.first], reason=step.selection.reason
        )


def _explained_text(judgement: Judgement) -> str | None:
    is_told = not judgement.is_blocked and judgement.candidate.finish_reason != REJECTED
    return judgement.visible_text if is_told else None


def _tokens_of(outcome: Outcome, position: int) -> tuple[TokenAlternatives, ...]:
    """The candidate's tokens; none of an answer in which something was redacted, as they would spell it out."""
    if not outcome.tokens or outcome.judgements[position].shown_text is not None:
        return ()
    return outcome.tokens[position]


def _verdicts(judgement: Judgement) -> dict[str, str]:
    return {verdict.rule: str(verdict.action) for verdict in judgement.verdicts}


def _logprobs(tokens: tuple[TokenAlternatives, ...]) -> ChoiceLogprobs:
    return ChoiceLogprobs(
        content=[
            TokenLogprob(
                token=one.token,
                logprob=one.logprob,
                bytes=list(one.token.encode()),
                top_logprobs=[
                    TopLogprob(token=text, logprob=logprob, bytes=list(text.encode())) for text, logprob in one.top
                ],
            )
            for one in tokens
        ]
    )


def _sse(chunk: BaseModel) -> str:
    return f"data: {chunk.model_dump_json(exclude_none=True)}\n\n"
