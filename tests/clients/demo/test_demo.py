"""The demo's settings, its users at work and its verdict, without an engine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clients.demo.budget import Budget
from clients.demo.chat import Answer, Said, connect
from clients.demo.crowd import Crowd
from clients.demo.language import description_question
from clients.demo.ledger import Ledger
from clients.demo.measure import Descriptions, MeasurementFailed, Meter
from clients.demo.result import TARGETS, missed, summarise, target_table
from clients.demo.run import Story
from clients.demo.settings import LEARNER, ORDINARY, OVER_OPTIMISING, OVER_OPTIMISING_LEARNER, server_settings
from clients.demo.users import make_users
from clients.stack import Stack
from clients.toml import to_toml


@pytest.mark.parametrize("settings", [(ORDINARY, LEARNER), (OVER_OPTIMISING, OVER_OPTIMISING_LEARNER)])
def test_the_server_accepts_the_demos_configuration(tmp_path: Path, settings: tuple[Any, Any]) -> None:
    """`--check-config` reads it back as it was meant."""
    stack = Stack(tmp_path, server_settings(*settings, tmp_path / "suites"))
    stack.config_file.write_text(to_toml(stack.configuration()))
    command = [sys.executable, "-m", "server", "--config", str(stack.config_file), "--check-config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    alias = json.loads(done.stdout)["aliases"][0]
    assert alias["learner"]["objectives"] == settings[1]["objectives"]
    assert alias["learner"]["min_new_signals"] == settings[0].round_size


class Played(BaseHTTPRequestHandler):
    """A server that describes every picture wordily or tersely, and takes every signal."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, Any], dict[str, str]]]
    fails = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.path, body, {name.lower(): value for name, value in self.headers.items()}))
        if self.fails:
            return self._send(503, {"error": {"message": "no", "type": "unavailable"}})
        if self.path == "/v1/chat/completions":
            return self._send(200, chat_reply(body))
        return self._send(200, {"id": "sig-1", "completion_id": body["completion_id"], "trainable": True})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def chat_reply(body: dict[str, Any]) -> dict[str, Any]:
    texts = ["A red circle."]
    if body["plumbline"].get("compare"):
        texts.append("In this picture I can see a red circle. That is everything that is in view.")
    token = {"token": "x", "logprob": -1.0}
    return {
        "id": "cmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {
                "index": n,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                "candidate_id": f"cmpl-1.{n}",
                "logprobs": {"content": [token] * len(text.split())},
            }
            for n, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18, "served_tokens": 9},
        "plumbline": {
            "adapter": "base", "generation": 0, "best_of": len(texts), "generated": len(texts), "selection": "argmax",
            "compare": [f"cmpl-1.{n}" for n in range(len(texts))] if len(texts) > 1 else [],
        },
    }  # fmt: skip


@contextmanager
def played(*, fails: bool = False) -> Iterator[tuple[str, list[tuple[str, dict[str, Any], dict[str, str]]]]]:
    handler = type("Handler", (Played,), {"seen": [], "fails": fails})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_users_rate_within_the_budget_and_chat_beyond_it() -> None:
    """Choices and thumbs with idempotency keys, each user under its own name; then only chats."""
    import asyncio

    ledger, budget = Ledger(), Budget(total=30, round_size=20)
    with played() as (url, seen):
        async with connect(url) as client:
            crowd = Crowd(client, "shapes", make_users(10, 1), ledger, budget, best_of=2, concurrency=4)
            budget.release()
            crowd.start()
            while budget.is_open or ledger.requests < 60:
                await asyncio.sleep(0.01)
                crowd.check()
            await crowd.stop()
    chats = [body for path, body, _ in seen if path == "/v1/chat/completions"]
    signals = [(path, body, headers) for path, body, headers in seen if path != "/v1/chat/completions"]
    assert ledger.failed == 0 and ledger.requests == len(chats) >= 60
    assert ledger.signals == budget.taken == len(signals) <= 30
    assert {path for path, _, _ in signals} == {"/v1/feedback", "/v1/preferences"}
    assert len({headers["idempotency-key"] for _, _, headers in signals}) == len(signals)
    assert {body["user"] for body in chats} == {f"user-{n:03d}" for n in range(10)}


async def test_a_measurement_with_a_failed_request_is_none() -> None:
    """Its figures would be about the requests that happened to work."""
    with played(fails=True) as (url, _):
        async with connect(url) as client:
            ledger = Ledger()
            with pytest.raises(MeasurementFailed):
                await Meter(client, ledger, 4, 4, 2).describe("base", 1, lambda done, of: None)
            assert ledger.failed >= 1


def descriptions(count: int, *, invents: float, blocked: int = 0) -> Descriptions:
    """The first ones invent a thing that is in no scene; the first `blocked` have a blocked candidate of two."""
    questions = [description_question(seed) for seed in range(count)]
    answers = []
    for index, asked in enumerate(questions):
        text = ", ".join(shape.name for shape in asked.scene.shapes)
        if index < invents * count:
            text += "".join(
                f", {name}" for name in ("red circle", "blue square", "green square") if name not in asked.scene.objects
            )
        said = Said(f"c-{index}", text, 9, is_refusal=False)
        answers.append(Answer(f"cmpl-{index}", "a", 1, (said,), False, 2, int(index < blocked)))
    return Descriptions(questions, answers)


def test_the_verdict_names_what_was_missed() -> None:
    """Everything reached but the promotions, which there were none of, and what was not measured."""
    before = descriptions(100, invents=0.5, blocked=10)
    after = descriptions(100, invents=0.01, blocked=1)
    story = Story(before, [True] * 100, after=after, after_best_of_8=after, skills_after=[True] * 99 + [False])
    ledger = Ledger(requests=2000, texts_served=2000, signals=390)
    result = summarise(story, ledger, seconds=300.0)
    assert result["hallucination_before"] == 0.5
    assert result["hallucination_after_ci"][1] < 0.06
    assert result["coverage_after"] == 1.0
    assert result["skills_drop"] == pytest.approx(0.01)
    assert result["leak_rate_generated_ratio"] == pytest.approx(0.1)
    assert (result["rollback_ms"], result["publish_to_served_ms"]) == (None, None)
    assert [target.name for target in missed(result)] == ["adapters_promoted"]
    assert target_table(result).row_count == len(TARGETS)


def test_what_was_not_measured_was_not_reached() -> None:
    """No adapter was ever active: nothing after it is made up."""
    story = Story(descriptions(50, invents=0.5), [True] * 10)
    result = summarise(story, Ledger(), seconds=300.0)
    assert result["hallucination_after"] is None
    assert "hallucination_after" in [target.name for target in missed(result)]
    json.dumps(result, allow_nan=False)
