"""An engine without a model: vLLM's routes as the service calls them, each answered at once with the same tokens.

    python -m benchmarks._noop_engine PORT [--token-ms 0]

Behind a gateway it costs next to nothing, so what is measured is the gateway. Any OpenAI client can use it too: the
fields that are vLLM's own are further ones. Bare ASGI; what a body asks for (`n`, `stream`, `logprobs`,
`prompt_logprobs`) is honoured, the rest is not read. `--token-ms`: time between two tokens, for answers that take time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from functools import cache
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

Json = dict[str, Any]

MODEL = "noop"
TEXT = "A red circle is left of a blue square , and both are above one green triangle ."
WORDS = TEXT.split()
TOKEN_IDS = list(range(1000, 1000 + len(WORDS)))
PROMPT_TOKEN_IDS = list(range(64))
LOGPROB = -0.25
START = [(b"content-type", b"application/json")]


@cache
def completion(n: int, logprobs: bool, prompt_logprobs: bool) -> bytes:
    choice = {"message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    choices = [{"index": index, **choice, **_tokens(WORDS, TOKEN_IDS, logprobs)} for index in range(n)]
    reply = {**_head("chat.completion"), "choices": choices, "prompt_token_ids": PROMPT_TOKEN_IDS}
    if prompt_logprobs:
        rest = PROMPT_TOKEN_IDS[1:]
        reply["prompt_logprobs"] = [None, *({str(token): {"logprob": LOGPROB}} for token in rest)]
    generated = n * len(WORDS)
    reply["usage"] = {
        "prompt_tokens": len(PROMPT_TOKEN_IDS),
        "completion_tokens": generated,
        "total_tokens": len(PROMPT_TOKEN_IDS) + generated,
    }
    return json.dumps(reply).encode()


@cache
def events(logprobs: bool) -> tuple[bytes, ...]:
    """A stream's events: one for each token, then the regular end."""

    def event(delta: Json, **further: Any) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": None, **further}]
        return b"data: " + json.dumps({**_head("chat.completion.chunk"), "choices": choices}).encode() + b"\n\n"

    pieces = [
        event({"content": word if at == 0 else f" {word}"}, **_tokens([word], [TOKEN_IDS[at]], logprobs))
        for at, word in enumerate(WORDS)
    ]
    opening = {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
    first = {**_head("chat.completion.chunk"), **opening, "prompt_token_ids": PROMPT_TOKEN_IDS}
    return (
        b"data: " + json.dumps(first).encode() + b"\n\n",
        *pieces,
        event({"content": ""}, finish_reason="stop") + b"data: [DONE]\n\n",
    )


def _head(kind: str) -> Json:
    return {"id": "chatcmpl-noop", "object": kind, "created": 1_750_000_000, "model": MODEL}


def _tokens(words: list[str], token_ids: list[int], logprobs: bool) -> Json:
    content = [{"token": word, "logprob": LOGPROB, "bytes": list(word.encode()), "top_logprobs": []} for word in words]
    return {"token_ids": token_ids, "logprobs": {"content": content} if logprobs else None}


class NoopEngine:
    """The ASGI application."""

    def __init__(self, token_s: float) -> None:
        self._token_s = token_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        pieces = []
        while True:
            message = await receive()
            pieces.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        body = json.loads(b"".join(pieces) or b"{}")
        match scope["path"]:
            case "/v1/chat/completions" if body.get("stream"):
                await self._stream(body, send)
            case "/v1/chat/completions":
                await asyncio.sleep(self._token_s * len(WORDS))
                n, logprobs = body.get("n") or 1, bool(body.get("logprobs"))
                await _answer(send, completion(n, logprobs, "prompt_logprobs" in body))
            case "/tokenize":
                tokens = PROMPT_TOKEN_IDS if "messages" in body else PROMPT_TOKEN_IDS[-1:]
                await _answer(send, json.dumps({"tokens": tokens, "max_model_len": 8192}).encode())
            case "/version":
                await _answer(send, b'{"version": "0 (no model)"}')
            case "/v1/models":
                await _answer(send, json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode())
            case _:
                await _answer(send, b'{"error": {"message": "no such path"}}', status=404)

    async def _stream(self, body: Json, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for event in events(bool(body.get("logprobs"))):
            await send({"type": "http.response.body", "body": event, "more_body": True})
            if self._token_s:
                await asyncio.sleep(self._token_s)
        await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, body: bytes, status: int = 200) -> None:
    headers = [*START, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks._noop_engine", description="An engine without a model.")
    parser.add_argument("port", type=int)
    parser.add_argument("--token-ms", type=float, default=0.0, help="time between two tokens")
    args = parser.parse_args()
    app = NoopEngine(args.token_ms / 1000)
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning", access_log=False, timeout_keep_alive=75)
    return 0


if __name__ == "__main__":
    sys.exit(main())
