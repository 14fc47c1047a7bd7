"""
title: Plumbline thumbs
description: Forwards thumbs on answers of a Plumbline server to it, so that it learns from them.
requirements: httpx
version: 0.1.0
license: Apache-2.0
"""  # noqa: D212 - as Open WebUI reads it

# A filter function of Open WebUI. Open WebUI calls `stream` with each chunk of an answer and has no call for ratings,
# so those are read from its own table of feedback, a while after they were given. What is remembered lives in memory.

import asyncio
import inspect
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import BaseModel, Field

RATINGS = {"1": "up", "-1": "down"}
MOST_ANSWERS = 10_000
MOST_CHARS = {"comment": 4000, "label": 64}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What became of one completion in Open WebUI."""

    completion_id: str
    feedback_token: str
    user_id: str


def answer_of(event: dict[str, Any], user_id: str) -> Answer | None:
    """The answer that a chunk completes: a stream's last chunk carries `plumbline`."""
    about = event.get("plumbline")
    if not isinstance(about, dict) or not about.get("feedback_token") or not event.get("id"):
        return None
    return Answer(str(event["id"]), str(about["feedback_token"]), user_id)


def body_of(answer: Answer, data: dict[str, Any]) -> dict[str, Any] | None:
    """`POST /v1/feedback` of a rating as Open WebUI keeps it; None where nobody said up or down."""
    rating = RATINGS.get(str(data.get("rating")))
    if rating is None:
        return None
    body: dict[str, Any] = {"completion_id": answer.completion_id, "rating": rating}
    if comment := str(data.get("comment") or "").strip():
        body["comment"] = comment[: MOST_CHARS["comment"]]
    if reason := str(data.get("reason") or "").strip():
        body["labels"] = [reason[: MOST_CHARS["label"]]]
    return body


class Filter:
    class Valves(BaseModel):
        url: str = Field("http://127.0.0.1:8400", description="The Plumbline server")
        every_s: float = Field(20.0, gt=0, description="Seconds between two looks at the ratings")
        timeout_s: float = Field(10.0, gt=0, description="How long one call may take")
        priority: int = Field(0, description="Among other filters")

    def __init__(self) -> None:
        self.valves = self.Valves()
        self._answers: OrderedDict[str, Answer] = OrderedDict()  # by message id
        self._sent: OrderedDict[str, int] = OrderedDict()  # by rating id: when it was changed last
        self._task: asyncio.Task[None] | None = None

    async def stream(
        self, event: dict[str, Any], __metadata__: dict[str, Any] | None = None, __user__: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Every chunk, unchanged; from the last one is remembered what a rating of this message is about."""
        message, user = (__metadata__ or {}).get("message_id"), (__user__ or {}).get("id")
        answer = answer_of(event, str(user)) if message and user else None
        if answer is not None:
            _remember(self._answers, str(message), answer)
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(self._forward())
        return event

    async def _forward(self) -> None:
        while True:
            await asyncio.sleep(self.valves.every_s)
            try:
                await self.forward_once()
            except Exception:  # whatever Open WebUI or the network raises: the next look may succeed
                log.exception("thumbs were not forwarded; trying again")

    async def forward_once(self) -> int:
        """Send the ratings that are new or changed; how many."""
        sent = 0
        async with httpx.AsyncClient(base_url=self.valves.url, timeout=self.valves.timeout_s) as client:
            for user in {one.user_id for one in self._answers.values()}:
                for rating in await self.ratings_of(user):
                    sent += await self._send(client, rating)
        return sent

    async def _send(self, client: httpx.AsyncClient, rating: Any) -> bool:
        answer = self._answers.get(str((rating.meta or {}).get("message_id")))
        body = body_of(answer, rating.data or {}) if answer is not None else None
        if answer is None or body is None or self._sent.get(rating.id) == rating.updated_at:
            return False
        headers = {
            "authorization": f"Plumbline-Feedback {answer.feedback_token}",
            "idempotency-key": f"open-webui-{rating.id}-{rating.updated_at}",
        }
        reply = await client.post("/v1/feedback", json=body, headers=headers)
        if reply.status_code == 429 or reply.status_code >= 500:
            return False  # the next look sends it again, under the same key
        if reply.is_error:
            log.warning("the server refused a thumb: %s", reply.text)
        _remember(self._sent, rating.id, rating.updated_at)
        return reply.is_success

    async def ratings_of(self, user_id: str) -> list[Any]:
        """From Open WebUI's own table; it became asynchronous in newer versions."""
        from open_webui.models.feedbacks import Feedbacks  # noqa: PLC0415 - there is none where this is tested

        found = Feedbacks.get_feedbacks_by_user_id(user_id)
        return list(await found if inspect.isawaitable(found) else found)


def _remember(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > MOST_ANSWERS:
        kept.popitem(last=False)
