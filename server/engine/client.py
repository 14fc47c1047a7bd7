"""`VllmEngine`: the engine port over HTTP, for one vLLM base URL.

Promises: bounded connections, a deadline on every call, `EngineError` and nothing else; a cancelled call
closes its connection, whereupon vLLM aborts the generation. Leaves out retries and the choice among
replicas (the caller's) and starting a process (`launcher`). Bodies and replies are made in `payload`.
"""

from __future__ import annotations

import asyncio
import re
import struct
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from hashlib import sha256

import aiohttp
from pydantic_core import from_json, to_json

from reward.types import Image, Message, Prompt, Tool, ToolCall
from server import tool_calls
from server.engine import payload
from server.engine.port import (
    Beginning,
    Delta,
    EncodedAnswers,
    EngineError,
    EngineUnreachable,
    Generation,
    Sampling,
    ScoredAnswer,
    UnknownModel,
)

_ADAPTER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What may become a directory name in the engine's adapter resolver."""

_CONNECT_S = 5.0
_KEEPALIVE_S = 3.0
"""Shorter than vLLM's own 5 s, so that no request goes out on a connection that is just being closed."""

_CHAT = "/v1/chat/completions"
_JSON = {"content-type": "application/json"}
_PING = Prompt((Message("user", ("Hi",)),))
_CALLED = Prompt(
    (
        Message("user", ("Hi",)),
        Message("assistant", (), (ToolCall("call-1", "is_called", "{}"),)),
        Message("tool", ("yes",), tool_call_id="call-1"),
    ),
    (Tool("is_told", "", '{"type":"object","properties":{}}'),),
)
"""A conversation that shows what a chat template makes of tools."""


class VllmEngine:
    """One running vLLM. Connections are opened on first use; use it on one event loop only."""

    def __init__(
        self,
        base_url: str,
        base_model: str,
        *,
        timeout_s: float = 120.0,
        probe_timeout_s: float = 20.0,
        max_connections: int = 256,
        kept_adapter: Callable[[], str] = lambda: "",
    ) -> None:
        """`kept_adapter`: an adapter that every readiness probe asks too, so that the engine never evicts it."""
        self._kept_adapter = kept_adapter
        self._base_url = base_url.rstrip("/")
        self._base_model = base_model
        self._timeout_s = timeout_s
        self._probe_timeout_s = probe_timeout_s
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._version = ""
        self._speaks_of_tools: bool | None = None
        self._opening: tuple[int, ...] = ()
        self._progress = 0

    @property
    def base_model(self) -> str:
        return self._base_model

    @property
    def progress(self) -> int:
        """Grows with every reply and every streamed piece: an engine that is merely busy still makes progress."""
        return self._progress

    async def generate(self, model: str, prompt: Prompt, n: int, sampling: Sampling) -> Generation:
        body = payload.chat_body(model, prompt, n, sampling, stream=False)
        reply = await self._chat(model, body)
        return payload.generation_from(reply, model, n, sampling)

    async def extend(self, model: str, prompt: Prompt, beginning: Beginning, n: int, sampling: Sampling) -> Generation:
        reply = await self._chat(model, payload.extend_body(model, prompt, beginning, n, sampling))
        return payload.continuations_from(reply, model, beginning, n, sampling)

    async def can_extend(self, beginning: Beginning) -> bool:
        # What stands before the answer is the template's own, whatever was asked: a short question will do.
        if not self._opening:
            rendered = await self._post("/tokenize", payload.render_body(self._base_model, _PING))
            self._opening = payload.token_ids_from(rendered)
        rendered = await self._post("/tokenize", payload.render_body(self._base_model, _PING, beginning.text))
        return payload.token_ids_from(rendered) == self._opening + beginning.token_ids

    async def stream(self, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        body = payload.chat_body(model, prompt, 1, sampling, stream=True)
        prompt_token_ids: tuple[int, ...] = ()
        finished = False
        # Read to the regular end, so that the connection can be used again; left early, it is closed at once.
        async with aclosing(self._events(model, body)) as events:
            async for event in events:
                delta = payload.delta_from(event, sampling)
                if delta is None:
                    continue
                prompt_token_ids = prompt_token_ids or delta.prompt_token_ids
                if not (delta.text or delta.token_ids or delta.finish_reason):
                    continue  # the opening event: role and prompt only
                yield replace(delta, prompt_token_ids=prompt_token_ids)
                prompt_token_ids = ()
                finished = finished or delta.finish_reason is not None
        if not finished:
            raise EngineError("the engine's stream ended early")

    async def score(self, model: str, prompt: Prompt, answer: str) -> ScoredAnswer:
        """The answer's tokens are found at the end of the conversation: as the bare text's own encoding, or,
        where a tokenizer encodes it otherwise in its place, as what follows the prompt's encoding.
        """
        if not answer:
            return ScoredAnswer((), ())
        encoded = await self._post("/tokenize", payload.encode_body(self._base_model, answer))
        ending = payload.token_ids_from(encoded)
        scored = await self._chat(model, payload.score_body(model, prompt, answer))
        conversation = payload.scored_prompt_from(scored)
        if ending and payload.ends_with(conversation.token_ids, ending):
            return payload.tail(conversation, len(conversation.token_ids) - len(ending))
        rendered = await self._post("/tokenize", payload.render_body(self._base_model, prompt))
        beginning = payload.token_ids_from(rendered)
        if not payload.starts_with(conversation.token_ids, beginning):
            raise EngineError("the answer cannot be told from its prompt in the engine's encoding", retryable=False)
        return payload.tail(conversation, len(beginning))

    async def encode(self, prompt: Prompt, answers: Sequence[str]) -> EncodedAnswers:
        rendered, *encoded = await asyncio.gather(
            self._post("/tokenize", payload.render_body(self._base_model, prompt)),
            *(self._post("/tokenize", payload.encode_body(self._base_model, answer)) for answer in answers),
        )
        return payload.encoded_answers_from(rendered, encoded)

    async def speaks_of_tools(self) -> bool:
        if self._speaks_of_tools is None:
            try:
                rendered = await self._post("/tokenize", payload.render_body(self._base_model, _CALLED))
            except EngineError as error:
                if error.retryable:
                    raise
                self._speaks_of_tools = False  # some templates refuse such a conversation
                return False
            body = {"model": self._base_model, "tokens": payload.token_ids_from(rendered)}
            text = str((await self._post("/detokenize", body)).get("prompt"))
            self._speaks_of_tools = "is_told" in text and f"{tool_calls.OPENING}is_called" in text
        return self._speaks_of_tools

    async def is_ready(self) -> bool:
        models = [self._base_model, *filter(None, [self._kept_adapter()])]
        sampling = Sampling(max_tokens=1)
        timeout = aiohttp.ClientTimeout(total=self._probe_timeout_s, sock_connect=_CONNECT_S)
        try:
            # A connection of its own: neither a full pool nor an old connection may answer for the engine.
            async with aiohttp.ClientSession(timeout=timeout) as session:
                for model in models:
                    body = payload.chat_body(model, _PING, 1, sampling, stream=False)
                    reply = await _exchange(session, "POST", self._base_url + _CHAT, body)
                    payload.generation_from(reply, model, 1, sampling)
        except (EngineError, aiohttp.ClientError, OSError, ValueError):
            return False
        return True

    async def warm_up(self) -> None:
        """Make the engine compile and cache what first requests would wait for; raises `EngineError`."""
        prompt = Prompt((Message("user", (_blank_image(96), "Hi")),))
        await self.generate(self._base_model, prompt, 2, Sampling(max_tokens=8, seed=0, top_p=0.9))
        await self.generate(self._base_model, prompt, 1, Sampling(max_tokens=4, temperature=0.0))
        await self.score(self._base_model, prompt, "Hi")

    async def version(self) -> str:
        if not self._version:
            with _engine_errors():
                reply = await _exchange(self._connections(), "GET", self._base_url + "/version", None)
            version = reply.get("version")
            if not isinstance(version, str):
                raise EngineError("the engine does not tell its version")
            self._version = f"vllm {version}"
        return self._version

    async def loaded_adapters(self) -> frozenset[str]:
        with _engine_errors():
            reply = await _exchange(self._connections(), "GET", self._base_url + "/v1/models", None)
        return payload.adapters_from(reply, self._base_model)

    async def unload(self, adapter: str) -> None:
        with _engine_errors():
            address = self._base_url + "/v1/unload_lora_adapter"
            async with self._connections().post(address, json={"lora_name": adapter}) as response:
                await response.read()
        if response.status not in {200, 404}:
            raise EngineError(f"the engine does not unload an adapter: HTTP {response.status}")

    async def close(self) -> None:
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _chat(self, model: str, body: payload.Json) -> payload.Json:
        self._check_name(model)
        return await self._post(_CHAT, body)

    async def _post(self, path: str, body: payload.Json) -> payload.Json:
        with _engine_errors():
            reply = await _exchange(self._connections(), "POST", self._base_url + path, body)
        self._progress += 1
        return reply

    async def _events(self, model: str, body: payload.Json) -> AsyncGenerator[payload.Json]:
        """The events of a streamed reply, up to its regular end or the connection's."""
        self._check_name(model)
        parser = payload.EventParser()
        with _engine_errors():
            async with self._connections().post(self._base_url + _CHAT, data=_encode(body), headers=_JSON) as response:
                if response.status != 200:
                    raise payload.error_from(response.status, _decode(await response.read()))
                async for piece in response.content.iter_any():
                    self._progress += 1
                    for event in parser.feed(piece):
                        if event is None:
                            return
                        yield event

    def _check_name(self, model: str) -> None:
        if model != self._base_model and not _ADAPTER_ID.fullmatch(model):
            raise UnknownModel("not a name that an adapter can have")

    def _connections(self) -> aiohttp.ClientSession:
        if self._closed:
            raise EngineError("the engine's client is closed", retryable=False)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections, keepalive_timeout=_KEEPALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S),
            )
        return self._session


@contextmanager
def _engine_errors() -> Iterator[None]:
    """Transport failures as the port's errors."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise EngineUnreachable("the engine does not accept a connection") from error
    except TimeoutError as error:
        raise EngineError("the engine did not answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise EngineUnreachable(f"the engine cannot be reached: {type(error).__name__}") from error


async def _exchange(session: aiohttp.ClientSession, method: str, url: str, body: payload.Json | None) -> payload.Json:
    async with session.request(method, url, data=None if body is None else _encode(body), headers=_JSON) as response:
        reply = _decode(await response.read())
    if response.status != 200:
        raise payload.error_from(response.status, reply)
    if not isinstance(reply, dict):
        raise EngineError("the engine's reply is not a JSON object")
    return reply


def _encode(body: payload.Json) -> bytes:
    """Not with `json`: an image as text is most of a body, and that would look at its every character twice."""
    try:
        return to_json(body)
    except ValueError as error:
        raise EngineError("the request cannot be written as JSON", retryable=False) from error


def _decode(content: bytes) -> object:
    """The reply's JSON; what is none (a proxy's page, plain text) as None."""
    try:
        reply: object = from_json(content)
    except ValueError:
        return None
    return reply


def _blank_image(side_px: int) -> Image:
    """A black PNG, written by hand: the server decodes images in workers only."""
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(side_px * (1 + 3 * side_px)))
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return Image(sha256(data).hexdigest(), "image/png", data)
