"""Each action of a safety rule as apps, the store and the feed see it, and what is tried before a refusal."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from reward.types import Image as PromptImage
from reward.types import Prompt
from server.config import AliasConfig, Config, HttpConfig, RuleConfig, ScorerConfig, StoreConfig
from server.config.safety import SecondWaveConfig
from server.engine.port import Delta, EngineError, Sampling
from server.pipeline.fingerprint import fingerprint
from server.store.records import GroupState
from tests.api.conftest import CHAT, Opener, Stack, assert_openai_error, chat_body, config_for, data_url
from tests.api.saying import group_of, say, taught
from tests.server.moderation.guard_server import guard_server

OFF = SecondWaveConfig(enabled=False)


def rule(kind: str = "words", **settings: Any) -> RuleConfig:
    settings = ({"words": ["secret"]} if kind == "words" else {}) | settings
    return RuleConfig(**({"name": "r", "kind": kind} | settings))


async def with_rules(open_stack: Opener, directory: Path, *rules: RuleConfig, **alias: Any) -> Stack:
    return await open_stack(config_for(directory, rules=rules, **alias))


def saying(*texts: str) -> Any:
    return lambda model, prompt, index: texts[index % len(texts)]


def told(prompt: Prompt) -> str:
    """The hidden instruction, or what asks for a revision."""
    first, last = prompt.messages[0], prompt.messages[-1]
    return first.text if first.role == "system" else last.text if len(prompt.messages) > 1 else ""


def chunks_of(events: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in events.split("\n\n") if line.startswith("data: {")]


def said_in(events: str) -> str:
    """What a client puts together from a stream of one choice."""
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks_of(events) if one["choices"])


def metric(stack: Stack, name: str, **labels: str) -> float:
    return stack.services.metrics.registry.get_sample_value(name, {"alias": "default"} | labels) or 0.0


# --- redact -----------------------------------------------------------------------------------------------


async def test_a_redacted_answer_shows_its_secret_nowhere(open_stack: Opener, tmp_path: Path) -> None:
    """Not in the text, the log-probabilities or the explanation; and it can be no positive."""
    stack = await with_rules(open_stack, tmp_path, rule("pii", action="redact", classes=["email"]))
    stack.engine.script = saying("Write to bob@example.org now.")
    reply = await stack.chat(best_of=2, logprobs=True, plumbline={"explain": True})
    assert "bob@" not in json.dumps(reply)
    assert reply["choices"][0]["message"]["content"] == "Write to [removed] now."
    assert reply["choices"][0].get("logprobs") is None
    assert reply["choices"][0]["finish_reason"] == "stop"
    group = await group_of(stack, reply["id"])
    assert {one.shown_text for one in group.candidates} == {"Write to [removed] now."}
    assert not any(one.may_be_positive or one.is_blocked for one in group.candidates)
    said = await say(stack, reply["id"], rating="up")
    assert said.status_code == 200
    entry = await taught(stack, reply["id"])
    assert entry is None or (entry["pairs"], entry["unpaired"]) == ([], [])
    assert metric(stack, "plumbline_rule_hits_total", rule="r", action="redact") == 2


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_a_redacted_stream_is_the_redacted_answer(
    open_stack: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """However the answer is cut into pieces; text before a find leaves at once."""
    stack = await with_rules(open_stack, tmp_path, rule("pii", action="redact", classes=["email", "credit_card"]))
    text = "It is fine. " * 10 + "Write to bob@example.org, or pay with 4111 1111 1111 1111 now." + " Yes." * 10

    async def stream(model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        for start in range(0, len(text), size):
            yield Delta(text[start : start + size], finish_reason="stop" if start + size >= len(text) else None)

    monkeypatch.setattr(type(stack.engine), "stream", lambda engine, *args: stream(*args))
    response = await stack.client.post(CHAT, json=chat_body(stream=True, best_of=1))
    chunks, said = chunks_of(response.text), said_in(response.text)
    expected = text.replace("bob@example.org", "[removed]").replace("4111 1111 1111 1111", "[removed]")
    assert said == expected
    assert (await group_of(stack, chunks[0]["id"])).candidates[0].shown_text == expected
    assert len(chunks) > 10 or size == 1000


async def test_log_probabilities_of_a_stream_end_where_something_is_redacted(
    open_stack: Opener, tmp_path: Path
) -> None:
    """Tokens would spell out what is not shown."""
    stack = await with_rules(open_stack, tmp_path, rule(action="redact"))
    stack.engine.script = saying("one two three four five six secret seven eight nine ten")
    response = await stack.client.post(CHAT, json=chat_body(stream=True, best_of=1, logprobs=True))
    assert said_in(response.text) == "one two three four five six [removed] seven eight nine ten"
    told_of = [one["choices"][0].get("logprobs") or {"content": []} for one in chunks_of(response.text)]
    tokens = "".join(token["token"] for each in told_of for token in each["content"])
    assert "one two three four five six".startswith(tokens)
    assert tokens


async def test_what_is_redacted_in_a_question_reaches_nobody(open_stack: Opener, tmp_path: Path) -> None:
    """Neither the model nor the store, also where the request fails."""
    stack = await with_rules(open_stack, tmp_path, rule("pii", action="redact", on="input", classes=["iban"]))
    message = {"role": "user", "content": "From DE89 3704 0044 0532 0130 00, please."}
    reply = await stack.chat(messages=[message])
    assert stack.engine.calls[-1].prompt.messages[0].text == "From [removed], please."
    assert "DE89" not in str((await group_of(stack, reply["id"])).prompt)
    stack.engine.fail_next(EngineError("down"), times=5)
    response = await stack.client.post(CHAT, json=chat_body(messages=[message]))
    assert response.status_code == 503
    rows = await stack.services.database.read(
        lambda c: c.exec_driver_sql("select state, prompt from groups").fetchall()
    )
    assert GroupState.FAILED in {row[0] for row in rows}
    assert "DE89" not in str(rows)


# --- penalise and flag ------------------------------------------------------------------------------------


async def test_a_penalty_is_taken_off_the_total(open_stack: Opener, tmp_path: Path) -> None:
    """Enough of it, and another candidate is chosen; both stay feasible."""
    stack = await with_rules(open_stack, tmp_path, rule(action="penalise", penalty=100.0))
    stack.engine.script = saying("a secret", "something else")
    reply = await stack.chat(best_of=2, plumbline={"explain": True})
    assert reply["choices"][0]["message"]["content"] == "something else"
    secret, other = reply["plumbline"]["explanation"]["candidates"]
    assert secret["verdicts"] == {"r": "penalise"}
    assert secret["total"] < -90 < other["total"]


async def test_without_scorers_the_penalties_choose(open_stack: Opener, tmp_path: Path) -> None:
    """A penalised first candidate is not taken for want of totals."""
    stack = await with_rules(open_stack, tmp_path, rule(action="penalise", penalty=0.1), scorers=())
    stack.engine.script = saying("a secret", "something else")
    assert (await stack.chat(best_of=2))["choices"][0]["message"]["content"] == "something else"


@pytest.mark.parametrize("on", ["input", "output"])
async def test_a_flag_is_a_note(open_stack: Opener, tmp_path: Path, on: str) -> None:
    """Counted, and nothing else."""
    stack = await with_rules(open_stack, tmp_path, rule(action="flag", on=on))
    stack.engine.script = saying("a secret")
    reply = await stack.chat(best_of=1, messages=[{"role": "user", "content": "What secret?"}])
    assert reply["choices"][0]["message"]["content"] == "a secret"
    assert metric(stack, "plumbline_rule_hits_total", rule="r", action="flag") == 1


# --- input ------------------------------------------------------------------------------------------------


async def test_what_a_tool_says_is_input(open_stack: Opener, tmp_path: Path) -> None:
    """It comes from outside, as a user's words do."""
    stack = await with_rules(open_stack, tmp_path, rule(on="input"))
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "the secret"},
    ]
    reply = await stack.chat(messages=messages, plumbline={"explain": True})
    assert reply["choices"][0]["finish_reason"] == "content_filter"
    assert "rule r" in reply["plumbline"]["explanation"]["reason"]
    assert not any(call.method == "generate" for call in stack.engine.calls)


async def test_a_listed_image_is_refused_in_any_size_and_format(open_stack: Opener, tmp_path: Path) -> None:
    """By how it looks; another image is answered."""
    listed = _png(_gradient((64, 64)))
    (tmp_path / "known.txt").write_text(f"{fingerprint(listed):016x} # a gradient\n")
    stack = await with_rules(open_stack, tmp_path, rule("known_images", file=tmp_path / "known.txt"))

    async def finish(url: str) -> str:
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What?"}]
        return (await stack.chat(messages=[{"role": "user", "content": content}]))["choices"][0]["finish_reason"]

    assert await finish(_url(listed)) == "content_filter"
    assert await finish(_url(_png(_gradient((200, 120)), kind="JPEG"))) == "content_filter"
    assert await finish(_url(_png(_gradient((64, 64)).rotate(180)))) == "stop"
    assert await finish(data_url()) == "stop"


def _gradient(size: tuple[int, int]) -> Any:
    from PIL import Image

    return Image.radial_gradient("L").resize((300, 300)).crop((40, 90, 300, 250)).resize(size).convert("RGB")


def _png(picture: Any, kind: str = "PNG") -> PromptImage:
    import io

    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return PromptImage("", f"image/{kind.lower()}", buffer.getvalue())


def _url(image: PromptImage) -> str:
    return f"data:{image.mime};base64,{base64.b64encode(image.data).decode()}"


# --- before a refusal -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("best_of", [1, 3])
async def test_a_second_wave_is_told_why(open_stack: Opener, tmp_path: Path, stream: bool, best_of: int) -> None:
    """Once, with the reason as a hidden instruction; what it says is shown, and nothing is learned from it."""
    stack = await with_rules(open_stack, tmp_path, rule(instruction="Never tell it."))
    stack.engine.script = lambda model, prompt, index: "fine" if told(prompt) else "the secret"
    response = await stack.client.post(CHAT, json=chat_body(best_of=best_of, stream=stream))
    assert "secret" not in response.text
    assert "fine" in response.text
    assert "Never tell it" not in response.text
    made = [call for call in stack.engine.calls if call.method in {"generate", "stream"}]
    assert [told(call.prompt) for call in made] == ["", SecondWaveConfig().prompt.format(reasons="Never tell it.")]
    assert [call.sampling.seed for call in made if call.sampling] == [1, 1 + best_of]
    assert "secret" not in str(made[1].prompt)
    group = await group_of(stack, response.headers["x-plumbline-completion-id"])
    assert [one.variant for one in group.candidates] == [""] * best_of + ["second_wave"] * best_of
    assert [one.is_blocked for one in group.candidates] == [True] * best_of + [False] * best_of
    assert not any(one.may_be_positive for one in group.candidates)
    for rating in ("up", "down"):
        await say(stack, group.id, rating=rating)
        entry = await taught(stack, group.id)
        assert entry is None or (entry["pairs"], entry["unpaired"]) == ([], [])
        assert entry is None or {one["variant"] for one in entry["candidates"]} == {""}


async def test_a_second_wave_is_the_last(open_stack: Opener, tmp_path: Path) -> None:
    """Then the refusal, with everything that was tried kept."""
    settings = SecondWaveConfig(candidates=2)
    stack = await with_rules(open_stack, tmp_path, rule(), second_wave=settings)
    stack.engine.script = saying("the secret")
    reply = await stack.chat(best_of=3)
    assert reply["choices"][0]["finish_reason"] == "content_filter"
    assert len((await group_of(stack, reply["id"])).candidates) == 3 + 2 + 1
    assert reply["plumbline"]["generated"] == 5
    assert [call.n for call in stack.engine.calls if call.method == "generate"] == [3, 2]


async def test_a_second_wave_that_fails_leaves_the_refusal(
    open_stack: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is answered all the same."""
    stack = await with_rules(open_stack, tmp_path, rule())

    def script(model: str, prompt: Prompt, index: int) -> str:
        if told(prompt):
            raise EngineError("down")
        return "the secret"

    stack.engine.script = script
    reply = await stack.chat(best_of=2)
    assert reply["choices"][0]["finish_reason"] == "content_filter"


async def test_what_has_begun_to_leave_is_not_said_again(open_stack: Opener, tmp_path: Path) -> None:
    """A stream that is blocked in its middle ends there."""
    stack = await with_rules(open_stack, tmp_path, rule())
    stack.engine.script = lambda model, prompt, index: "fine" if told(prompt) else "It is long " * 20 + "the secret"
    response = await stack.client.post(CHAT, json=chat_body(best_of=1, stream=True))
    assert said_in(response.text).startswith("It is long " * 10)
    assert '"finish_reason":"content_filter"' in response.text
    assert "fine" not in response.text


@pytest.mark.parametrize("best_of", [1, 3])
async def test_the_model_revises_its_best_answer_once(open_stack: Opener, tmp_path: Path, best_of: int) -> None:
    """It is told the rule's instruction; the revision is judged as any answer, and nothing is learned from it."""
    polite = rule(name="polite", action="critique_and_revise", instruction="Be polite.", words=["stupid"])
    stack = await with_rules(open_stack, tmp_path, polite, rule())
    stack.engine.script = lambda model, prompt, index: "kind" if told(prompt) else "stupid"
    reply = await stack.chat(best_of=best_of)
    assert reply["choices"][0]["message"]["content"] == "kind"
    asked = stack.engine.calls[-1].prompt.messages if best_of == 1 else _last_generated(stack).messages
    assert [message.role for message in asked] == ["user", "assistant", "user"]
    assert asked[1].text == "stupid"
    assert "Be polite." in asked[2].text
    group = await group_of(stack, reply["id"])
    assert [one.variant for one in group.candidates] == [""] * best_of + ["revision"]
    assert not any(one.may_be_positive for one in group.candidates)


def _last_generated(stack: Stack) -> Prompt:
    return [call.prompt for call in stack.engine.calls if call.method == "generate"][-1]


async def test_a_clean_candidate_needs_no_revision(open_stack: Opener, tmp_path: Path) -> None:
    """It is chosen, whatever the totals; the least is generated."""
    stack = await with_rules(open_stack, tmp_path, rule(action="critique_and_revise"))
    stack.engine.script = saying("secret", "clean")
    reply = await stack.chat(best_of=2, plumbline={"explain": True})
    assert reply["choices"][0]["message"]["content"] == "clean"
    assert reply["plumbline"]["explanation"]["candidates"][0].get("text") is None
    assert len([call for call in stack.engine.calls if call.method == "generate"]) == 1


async def test_a_revision_that_is_no_better_is_not_shown(open_stack: Opener, tmp_path: Path) -> None:
    """Then the second wave, then the refusal; what another rule blocks is not revised at all."""
    stack = await with_rules(open_stack, tmp_path, rule(action="critique_and_revise"), rule(name="b", words=["bad"]))
    stack.engine.script = saying("secret")
    reply = await stack.chat(best_of=1)
    assert reply["choices"][0]["finish_reason"] == "content_filter"
    variants = [one.variant for one in (await group_of(stack, reply["id"])).candidates]
    assert variants == ["", "revision", "second_wave", "refusal"]
    stack.engine.script = saying("bad secret")
    reply = await stack.chat(best_of=1)
    variants = [one.variant for one in (await group_of(stack, reply["id"])).candidates]
    assert variants == ["", "second_wave", "refusal"]


# --- guards -----------------------------------------------------------------------------------------------


def guard(url: str, **settings: Any) -> RuleConfig:
    return rule("guard", **({"name": "guard", "url": url, "model": "guard", "timeout_s": 0.5} | settings))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("best_of", [1, 2])
async def test_a_guard_model_has_the_last_word(open_stack: Opener, tmp_path: Path, stream: bool, best_of: int) -> None:
    """Nothing of an answer leaves before it has seen the whole."""
    async with guard_server(say=lambda asked: "unsafe\nS1" if "bomb" in asked else "safe") as server:
        stack = await with_rules(open_stack, tmp_path, guard(server.url), second_wave=OFF)
        stack.engine.script = saying("It is a long way to a bomb.")
        response = await stack.client.post(CHAT, json=chat_body(best_of=best_of, stream=stream))
        assert "long way" not in response.text
        assert '"finish_reason":"content_filter"' in response.text
        stack.engine.script = saying("It is a long way to a rose.")
        response = await stack.client.post(CHAT, json=chat_body(best_of=best_of, stream=stream))
        assert "a long way to a rose." in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_guard_that_is_down_lets_no_answer_out(open_stack: Opener, tmp_path: Path, stream: bool) -> None:
    """I7: refused, counted, no second wave that would fare no better, and no lesson."""
    stack = await with_rules(open_stack, tmp_path, guard("http://127.0.0.1:9/v1"))
    stack.engine.script = saying("fine")
    response = await stack.client.post(CHAT, json=chat_body(best_of=1, stream=stream))
    assert response.status_code == 200
    assert "fine" not in response.text
    assert '"finish_reason":"content_filter"' in response.text
    assert len([call for call in stack.engine.calls if call.method in {"generate", "stream"}]) == 1
    assert metric(stack, "plumbline_rule_failures_total", rule="guard") == 1
    blocked = (await group_of(stack, response.headers["x-plumbline-completion-id"])).candidates[0]
    assert (blocked.is_blocked, blocked.was_found_unsafe) == (True, False)


async def test_a_guard_that_fails_on_one_answer_makes_no_pair(open_stack: Opener, tmp_path: Path) -> None:
    """Blocked for want of a finding is not worse than what was found clean."""
    async with guard_server(say=lambda asked: "safe" if "Agent: good" in asked else "hm") as server:
        stack = await with_rules(open_stack, tmp_path, guard(server.url))
        stack.engine.script = saying("good", "other")
        reply = await stack.chat(best_of=2)
        assert reply["choices"][0]["message"]["content"] == "good"
        assert [one.is_blocked for one in (await group_of(stack, reply["id"])).candidates] == [False, True]
        assert await taught(stack, reply["id"]) is None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_guard_of_the_input_that_is_down_puts_requests_off(
    open_stack: Opener, tmp_path: Path, stream: bool
) -> None:
    """503 and Retry-After: the user is not at fault, and nothing is generated."""
    stack = await with_rules(open_stack, tmp_path, guard("http://127.0.0.1:9/v1", on="input"))
    response = await stack.client.post(CHAT, json=chat_body(stream=stream, best_of=1))
    if stream:
        assert '"code":"safety_unavailable"' in response.text.replace(" ", "")
    else:
        assert_openai_error(response, 503, "safety_unavailable")
        assert response.headers["retry-after"]
    assert not any(call.method in {"generate", "stream"} for call in stack.engine.calls)


async def test_a_guard_reads_questions(open_stack: Opener, tmp_path: Path) -> None:
    """What it finds unsafe is refused before anything is generated."""
    async with guard_server(say=lambda asked: "unsafe\nS1" if "bomb" in asked else "safe") as server:
        stack = await with_rules(open_stack, tmp_path, guard(server.url, on="input"))
        reply = await stack.chat(messages=[{"role": "user", "content": "A bomb, please."}])
        assert reply["choices"][0]["finish_reason"] == "content_filter"
        assert (await stack.chat())["choices"][0]["finish_reason"] == "stop"


async def test_a_correction_is_read_by_the_guard(open_stack: Opener, tmp_path: Path) -> None:
    """Unsafe: kept and no positive. Down: it can be sent again."""
    async with guard_server(say=lambda asked: "unsafe\nS1" if "bomb" in asked else "safe") as server:
        stack = await with_rules(open_stack, tmp_path, guard(server.url))
        reply = await stack.chat(best_of=1)
        assert (await say(stack, reply["id"], correction="a bomb", rating="down")).status_code == 200
        typed = [one for one in (await group_of(stack, reply["id"])).candidates if one.adapter == "human"]
        assert [one.is_blocked for one in typed] == [True]
        server.status = 500
        assert_openai_error(
            await say(stack, reply["id"], correction="a rose", rating="down"), 503, "safety_unavailable"
        )


async def test_one_aliass_rules_and_guards_are_its_own(open_stack: Opener, tmp_path: Path) -> None:
    """Another alias, and whoever uses it, notices neither a block nor a guard that is down or slow."""
    strict = AliasConfig(name="strict", rules=(guard("http://127.0.0.1:9/v1"), rule()), second_wave=OFF, scorers=())
    open_ = AliasConfig(name="open", scorers=(ScorerConfig(kind="logprob"),))
    stack = await open_stack(
        Config(http=HttpConfig(metrics_port=0), store=StoreConfig(directory=tmp_path), aliases=(open_, strict))
    )
    stack.engine.script = saying("a secret")
    replies = await asyncio.gather(*(stack.chat(model=name, best_of=2) for name in ("open", "strict") * 4))
    finished = {(one["model"], one["choices"][0]["finish_reason"]) for one in replies}
    assert finished == {("open", "stop"), ("strict", "content_filter")}
