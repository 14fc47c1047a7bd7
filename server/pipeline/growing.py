"""One answer that arrives piece by piece, as far as it has come."""

from __future__ import annotations

import dataclasses
from collections import deque

from reward.policy import View
from reward.types import Candidate
from server.engine.port import Delta, TokenAlternatives
from server.pipeline.task import Outcome, Piece


@dataclasses.dataclass(slots=True)
class GrowingAnswer:
    text: str = ""
    token_ids: list[int] = dataclasses.field(default_factory=list)
    tokens: list[TokenAlternatives] = dataclasses.field(default_factory=list)
    prompt_token_ids: tuple[int, ...] = ()
    finish_reason: str = "stop"
    sent: int = 0
    """Characters that have left, of what may be seen."""
    ends: deque[tuple[int, int]] = dataclasses.field(default_factory=deque)
    """(where a delta's text ended, tokens up to there), of deltas whose text is not all out."""
    sent_tokens: int = 0
    due_at: int = 0

    def is_due(self) -> bool:
        """Whether the rules should look again: they read from the start, so in a long text at every 64th part of it.
        In all they read no more than some hundred times the text.
        """
        if len(self.text) < self.due_at:
            return False
        self.due_at = len(self.text) + max(1, len(self.text) // 64)
        return True

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.tokens += delta.tokens
        self.prompt_token_ids = self.prompt_token_ids or delta.prompt_token_ids
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.ends.append((len(self.text), len(self.tokens)))

    def release(self, view: View) -> Piece | None:
        """What may leave now and has not left yet; None: nothing. Tokens leave as long as the text is their own."""
        text, self.sent = view.text[self.sent :], max(self.sent, len(view.text))
        first = self.sent_tokens
        while self.ends and self.ends[0][0] <= min(view.plain_until, len(view.text)):
            _, self.sent_tokens = self.ends.popleft()
        tokens = tuple(self.tokens[first : self.sent_tokens])
        return Piece(text, tokens) if text or tokens else None

    def rest(self, outcome: Outcome) -> Piece | None:
        """What is yet to leave of the answer that is shown; where that is not this one (a second wave's), all of it."""
        position = outcome.shown[0]
        judgement = outcome.judgements[position]
        text = judgement.visible_text
        if judgement.candidate.token_ids != tuple(self.token_ids):
            return Piece(text, () if judgement.shown_text is not None else outcome.tokens[position])
        return self.release(View(text, len(text) if judgement.shown_text is None else 0))

    def candidate(self, adapter: str, index: int = 0) -> Candidate:
        logprobs = tuple(token.logprob for token in self.tokens)
        return Candidate(index, adapter, self.text, tuple(self.token_ids), logprobs, self.finish_reason)
