"""Choosing among candidates on real vLLM: waves, early rejection, strategies, steps, redaction, the last before a
refusal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from clients.demo.language import absent_objects, description_question, missed_objects, named_objects
from clients.demo.scenes import Scene
from server.engine.launcher import LOOPBACK, free_port
from tests.e2e.conftest import ALIAS, Service, make_service
from tests.e2e.test_openai_client import messages
from tests.engine_fixture import EngineSession, background_loop, call

pytestmark = pytest.mark.engine

SETTINGS: dict[str, Any] = {
    "rules": [],
    "scorers": [{"kind": "logprob"}, {"kind": "repetition"}],
    "auto": {"cost": 0.03, "max_candidates": 12},
    "early_reject": {"checkpoints": [6, 14], "keep": 0.5},
}


@contextmanager
def running(engine: EngineSession, directory: Path, **alias: Any) -> Iterator[Service]:
    one = make_service(engine, directory, **alias)
    one.start()
    try:
        yield one
    finally:
        one.stop()


@pytest.fixture
def stack(engine_session: EngineSession, tmp_path: Path) -> Iterator[Service]:
    with running(engine_session, tmp_path, **SETTINGS) as one:
        yield one


def ask(stack: Service, **fields: Any) -> dict[str, Any]:
    body = {"model": ALIAS, "messages": messages(), "max_tokens": 40, "plumbline": {"explain": True}} | fields
    reply = httpx.post(f"{stack.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_waves_end_where_more_is_not_worth_it(stack: Service) -> None:
    """Prompts differ in how many candidates they get; usage counts all of them."""
    replies = [ask(stack, messages=messages(seed), best_of="auto", seed=seed) for seed in range(8)]
    made = [reply["plumbline"]["generated"] for reply in replies]
    assert min(made) >= 4 and max(made) <= 12 and len(set(made)) > 1
    for reply in replies:
        usage = reply["usage"]
        assert usage["completion_tokens"] > usage["served_tokens"]
        assert reply["plumbline"]["degraded"] == []


def test_the_weaker_candidates_are_given_up_in_the_engine(stack: Service) -> None:
    """The same seeds: fewer tokens than without, nobody but a whole answer is shown, and no text of the others."""
    early, whole = [
        [
            ask(stack, messages=messages(seed), best_of=8, seed=seed, plumbline={"explain": True, **option})
            for seed in range(6)
        ]
        for option in ({"early_reject": True}, {})
    ]
    tokens = [sum(reply["usage"]["completion_tokens"] for reply in replies) for replies in (early, whole)]
    assert tokens[0] < 0.9 * tokens[1]
    for reply in early:
        candidates = reply["plumbline"]["explanation"]["candidates"]
        rejected = [one for one in candidates if one["finish_reason"] == "rejected"]
        assert len(candidates) == 8 and rejected
        assert all("text" not in one and one["probability"] == 0 for one in rejected)
        assert reply["choices"][0]["finish_reason"] in {"stop", "length"}


@pytest.mark.parametrize("strategy", ["argmax", "soft", "mbr", "pessimistic"])
def test_every_strategy_says_how_probable_its_choice_was(stack: Service, strategy: str) -> None:
    """Probabilities of all candidates add up to one; the chosen one had some."""
    reply = ask(stack, best_of=8, seed=3, plumbline={"explain": True, "selection": strategy})
    assert reply["plumbline"]["selection"] == strategy
    explained = reply["plumbline"]["explanation"]["candidates"]
    assert sum(one["probability"] for one in explained) == pytest.approx(1)
    (chosen,) = [one for one in explained if one["candidate_id"] == reply["choices"][0]["candidate_id"]]
    assert chosen["probability"] > 0


def truth(view: Scene, text: str) -> int:
    """What the text names rightly, less what it makes up."""
    return len(view.shapes) - len(missed_objects(view, text)) - len(absent_objects(view, text))


@contextmanager
def judge(views: dict[str, Scene]) -> Iterator[str]:
    """An endpoint that marks answers by what is in the picture, unfinished ones too; its base URL.

    `views`: by the image's data URL.
    """

    async def mark(request: web.Request) -> web.Response:
        document, image = (await request.json())["messages"][1]["content"]
        view, text = views[image["image_url"]["url"]], json.loads(document["text"])["answer"]
        named = sum(name in view.objects for name in named_objects(text))
        missed = len(missed_objects(view, text)) if text.endswith(".") else 0  # else more may follow
        verdict = {"score": 50 + 4 * (named - missed - len(absent_objects(view, text)))}
        choice = {"message": {"content": json.dumps(verdict)}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice]})

    app, port = web.Application(client_max_size=2**24), free_port()
    app.router.add_post("/v1/chat/completions", mark)
    runner = web.AppRunner(app)
    with background_loop() as loop:
        call(loop, runner.setup())
        call(loop, web.TCPSite(runner, LOOPBACK, port).start())
        try:
            yield f"http://{LOOPBACK}:{port}/v1"
        finally:
            call(loop, runner.cleanup())


def test_steps_find_what_whole_answers_do_not(engine_session: EngineSession, tmp_path: Path) -> None:
    """Where answers have several faults, each of its own chance, the best of three clauses again and again is nearer
    the truth than the best of three answers, for the same scorer and about as many tokens.
    """
    asked = [one for one in map(description_question, range(900, 1000)) if len(one.scene.shapes) > 2][:24]
    views = {question.scene.data_url(): question.scene for question in asked}
    found: dict[str, list[int]] = {"argmax": [], "stepwise": []}
    tokens = dict.fromkeys(found, 0)
    with judge(views) as url:
        scorer = {"kind": "judge", "judge": {"url": url, "model": "truth", "scale": 100, "structured": False}}
        settings = {"rules": [], "scorers": [scorer], "stepwise": {"ends": [",", ".", " and"]}}
        with running(engine_session, tmp_path, **settings) as one:
            for number, question in enumerate(asked):
                for selection, values in found.items():
                    image = {"type": "image_url", "image_url": {"url": question.scene.data_url()}}
                    content = [image, {"type": "text", "text": question.prompt}]
                    reply = ask(
                        one,
                        messages=[{"role": "user", "content": content}],
                        best_of=3,
                        seed=100 * number,
                        temperature=1.5,
                        plumbline={"explain": True, "selection": selection},
                    )
                    assert reply["plumbline"]["selection"] == selection
                    values.append(truth(question.scene, reply["choices"][0]["message"]["content"]))
                    tokens[selection] += reply["usage"]["completion_tokens"]
                    steps = reply["plumbline"]["explanation"].get("steps", [])
                    assert (len(steps) > 1) == (selection == "stepwise"), reply
    assert sum(found["stepwise"]) > sum(found["argmax"])
    assert tokens["stepwise"] < 1.2 * tokens["argmax"]


def test_a_redacted_answer_streams_as_it_is_kept(engine_session: EngineSession, tmp_path: Path) -> None:
    """No letter of what is redacted leaves, streamed or not; the answer goes on behind it."""
    rule = {"name": "colours", "kind": "words", "words": ["red", "green", "blue", "yellow"], "action": "redact"}
    with running(engine_session, tmp_path, rules=[rule]) as one:
        for seed in range(4):
            asked = {"messages": messages(seed), "seed": seed, "best_of": 1}
            plain = ask(one, **asked)["choices"][0]["message"]["content"]
            streamed = ""
            chunks = one.openai().chat.completions.create(
                model=ALIAS,
                messages=messages(seed),  # type: ignore[arg-type]
                max_tokens=40,
                seed=seed,
                stream=True,
                extra_body={"best_of": 1},
            )
            for chunk in chunks:
                streamed += "".join(choice.delta.content or "" for choice in chunk.choices)
            assert streamed == plain
            assert not any(word in plain for word in rule["words"])


def test_a_refusal_is_the_last_resort(engine_session: EngineSession, tmp_path: Path) -> None:
    """Where every candidate is forbidden, a further wave is asked with the reason; its variant is told apart."""
    rule = {"name": "any letter", "kind": "pattern", "pattern": "[a-z]", "instruction": "say nothing"}
    with running(engine_session, tmp_path, rules=[rule]) as one:
        reply = ask(one, best_of=2, seed=1)
        assert reply["choices"][0]["finish_reason"] == "content_filter"
        assert reply["plumbline"]["generated"] == 4
        explained = reply["plumbline"]["explanation"]["candidates"]
        assert all("text" not in candidate for candidate in explained)
