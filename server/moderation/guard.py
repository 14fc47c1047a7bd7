"""`GuardModel`: a guard model behind an OpenAI API, as the policy's `Guard`.

Promises: a deadline on every question, waiting for its turn included; at most so many questions at once; a reply of
bounded size; no redirects. What it once found out about a text it remembers (bounded; failures are not remembered).
Everything else raises: the policy makes that a block. Use it on one event loop only.
"""

from __future__ import annotations

import asyncio
import hashlib

from reward.policy import UNTRUSTED_ROLES
from reward.scorers.cache import Cache
from reward.types import Action, Message, Prompt, Verdict
from server.json_endpoint import JsonEndpoint
from server.moderation.formats import BadReply, Format, Question, Turn

MAX_REPLY_BYTES = 256 * 1024
REMEMBERED = 10_000


class GuardModel:
    def __init__(
        self,
        name: str,
        *,
        url: str,
        model: str,
        asked: Format,
        action: Action,
        key: str = "",
        timeout_s: float = 10.0,
        max_concurrent: int = 16,
    ) -> None:
        """`url`: up to and with `/v1`."""
        self.name = name
        self.action = action
        self.version = hashlib.sha256(repr((url, model, asked)).encode()).hexdigest()[:8]
        self._endpoint = JsonEndpoint(
            url, key, max_connections=max_concurrent, timeout_s=timeout_s, max_reply_bytes=MAX_REPLY_BYTES
        )
        self._model = model
        self._format = asked
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(max_concurrent)
        self._known: Cache[bytes, str] = Cache(REMEMBERED)

    async def check(self, prompt: Prompt, answer: str | None) -> Verdict:
        """Of the answer, beside the last turn that it answers; or of every turn that users and tools wrote."""
        said = [message for message in prompt.messages if message.role in UNTRUSTED_ROLES]
        turns = [_turn(one) for one in said] if answer is None else [_turn(said[-1] if said else None, answer)]
        async with asyncio.timeout(self._timeout_s):
            found = await asyncio.gather(*(self._finding(turn) for turn in turns if turn.question or turn.images))
        named = ", ".join(dict.fromkeys(filter(None, found)))
        if not named:
            return Verdict(self.name, self.version, Action.ALLOW)
        return Verdict(self.name, self.version, self.action, f"the guard model finds {named}")

    async def close(self) -> None:
        await self._endpoint.close()

    async def _finding(self, turn: Turn) -> str:
        key = _key(turn)
        if (known := self._known.get(key)) is not None:
            return known
        async with asyncio.TaskGroup() as asking:
            replies = [asking.create_task(self._ask(question)) for question in self._format.questions(turn)]
        found = self._format.finding([reply.result() for reply in replies])
        self._known.put(key, found)
        return found

    async def _ask(self, question: Question) -> str:
        async with self._free:
            reply = await self._endpoint.post(question.path, {"model": self._model, **question.body})
        match reply:
            case {"choices": [{"text": str(text)}, *_]} | {"choices": [{"message": {"content": str(text)}}, *_]}:
                return text
        raise BadReply("no completion")


def _turn(message: Message | None, answer: str | None = None) -> Turn:
    if message is None:
        return Turn("", (), answer)
    return Turn(message.text, message.images, answer)


def _key(turn: Turn) -> bytes:
    parts = (turn.question, turn.answer, *(image.sha256 for image in turn.images))
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()
