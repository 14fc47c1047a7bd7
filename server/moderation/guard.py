"""`GuardModel`: a guard model behind an OpenAI API, as the policy's `Guard`.

Promises: a deadline on every question, waiting for its turn included; at most so many questions at once; a reply of
bounded size; no redirects. What it once found out about a text it remembers (bounded; failures are not remembered).
Everything else raises: the policy makes that a block. Use it on one event loop only.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict

import aiohttp
from pydantic_core import from_json, to_json

from reward.policy import UNTRUSTED_ROLES
from reward.types import Action, Message, Prompt, Verdict
from server.moderation.formats import BadReply, Format, Question, Turn

MAX_REPLY_BYTES = 256 * 1024
REMEMBERED = 10_000
_CONNECT_S = 3.0


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
        self._url = url.rstrip("/")
        self._model = model
        self._format = asked
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(max_concurrent)
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._session: aiohttp.ClientSession | None = None

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
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _finding(self, turn: Turn) -> str:
        key = _key(turn)
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return known
        async with asyncio.TaskGroup() as asking:
            replies = [asking.create_task(self._ask(question)) for question in self._format.questions(turn)]
        found = self._format.finding([reply.result() for reply in replies])
        self._known[key] = found
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    async def _ask(self, question: Question) -> str:
        async with (
            self._free,
            self._connections().post(
                self._url + question.path,
                data=to_json({"model": self._model, **question.body}),
                headers=self._headers,
                allow_redirects=False,
            ) as response,
        ):
            if response.status != 200:
                raise BadReply(f"HTTP {response.status}")
            content = bytearray()
            async for piece in response.content.iter_any():
                content += piece
                if len(content) > MAX_REPLY_BYTES:
                    raise BadReply("a reply without end")
        match from_json(bytes(content)):
            case {"choices": [{"text": str(text)}, *_]} | {"choices": [{"message": {"content": str(text)}}, *_]}:
                return text
        raise BadReply("no completion")

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S),
            )
        return self._session


def _turn(message: Message | None, answer: str | None = None) -> Turn:
    if message is None:
        return Turn("", (), answer)
    return Turn(message.text, message.images, answer)


def _key(turn: Turn) -> bytes:
    parts = (turn.question, turn.answer, *(image.sha256 for image in turn.images))
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()
