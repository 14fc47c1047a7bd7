"""Both clients send the same bytes, and repeat what may be repeated under one key: before a server that keeps all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest

from clients import AsyncPlumbline, Plumbline
from tests.clients.sdk.flavours import Flavour, flavour

CLIENTS = [Plumbline, AsyncPlumbline]
ALIGNMENT = {
    "adapter": "base", "generation": 0, "best_of": 2, "generated": 2, "selection": "argmax", "feedback_token": "t-1",
}  # fmt: skip
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "served_tokens": 1}
COMPLETION = {"id": "c-1", "created": 1, "model": "default"}
REPLY = {
    **COMPLETION,
    "object": "chat.completion",
    "choices": [
        {"index": n, "message": {"role": "assistant", "content": f"no {n}"}, "finish_reason": "stop",
         "candidate_id": f"c-1.{n}"}
        for n in range(2)
    ],
    "usage": USAGE,
    "plumbline": ALIGNMENT,
}  # fmt: skip
CHUNKS: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "no"}, "candidate_id": "c-1.0"}]},
    {"choices": [{"index": 0, "delta": {"content": " 0"}, "finish_reason": "stop", "candidate_id": "c-1.0"}]},
    {"choices": [], "usage": USAGE, "plumbline": ALIGNMENT},
]
SIGNAL = {"id": "s-1", "completion_id": "c-1", "trainable": True}


class Recorder:
    """Plays the server: answers every call, and keeps what came. The first `failures` opinions get 503."""

    def __init__(self, failures: int = 0, chunks: list[dict[str, Any]] = CHUNKS) -> None:
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.failures = failures
        self.chunks = chunks

    def reply(self, path: str, body: Any) -> tuple[int, str, bytes]:
        if path == "/v1/chat/completions" and body.get("stream"):
            lines = [json.dumps({**COMPLETION, "object": "chat.completion.chunk", **one}) for one in self.chunks]
            return 200, "text/event-stream", "".join(f"data: {one}\n\n" for one in [*lines, "[DONE]"]).encode()
        if path == "/v1/chat/completions":
            return 200, "application/json", json.dumps(REPLY).encode()
        if self.failures:
            self.failures -= 1
            return 503, "application/json", b'{"error": {"message": "away", "type": "t", "param": null, "code": "c"}}'
        return 200, "application/json", json.dumps(SIGNAL).encode()


@contextmanager
def recorded(recorder: Recorder, kind: Any, **options: Any) -> Iterator[Flavour]:
    """The recorder behind real HTTP, and a client of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            kept = ("authorization", "idempotency-key", "content-type")
            headers = {name: self.headers[name] for name in kept if self.headers[name]}
            recorder.seen.append((self.path, headers, body))
            status, content_type, content = recorder.reply(self.path, body)
            self.send_response(status)
            for name, value in (("content-type", content_type), ("content-length", str(len(content)))):
                self.send_header(name, value)
            self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with flavour(kind, f"http://127.0.0.1:{http.server_port}/v1/", "pk-1", **options) as one:
                yield one
        finally:
            http.shutdown()
            thread.join()


def everything(sdk: Flavour) -> list[Any]:
    """Each method with each of its options; what the client made of the replies."""
    answer = sdk.got(
        sdk.client.chat(
            "What?", images=[b"\x89PNG\r\n\x1a\n"], system="Be brief.", model="pets", best_of="auto", n=2,
            compare="auto", explain=True, selection="soft", early_reject=True, user="ann", temperature=0.5,
            top_p=0.9, max_tokens=4, seed=1, stop="x", more={"response_format": {"type": "json_object"}},
        )
    )  # fmt: skip
    stream = sdk.got(sdk.client.stream("What?"))
    pieces = sdk.read(stream)
    signals = [
        sdk.got(one)
        for about in (answer, stream.answer, sdk.client.opinions(answer.receipt))
        for one in (
            about.thumbs_up("good", labels=["a"]), about.thumbs_down(), about.rate(0.5), about.correct("Better."),
        )
    ]  # fmt: skip
    signals += [sdk.got(one) for one in (answer.prefer(0, over=1), answer.rank([1, 0]), answer.tie("good"))]
    again = sdk.got(answer.regenerate())
    return [answer.reply, answer.candidates, pieces, stream.answer.reply, signals, again.reply, repr(again)[5:]]


def test_both_clients_say_and_understand_the_same() -> None:
    """Request by request: path, authorisation, body; each opinion under a key of its own."""
    calls, understood = [], []
    for kind in CLIENTS:
        recorder = Recorder()
        with recorded(recorder, kind) as sdk:
            understood.append(everything(sdk)[:-1])
        keys = [headers.pop("idempotency-key") for path, headers, _ in recorder.seen if path != "/v1/chat/completions"]
        assert len(set(keys)) == len(keys) == 15
        calls.append(recorder.seen)
    assert calls[0] == calls[1]
    assert understood[0] == understood[1]
    chats = [body for path, _, body in calls[0] if path == "/v1/chat/completions"]
    assert chats[0]["plumbline"] == {
        "compare": "auto", "explain": True, "selection": "soft", "early_reject": True,
    }  # fmt: skip
    assert chats[1]["stream"] is True
    expected = {**chats[0], "plumbline": {**chats[0]["plumbline"], "regenerate_of": "c-1"}}
    assert chats[2] == {name: value for name, value in expected.items() if name != "seed"}
    assert {headers["authorization"] for path, headers, _ in calls[0] if path != "/v1/chat/completions"} == {
        "Plumbline-Feedback t-1"
    }


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_repeated_opinion_carries_one_key(kind: Any) -> None:
    """Twice away, then there: the same body under the same key, so it counts once; and no further."""
    recorder = Recorder(failures=2)
    with recorded(recorder, kind) as sdk:
        answer = sdk.got(sdk.client.chat("What?"))
        assert sdk.got(answer.thumbs_up()).id == "s-1"
        opinions = recorder.seen[1:]
        assert len(opinions) == 3
        assert len({headers["idempotency-key"] for _, headers, _ in opinions}) == 1
        assert all(body == opinions[0][2] for _, _, body in opinions)
        recorder.failures = 9
        with pytest.raises(openai.InternalServerError, match="away"):
            sdk.got(answer.thumbs_up())
        assert len(recorder.seen) == 1 + 3 + 3


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_stream_that_breaks_off_is_no_answer(kind: Any) -> None:
    """Its pieces were read; that its end is missing is said."""
    with recorded(Recorder(chunks=CHUNKS[:1]), kind) as sdk:
        stream = sdk.got(sdk.client.stream("What?"))
        with pytest.raises(Exception, match="broke off"):
            sdk.read(stream)


@pytest.mark.parametrize("kind", CLIENTS)
def test_server_and_key_may_come_from_the_environment(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """PLUMBLINE_URL and PLUMBLINE_KEY, as for the command; what is said in the call counts more."""
    monkeypatch.setenv("PLUMBLINE_URL", "http://elsewhere:1/v1")
    monkeypatch.setenv("PLUMBLINE_KEY", "pk-env")
    for arguments, url, key in (
        ((), "http://elsewhere:1/v1/", "pk-env"),
        (("http://here",), "http://here/v1/", "pk-env"),
    ):
        client = kind(*arguments)
        assert (str(client.openai.base_url), client.openai.api_key) == (url, key)
