"""One answer that arrives piece by piece, as far as it has come."""

from __future__ import annotations

import dataclasses
from collections import deque

from reward.types import Candidate
from server.engine.port import Delta, TokenAlternatives
from server.pipeline.task import Piece


@dataclasses.dataclass(slots=True)
class GrowingAnswer:
    text: str = ""
    token_ids: list[int] = dataclasses.field(default_factory=list)
    tokens: list[TokenAlternatives] = dataclasses.field(default_factory=list)
    prompt_token_ids: tuple[int, ...] = ()
    finish_reason: str = "stop"
    sent: int = 0
    ends: deque[tuple[int, int]] = dataclasses.field(default_factory=deque)
    """(where a delta's text ended, tokens up to there), of deltas whose text is not all out."""
    sent_tokens: int = 0

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.tokens += delta.tokens
        self.prompt_token_ids = self.prompt_token_ids or delta.prompt_token_ids
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.ends.append((len(self.text), len(self.tokens)))

    def release(self, hold_back: int) -> Piece | None:
        """What may leave now, all but so many characters; None: nothing."""
        until = max(self.sent, len(self.text) - hold_back)
        text, self.sent = self.text[self.sent : until], until
        first = self.sent_tokens
        while self.ends and self.ends[0][0] <= until:
            _, self.sent_tokens = self.ends.popleft()
        tokens = tuple(self.tokens[first : self.sent_tokens])
        return Piece(text, tokens) if text or tokens else None

    def candidate(self, adapter: str, index: int = 0) -> Candidate:
        logprobs = tuple(token.logprob for token in self.tokens)
        return Candidate(index, adapter, self.text, tuple(self.token_ids), logprobs, self.finish_reason)
