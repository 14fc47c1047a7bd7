"""What people say about an answer, as requests. No I/O: `send` of the client that answered sends them.

An opinion goes by the answer's own feedback token, so no key is needed for it, and under an Idempotency-Key, so the
`openai` client may repeat it (a broken connection, 429, 5xx) and it counts once.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from server.wire.signals import FeedbackRequest, PreferenceRequest

SentT = TypeVar("SentT")


class Receipt(BaseModel):
    """What must be kept of an answer to speak of it later, or elsewhere: `model_dump_json`, `model_validate_json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    completion_id: str
    candidates: tuple[str, ...]
    """Ids of the answers that were shown, in their order."""
    feedback_token: str | None
    """None: the answer was not kept, and nothing can be said about it."""

    def candidate(self, index: int) -> str:
        if not 0 <= index < len(self.candidates):
            raise ValueError(f"there is no answer {index}; {len(self.candidates)} were shown, counted from 0")
        return self.candidates[index]


@dataclass(frozen=True, slots=True)
class Said:
    """One opinion, ready to be sent. `path` is below the API's `/v1`."""

    path: Literal["/feedback", "/preferences"]
    body: dict[str, Any]
    headers: dict[str, str]


class Opinions(Generic[SentT]):
    """Says what the answers of one receipt are worth. Each method gives the kept signal, `AsyncPlumbline`'s a promise
    of it. Which answer is meant is its number among those that were shown: 0 is the first.

    `idempotency_key`: give one of your own where you may repeat the whole call; another body under it is refused.
    """

    def __init__(self, receipt: Receipt, send: Callable[[Said], SentT]) -> None:
        self.receipt = receipt
        self._send = send

    def thumbs_up(
        self,
        reason: str | None = None,
        *,
        index: int = 0,
        labels: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> SentT:
        return self._feedback(index, idempotency_key, reason=reason, rating="up", labels=labels)

    def thumbs_down(
        self,
        reason: str | None = None,
        *,
        index: int = 0,
        labels: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> SentT:
        return self._feedback(index, idempotency_key, reason=reason, rating="down", labels=labels)

    def rate(
        self,
        grade: float,
        reason: str | None = None,
        *,
        index: int = 0,
        labels: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> SentT:
        """A grade from -1 to 1."""
        return self._feedback(index, idempotency_key, reason=reason, rating=grade, labels=labels)

    def correct(
        self, text: str, reason: str | None = None, *, index: int = 0, idempotency_key: str | None = None
    ) -> SentT:
        """What the answer should have been."""
        return self._feedback(index, idempotency_key, reason=reason, correction=text)

    def prefer(self, index: int, *, over: int | Sequence[int], idempotency_key: str | None = None) -> SentT:
        """A choice between shown answers."""
        rejected = [self.receipt.candidate(one) for one in ([over] if isinstance(over, int) else over)]
        chosen = self.receipt.candidate(index)
        return self._preference({"chosen": chosen, "rejected": rejected}, idempotency_key)

    def rank(self, order: Sequence[int], *, idempotency_key: str | None = None) -> SentT:
        """All or some of the shown answers, the best first."""
        return self._preference({"ranking": [self.receipt.candidate(one) for one in order]}, idempotency_key)

    def tie(self, which: Literal["good", "bad"], *, idempotency_key: str | None = None) -> SentT:
        """The shown answers are equally good, or equally bad."""
        return self._preference({"tie": which}, idempotency_key)

    def _feedback(
        self,
        index: int,
        key: str | None,
        *,
        reason: str | None,
        rating: Literal["up", "down"] | float | None = None,
        labels: Sequence[str] = (),
        correction: str | None = None,
    ) -> SentT:
        said = {"rating": rating, "comment": reason, "labels": list(labels) or None, "correction": correction}
        request = FeedbackRequest.model_validate(
            {
                "completion_id": self.receipt.completion_id,
                "candidate_id": self.receipt.candidate(index),
                **{name: value for name, value in said.items() if value is not None},
            }
        )
        return self._send(self._said("/feedback", request, key))

    def _preference(self, said: dict[str, Any], key: str | None) -> SentT:
        request = PreferenceRequest.model_validate({"completion_id": self.receipt.completion_id, **said})
        return self._send(self._said("/preferences", request, key))

    def _said(self, path: Literal["/feedback", "/preferences"], request: BaseModel, key: str | None) -> Said:
        token = self.receipt.feedback_token
        if token is None:
            raise ValueError("the answer was not kept (store=False), so nothing can be said about it")
        headers = {"authorization": f"Plumbline-Feedback {token}", "idempotency-key": key or uuid.uuid4().hex}
        return Said(path, request.model_dump(mode="json", exclude_unset=True), headers)
