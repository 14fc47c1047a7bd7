"""`selection: "stepwise"`: sentence by sentence, as apps and learners see it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from reward.types import Prompt
from server.config import AliasConfig, RuleConfig, SignalsConfig
from server.config.safety import SecondWaveConfig
from server.config.selection import EarlyRejectConfig, SelectionConfig, StepwiseConfig
from server.engine.fake import Call, Script
from server.engine.port import EngineError
from server.exchange.exporting import rows
from server.preferences import derive
from server.store import groups
from server.store.records import GroupRecord
from server.training import to_training_group
from tests.api.conftest import CHAT, Opener, Stack, assert_openai_error, chat_body, config_for
from tests.server.moderation.guard_server import guard_server

STEPWISE = {"selection": "stepwise", "explain": True}
ALONE = SecondWaveConfig(enabled=False)
STORY = (
    ("so so.", "good start.", "so."),
    ("so.", "so so so.", "good middle."),
    ("good end", "so", "so so"),
)
"""The sentences that may follow one another; those with a good word score best."""


def told(story: Sequence[Sequence[str]]) -> Script:
    """A script that goes on from the answer's beginning: the step is the number of its sentences."""

    def script(model: str, prompt: Prompt, index: int) -> str:
        last = prompt.messages[-1]
        so_far = last.text.count(".") if last.role == "assistant" else 0
        return story[so_far][index]

    return script


def prefer_good(stack: Stack) -> None:
    stack.engine.token_logprob = lambda model, prompt, piece: -0.1 if "good" in piece else -1.0


async def stored(stack: Stack, reply: dict[str, Any]) -> GroupRecord:
    group = await stack.services.database.read(lambda c: groups.get_group(c, reply["id"]))
    assert group is not None
    return group


def calls_of(stack: Stack, method: str) -> list[Call]:
    return [call for call in stack.engine.calls if call.method == method]


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


async def ask(stack: Stack, story: Sequence[Sequence[str]] = STORY, **fields: Any) -> dict[str, Any]:
    prefer_good(stack)
    stack.engine.script = told(story)
    return await stack.chat(**({"best_of": 3, "plumbline": STEPWISE} | fields))


async def test_the_best_sentence_is_kept_at_each_step(stack: Stack) -> None:
    """The answer is made of them; `explain` tells what each step chose from, and why."""
    reply = await ask(stack)
    assert reply["choices"][0]["message"]["content"] == "good start. good middle. good end"
    aligned = reply["plumbline"]
    assert (aligned["selection"], aligned["generated"], aligned["best_of"]) == ("stepwise", 9, 3)
    texts = {one["candidate_id"]: one["text"] for one in aligned["explanation"]["candidates"]}
    steps = aligned["explanation"]["steps"]
    assert [[texts[one] for one in step["candidates"]] for step in steps] == [
        ["so so.", "good start.", "so."],
        ["good start. so.", "good start. so so so.", "good start. good middle."],
        ["good start. good middle. good end", "good start. good middle. so", "good start. good middle. so so"],
    ]
    assert [texts[step["kept"]] for step in steps][:2] == ["good start.", "good start. good middle."]
    assert steps[-1]["kept"] == reply["choices"][0]["candidate_id"]
    assert all("3 feasible candidates" in step["reason"] for step in steps)


async def test_the_group_is_what_was_sampled(stack: Stack) -> None:
    """Each candidate has all its ids and log-probabilities and names its adapter; what is shared was generated once,
    and usage counts it once. Only the answer is shown, and had any probability.
    """
    reply = await ask(stack)
    group = await stored(stack, reply)
    assert [one.position for one in group.candidates] == list(range(9))
    assert {one.adapter for one in group.candidates} == {"base"}
    by_text = {one.text: one for one in group.candidates}
    for one in group.candidates:
        assert len(one.token_ids) == len(one.logprobs) > one.shared_tokens
        parent = [other for other in group.candidates if len(other.token_ids) == one.shared_tokens]
        if one.shared_tokens:
            assert any(
                one.text.startswith(other.text)
                and (one.token_ids[: one.shared_tokens], one.logprobs[: one.shared_tokens])
                == (other.token_ids, other.logprobs)
                for other in parent
            )
    own = sum(len(one.token_ids) - one.shared_tokens for one in group.candidates)
    answer = by_text["good start. good middle. good end"]
    assert (reply["usage"]["completion_tokens"], reply["usage"]["served_tokens"]) == (own, len(answer.token_ids))
    assert [one.finish_reason for one in group.candidates] == ["step"] * 6 + ["stop"] * 3
    assert [one for one in group.candidates if one.is_shown] == [answer]
    assert [one for one in group.candidates if one.probability] == [answer] and answer.probability == 1.0
    calls = calls_of(stack, "extend")
    assert [call.answer for call in calls] == ["", "good start.", "good start. good middle."]
    assert [call.sampling.seed for call in calls if call.sampling] == [1, 4, 7]


async def test_it_is_no_sample_of_the_policy(open_stack: Opener, tmp_path: Path) -> None:
    """For policy gradients the group does not count. Siblings that go on from one beginning are pairs, where AI pairs
    are wanted: as many as there are steps, and nothing else is among the training candidates. The export has no texts
    that end where nothing ended.
    """
    settings = SignalsConfig(holdout_share=0.0, ai_pairs=True, ai_margin=0.01)
    stack = await open_stack(config_for(tmp_path, signals=settings))
    plain = await stored(stack, await stack.chat(best_of=3))
    group = await stored(stack, await ask(stack))
    assert (plain.on_policy_sampling, group.on_policy_sampling) == (True, False)
    examples = derive(group, [], settings)
    known = {one.id: one for one in group.candidates}
    pairs = [(known[pair.chosen], known[pair.rejected]) for pair in examples.pairs]
    assert [chosen.text for chosen, _ in pairs] == [
        "good start.",
        "good start. good middle.",
        "good start. good middle. good end",
    ]
    assert all(chosen.shared_tokens == rejected.shared_tokens for chosen, rejected in pairs)
    assert [row["chosen_id"] for row in rows(group, examples, "pairs", images=None)] == [examples.pairs[-1].chosen]
    training = to_training_group(group, examples)
    used = {one.id for pair in pairs for one in pair}
    assert {one.id for one in training.candidates} == used | {one.id for one in group.candidates if one.is_whole}


async def test_people_judge_the_answer_not_its_sentences(stack: Stack) -> None:
    """A thumb is about what was shown; no beginning becomes its counterpart."""
    group = await stored(stack, await ask(stack))
    assert [one.is_whole for one in group.candidates] == [False] * 6 + [True] * 3
    assert not derive(group, [], SignalsConfig()).pairs


async def test_rules_see_every_partial(open_stack: Opener, tmp_path: Path) -> None:
    """What a rule blocks is not kept however it scores, and never leaves; it is a lesson beside its clean siblings."""
    stack = await open_stack(config_for(tmp_path, second_wave=ALONE))
    story = (("good forbidden word.", "so.", "so so."), ("so", "good forbidden word", "so so"))
    prefer_good(stack)
    stack.engine.script = told(story)
    response = await stack.client.post(CHAT, json=chat_body(best_of=3, plumbline=STEPWISE))
    assert "forbidden" not in response.text
    group = await stored(stack, response.json())
    assert [one.is_blocked for one in group.candidates] == [True, False, False, False, True, False]
    pairs = derive(group, [], SignalsConfig()).pairs
    known = {one.id: one for one in group.candidates}
    assert [known[pair.rejected].position for pair in pairs] == [0, 4]
    assert all(known[pair.chosen].shared_tokens == known[pair.rejected].shared_tokens for pair in pairs)


async def test_where_all_that_follows_is_blocked_it_is_tried_anew(open_stack: Opener, tmp_path: Path) -> None:
    """As for any answer: a second wave, then the refusal. What was kept before is no answer."""
    stack = await open_stack(config_for(tmp_path))
    story = (("so.", "so so.", "so."), ("the forbidden word",) * 3)
    reply = await ask(stack, story)
    assert reply["plumbline"]["selection"] == "argmax"
    assert reply["choices"][0]["message"]["content"] in {"so.", "so so."}  # the second wave's, which the script begins
    assert reply["plumbline"]["explanation"]["steps"][-1].get("kept") is None
    alone = await open_stack(config_for(tmp_path / "alone", second_wave=ALONE))
    reply = await ask(alone, story)
    assert reply["choices"][0]["finish_reason"] == "content_filter"
    assert not any(one.probability for one in (await stored(alone, reply)).candidates[:-1])


async def test_what_the_engine_reads_otherwise_is_given_up(stack: Stack) -> None:
    """The next best goes on; what was given up is counted, stays in the group, and teaches nothing."""
    stack.engine.misread = frozenset({"good start."})
    story = (("so so.", "good start.", "so good."), ("end", "end", "end"))
    reply = await ask(stack, story)
    assert reply["choices"][0]["message"]["content"] == "so good. end"
    group = await stored(stack, reply)
    assert [one.finish_reason for one in group.candidates][:3] == ["step", "rejected", "step"]
    dropped = {"alias": "default"}
    assert stack.services.metrics.registry.get_sample_value("plumbline_stepwise_dropped_total", dropped) == 1
    steps = reply["plumbline"]["explanation"]["steps"]
    assert "2 feasible candidates" in steps[0]["reason"]


async def test_where_none_can_go_on_the_step_goes_to_the_end(stack: Stack) -> None:
    """From what was kept before: the answer is a whole one."""
    stack.engine.misread = frozenset(f"good start. {one}" for one in ("so.", "so so so.", "good middle."))
    story = (STORY[0], STORY[1], STORY[2])
    reply = await ask(stack, story)
    assert reply["choices"][0]["message"]["content"] == "good start. good middle."
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert [call.answer for call in calls_of(stack, "extend")] == ["", "good start.", "good start."]
    assert "could go on" in reply["plumbline"]["explanation"]["steps"][1]["reason"]


async def test_the_last_step_goes_to_the_end(open_stack: Opener, tmp_path: Path) -> None:
    """However many sentences that takes."""
    stack = await open_stack(config_for(tmp_path, stepwise=StepwiseConfig(max_steps=2)))
    reply = await ask(stack, (STORY[0], ("so. so. so. so", "good. and. more", "so")))
    assert reply["choices"][0]["message"]["content"] == "good start. good. and. more"


async def test_the_alias_says_what_ends_a_step(open_stack: Opener, tmp_path: Path) -> None:
    """Clauses, where a comma is among the ends."""
    stack = await open_stack(config_for(tmp_path, stepwise=StepwiseConfig(ends=(",",))))
    stack.engine.script = lambda model, prompt, index: "one, two. three" if len(prompt.messages) == 1 else "four. five"
    reply = await stack.chat(best_of=2, plumbline=STEPWISE)
    assert reply["choices"][0]["message"]["content"] == "one, four. five"


async def test_max_tokens_are_the_whole_answer_s(stack: Stack) -> None:
    """Also where a sentence ends just there."""
    for limit, text in ((3, "good start. good"), (2, "good start.")):
        reply = await ask(stack, max_tokens=limit)
        assert reply["choices"][0]["message"]["content"] == text
        assert (reply["choices"][0]["finish_reason"], reply["usage"]["served_tokens"]) == ("length", limit)


async def test_sentences_stream_as_they_are_decided(open_stack: Opener, tmp_path: Path) -> None:
    """One chunk a step; together they are the kept answer, with its log-probabilities."""
    stack = await open_stack(config_for(tmp_path, rules=()))
    prefer_good(stack)
    stack.engine.script = told(STORY)
    body = chat_body(best_of=3, stream=True, logprobs=True, plumbline=STEPWISE)
    events = events_of(await stack.client.post(CHAT, json=body))
    texts = [choice["delta"].get("content") for event in events for choice in event["choices"]]
    assert [text for text in texts if text] == ["good start.", " good middle.", " good end"]
    logprobs = [
        token["logprob"]
        for event in events
        for choice in event["choices"]
        for token in (choice.get("logprobs") or {"content": []})["content"]
    ]
    group = await stored(stack, {"id": events[0]["id"]})
    (answer,) = group.shown
    assert answer.text == "good start. good middle. good end"
    assert logprobs == pytest.approx(answer.logprobs)
    assert events[-1]["plumbline"]["selection"] == "stepwise"


async def test_a_stream_of_nothing_but_blocked_sentences_is_refused(open_stack: Opener, tmp_path: Path) -> None:
    """What has left stays; nothing of what is blocked does."""
    stack = await open_stack(config_for(tmp_path))
    prefer_good(stack)
    long = "so good a start of it all."
    for story, sent in (
        (((("the forbidden word.",) * 3),), "I can't answer that."),
        (((long,) * 3, (" forbidden word.",) * 3), long[:-15]),
    ):
        stack.engine.script = told(story)
        response = await stack.client.post(CHAT, json=chat_body(best_of=3, stream=True, plumbline=STEPWISE))
        events = events_of(response)
        assert "".join(c["delta"].get("content") or "" for e in events for c in e["choices"]) == sent, story
        assert events[-1]["choices"][0]["finish_reason"] == "content_filter"
        assert "forbidden" not in json.dumps(events)


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": "auto"},
        {"n": 2},
        {"plumbline": {"compare": True}},
        {"plumbline": {"early_reject": True}},
        {"stop": ["x"]},
        {"frequency_penalty": 0.5},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_what_needs_whole_answers_does_not_go_with_it(
    stack: Stack, open_stack: Opener, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """400 with what is in the way where the request wants both; where only the alias does, whole answers."""
    options = fields.get("plumbline", {})
    asked = {"best_of": 3} | fields | {"plumbline": options | {"selection": "stepwise"}}
    assert_openai_error(
        await stack.client.post(CHAT, json=chat_body(**asked)), 400, "invalid_request", "plumbline.selection"
    )
    other = await open_stack(config_for(tmp_path / "alias", best_of=3, selection=SelectionConfig(strategy="stepwise")))
    assert (await other.chat(**fields))["plumbline"]["selection"] == "argmax"
    assert not calls_of(other, "extend")
    assert (await other.chat())["plumbline"]["selection"] == "stepwise"


async def test_one_candidate_has_no_steps(stack: Stack) -> None:
    """Nor has temperature 0: nothing could be chosen."""
    for fields in ({"best_of": 1}, {"temperature": 0, "best_of": None}):
        reply = await stack.chat(**fields, plumbline=STEPWISE)
        assert reply["plumbline"]["generated"] == 1
    assert not calls_of(stack, "extend")


def test_an_alias_has_one_search_only() -> None:
    """Steps beside waves, or beside early rejection, are refused at the start."""
    steps = SelectionConfig(strategy="stepwise")
    assert AliasConfig(selection=steps).best_of == 4
    for more in ({"best_of": "auto"}, {"early_reject": EarlyRejectConfig(enabled=True)}):
        with pytest.raises(ValueError, match="stepwise needs best_of as a number"):
            AliasConfig(selection=steps, **more)  # type: ignore[arg-type]


async def test_exploration_is_reported(open_stack: Opener, tmp_path: Path) -> None:
    """The answer's probability is the product of its steps' own."""
    stack = await open_stack(config_for(tmp_path, explore=0.5))
    reply = await ask(stack, (("a.", "a.", "a."), ("b", "b", "b")))
    (answer,) = (await stored(stack, reply)).shown
    best, other = 0.5 + 0.5 / 3, 0.5 / 3
    assert any(answer.probability == pytest.approx(x * y) for x in (best, other) for y in (best, other))


async def test_a_failing_engine_is_a_503(stack: Stack) -> None:
    """At the first step, and at a later one."""
    prefer_good(stack)
    stack.engine.script = told(STORY)
    stack.engine.fail_next(EngineError("boom"))
    body = chat_body(best_of=3, plumbline=STEPWISE)
    assert_openai_error(await stack.client.post(CHAT, json=body), 503, "engine_unavailable")
    seen = len(stack.engine.calls)

    def failing(model: str, prompt: Prompt, index: int) -> str | None:
        if len(stack.engine.calls) == seen + 1:
            stack.engine.fail_next(EngineError("boom"), times=2)
        return told(STORY)(model, prompt, index)

    stack.engine.script = failing
    assert_openai_error(await stack.client.post(CHAT, json=body), 503, "engine_unavailable")


async def test_without_a_scorer_the_first_sentence_is_kept(open_stack: Opener, tmp_path: Path) -> None:
    """Taste fails open: never a random one."""
    stack = await open_stack(config_for(tmp_path, scorers=()))
    reply = await ask(stack)
    assert reply["choices"][0]["message"]["content"] == "so so. so. good end"
    assert "no scorer answered" in reply["plumbline"]["explanation"]["steps"][0]["reason"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_guard_reads_what_may_be_the_answer(open_stack: Opener, tmp_path: Path, stream: bool) -> None:
    """Not the steps of sentences alone; and nothing leaves before it has read the answer."""
    async with guard_server(say=lambda asked: "unsafe\nS1" if "good end" in asked else "safe") as server:
        rule = RuleConfig(name="guard", kind="guard", url=server.url, model="guard")
        stack = await open_stack(config_for(tmp_path, rules=(rule,), second_wave=ALONE))
        prefer_good(stack)
        stack.engine.script = told(STORY)
        body = chat_body(best_of=3, stream=stream, plumbline=STEPWISE)
        response = await stack.client.post(CHAT, json=body)
        assert "good end" not in response.text
        assert len(server.asked) == 3
        text = (
            "".join(c["delta"].get("content") or "" for e in events_of(response) for c in e["choices"])
            if stream
            else response.json()["choices"][0]["message"]["content"]
        )
        assert text == "good start. good middle. so"
