"""How the answer is chosen, as apps see it: strategies, waves, early rejection; and `explain`, which tells all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.config import AliasConfig
from server.config.safety import SecondWaveConfig
from server.config.selection import AutoConfig, CompareConfig, EarlyRejectConfig, SelectionConfig
from server.engine.fake import Call
from server.engine.port import EngineError
from server.opinions import first_shown
from server.store import groups
from server.store.records import GroupRecord
from tests.api.conftest import CHAT, Opener, Stack, assert_openai_error, chat_body, config_for

AUTO = {"best_of": "auto"}
ALONE = SecondWaveConfig(enabled=False)
EXPLAINED = {"explain": True}


@pytest.mark.parametrize("strategy", ["argmax", "soft", "mbr", "pessimistic"])
async def test_a_request_names_its_strategy(stack: Stack, strategy: str) -> None:
    """The answer was drawn by it: it is named, its probabilities sum to 1, and the reason is in words."""
    reply = await stack.chat(best_of=6, plumbline={"selection": strategy, "explain": True})
    aligned = reply["plumbline"]
    assert aligned["selection"] == strategy
    candidates = {one["candidate_id"]: one for one in aligned["explanation"]["candidates"]}
    assert sum(one["probability"] for one in candidates.values()) == pytest.approx(1)
    assert candidates[reply["choices"][0]["candidate_id"]]["probability"] > 0
    assert "6 feasible candidates" in aligned["explanation"]["reason"]


async def test_an_unknown_strategy_is_refused_by_name(stack: Stack) -> None:
    """400, with the field."""
    response = await stack.client.post(CHAT, json=chat_body(plumbline={"selection": "best"}))
    assert_openai_error(response, 400, "invalid_request", "plumbline.selection")


async def test_the_alias_sets_the_strategy(open_stack: Opener, tmp_path: Path) -> None:
    """Without a word of the request, the configured one with its scale: a huge β takes all alike."""
    chosen = SelectionConfig(strategy="pessimistic", beta=1e9)
    stack = await open_stack(config_for(tmp_path, selection=chosen))
    reply = await stack.chat(best_of=4, plumbline={"explain": True})
    assert reply["plumbline"]["selection"] == "pessimistic"
    shares = [one["probability"] for one in reply["plumbline"]["explanation"]["candidates"]]
    assert shares == pytest.approx([0.25] * 4)


@pytest.mark.parametrize(
    ("compare", "asked"),
    [
        (CompareConfig(), True),
        (CompareConfig(when="margin", max_margin=1e9), True),
        (CompareConfig(when="margin", max_margin=0), False),
        (CompareConfig(when="entropy", min_entropy=0), True),
        (CompareConfig(when="entropy", min_entropy=1), False),
    ],
)
async def test_people_are_asked_where_the_alias_says(
    compare: CompareConfig, asked: bool, open_stack: Opener, tmp_path: Path
) -> None:
    """With `compare: "auto"`; who wants to compare, compares."""
    stack = await open_stack(config_for(tmp_path, compare=compare))
    auto = await stack.chat(best_of=6, plumbline={"compare": "auto"})
    assert len(auto["choices"]) == (2 if asked else 1)
    assert len((await stack.chat(best_of=6, plumbline={"compare": True}))["choices"]) == 2


def test_the_default_is_argmax() -> None:
    """For the default of few candidates."""
    assert AliasConfig().selection.build().name == "argmax"


async def test_feedback_is_about_the_first_choice(open_stack: Opener, tmp_path: Path) -> None:
    """Also where a draw made a less probable candidate the first one of several."""
    stack = await open_stack(config_for(tmp_path, selection=SelectionConfig(strategy="soft", temperature=1.0)))
    surprised = 0
    for seed in range(40):
        reply = await stack.chat(best_of=3, n=3, seed=seed, plumbline=EXPLAINED)
        first = reply["choices"][0]["candidate_id"]
        shares = {one["candidate_id"]: one["probability"] for one in reply["plumbline"]["explanation"]["candidates"]}
        surprised += shares[first] < max(shares.values())
        judged = first_shown(await stored(stack, reply))
        assert judged is not None and judged.id == first
    assert surprised


async def test_half_a_json_answer_is_chosen_by_no_strategy(stack: Stack) -> None:
    """As long as a whole one is there."""
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {}}}}
    stack.engine.script = lambda model, prompt, index: "{}" if index == 3 else "{ " + "a " * 40
    for strategy in ("argmax", "soft", "mbr", "pessimistic"):
        reply = await stack.chat(best_of=4, max_tokens=8, response_format=schema, plumbline={"selection": strategy})
        assert reply["choices"][0]["message"]["content"] == "{}"


async def stored(stack: Stack, reply: dict[str, Any]) -> GroupRecord:
    group = await stack.services.database.read(lambda c: groups.get_group(c, reply["id"]))
    assert group is not None
    return group


def calls_of(stack: Stack, method: str) -> list[Call]:
    return [call for call in stack.engine.calls if call.method == method]


async def test_waves_are_the_candidates_of_one_large_request(open_stack: Opener, tmp_path: Path) -> None:
    """The same texts in the same order as `best_of` with a number; all are in the group, and all are counted."""
    stack = await open_stack(config_for(tmp_path, auto=AutoConfig(cost=1e-9, max_candidates=9)))
    reply = await stack.chat(**AUTO, plumbline=EXPLAINED)
    assert [call.n for call in calls_of(stack, "generate")] == [4, 2, 2, 1]
    fixed = await stack.chat(best_of=9, plumbline=EXPLAINED)
    texts = [[one["text"] for one in each["plumbline"]["explanation"]["candidates"]] for each in (reply, fixed)]
    assert texts[0] == texts[1]
    assert reply["plumbline"]["generated"] == reply["plumbline"]["best_of"] == 9
    group = await stored(stack, reply)
    assert [one.position for one in group.candidates] == list(range(9))
    assert sum(len(one.token_ids) for one in group.candidates) == reply["usage"]["completion_tokens"]
    best = max(reply["plumbline"]["explanation"]["candidates"], key=lambda one: one["total"])
    assert reply["choices"][0]["candidate_id"] == best["candidate_id"]


async def test_what_is_not_worth_its_cost_is_not_generated(open_stack: Opener, tmp_path: Path) -> None:
    """One wave where candidates cost much; usage says what was generated."""
    stack = await open_stack(config_for(tmp_path, auto=AutoConfig(cost=100), best_of="auto"))
    reply = await stack.chat()
    assert reply["plumbline"]["generated"] == 4
    assert reply["plumbline"]["best_of"] == 16
    assert len((await stored(stack, reply)).candidates) == 4


async def test_waves_go_on_until_something_may_be_shown(open_stack: Opener, tmp_path: Path) -> None:
    """However much a candidate costs, as long as all are blocked; and they end at the bound."""
    stack = await open_stack(config_for(tmp_path, auto=AutoConfig(cost=100, max_candidates=8), second_wave=ALONE))
    stack.engine.script = lambda model, prompt, index: "the forbidden word"
    reply = await stack.chat(**AUTO)
    assert reply["plumbline"]["generated"] == 8
    assert reply["choices"][0]["finish_reason"] == "content_filter"


async def test_a_first_wave_has_as_many_as_are_asked_for(open_stack: Opener, tmp_path: Path) -> None:
    """Three choices, of three candidates at least, though one wave would do."""
    stack = await open_stack(config_for(tmp_path, auto=AutoConfig(cost=100, first_wave=2)))
    assert len((await stack.chat(**AUTO, n=3))["choices"]) == 3


async def test_without_a_scorer_one_wave_is_enough(open_stack: Opener, tmp_path: Path) -> None:
    """Nothing tells further candidates apart."""
    stack = await open_stack(config_for(tmp_path, auto=AutoConfig(cost=1e-9), scorers=()))
    assert (await stack.chat(**AUTO))["plumbline"]["generated"] == 4


async def test_a_later_wave_that_fails_costs_no_answer(open_stack: Opener, tmp_path: Path) -> None:
    """It is chosen from what is there; a first wave that fails is a 503 as ever."""
    stack = await open_stack(config_for(tmp_path, auto=AutoConfig(cost=1e-9)))
    seen = len(stack.engine.calls)

    def script(model: str, prompt: object, index: int) -> None:
        if sum(call.method == "generate" for call in stack.engine.calls[seen:]) == 1:
            stack.engine.fail_next(EngineError("boom"))

    stack.engine.script = script
    reply = await stack.chat(**AUTO)
    assert reply["plumbline"]["generated"] == 4
    stack.engine.script = None
    stack.engine.fail_next(EngineError("boom"), times=5)
    response = await stack.client.post(CHAT, json=chat_body(**AUTO))
    assert_openai_error(response, 503, "engine_unavailable")


async def test_auto_at_temperature_zero_is_one_candidate(stack: Stack) -> None:
    """Equal candidates are not worth generating."""
    assert (await stack.chat(**AUTO, temperature=0))["plumbline"]["generated"] == 1


@pytest.mark.parametrize("wrong", [0, -1, "all", 1.5])
async def test_best_of_is_a_number_or_auto(stack: Stack, wrong: Any) -> None:
    """Anything else is 400, with the field's name."""
    response = await stack.client.post(CHAT, json=chat_body(best_of=wrong))
    assert_openai_error(response, 400, "invalid_request")
    assert response.json()["error"]["param"].startswith("best_of")


EARLY = EarlyRejectConfig(checkpoints=(2, 4))


def lengths(*tokens: int) -> Callable[[str, object, int], str]:
    """Scripted texts by how often they were asked for: so many words each."""
    asked = itertools.count()
    return lambda model, prompt, index: " ".join(["word"] * tokens[next(asked)])


async def test_the_weaker_candidates_are_given_up(open_stack: Opener, tmp_path: Path) -> None:
    """Eight begin, four pass the first checkpoint and two the second; usage counts what was generated."""
    stack = await open_stack(config_for(tmp_path, early_reject=EARLY))
    stack.engine.delay_s = 0.01
    stack.engine.script = lengths(*[40] * 8)
    stack.engine.token_logprob = lambda model, prompt, piece: -1.0
    reply = await stack.chat(best_of=8, plumbline={"early_reject": True, "explain": True})
    aligned = reply["plumbline"]
    assert aligned["generated"] == 8
    ends = [one["finish_reason"] for one in aligned["explanation"]["candidates"]]
    assert sorted(ends) == ["rejected"] * 6 + ["stop"] * 2
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] < 8 * 41 / 2
    group = await stored(stack, reply)
    assert reply["usage"]["completion_tokens"] == sum(len(one.token_ids) for one in group.candidates)
    for kept, told in zip(group.candidates, aligned["explanation"]["candidates"], strict=True):
        if kept.finish_reason == "rejected":
            assert not kept.is_shown and not kept.is_whole and kept.text
            assert (told.get("text"), told["probability"]) == (None, 0)


async def test_what_is_given_up_ends_in_the_engine(open_stack: Opener, tmp_path: Path) -> None:
    """The engine makes no more of it: its progress is that of the ones that stand."""
    stack = await open_stack(config_for(tmp_path, early_reject=EarlyRejectConfig(checkpoints=(2,), keep=0.25)))
    stack.engine.delay_s = 0.01
    stack.engine.script = lengths(*[60] * 4)
    before = stack.engine.progress
    await stack.chat(best_of=4, plumbline={"early_reject": True})
    assert stack.engine.progress - before < 61 + 3 * 15


async def test_a_blocked_partial_goes_first(open_stack: Opener, tmp_path: Path) -> None:
    """What a rule blocks already is not worth finishing, though all others stay; it never leaves."""
    stack = await open_stack(config_for(tmp_path, early_reject=EarlyRejectConfig(checkpoints=(4,), keep=1.0)))
    stack.engine.delay_s = 0.01
    asked = itertools.count()
    stack.engine.script = lambda model, prompt, index: ("the forbidden word " if next(asked) < 2 else "so ") * 12
    response = await stack.client.post(CHAT, json=chat_body(best_of=4, plumbline={"early_reject": True, **EXPLAINED}))
    ends = [one["finish_reason"] for one in response.json()["plumbline"]["explanation"]["candidates"]]
    assert ends == ["rejected", "rejected", "stop", "stop"]
    assert "forbidden" not in response.text
    group = await stored(stack, response.json())
    assert [one.is_blocked for one in group.candidates] == [True, True, False, False]


async def test_without_a_scorer_nothing_is_given_up(open_stack: Opener, tmp_path: Path) -> None:
    """Taste fails open: where nothing tells them apart, none is taken away."""
    stack = await open_stack(config_for(tmp_path, early_reject=EARLY, scorers=()))
    stack.engine.delay_s = 0.005
    reply = await stack.chat(best_of=4, plumbline={"early_reject": True, "explain": True})
    ends = [one["finish_reason"] for one in reply["plumbline"]["explanation"]["candidates"]]
    assert ends == ["stop"] * 4


async def test_the_alias_switches_it_on_and_a_request_off(open_stack: Opener, tmp_path: Path) -> None:
    """One candidate, or a word of the request, and it is one plain engine call."""
    settings = EarlyRejectConfig(enabled=True, checkpoints=(2,))
    stack = await open_stack(config_for(tmp_path, early_reject=settings))
    await stack.chat(best_of=4)
    assert len(calls_of(stack, "stream")) == 4
    for options in ({"best_of": 1}, {"best_of": 4, "plumbline": {"early_reject": False}}):
        await stack.chat(**options)
    assert len(calls_of(stack, "stream")) == 4


async def test_as_many_stand_as_are_to_be_shown(open_stack: Opener, tmp_path: Path) -> None:
    """A request for three choices gets three whole ones."""
    stack = await open_stack(config_for(tmp_path, early_reject=EarlyRejectConfig(checkpoints=(2,), keep=0.1)))
    stack.engine.delay_s = 0.005
    reply = await stack.chat(best_of=6, n=3, plumbline={"early_reject": True})
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["stop"] * 3


async def test_one_that_is_left_is_scored_too(open_stack: Opener, tmp_path: Path) -> None:
    """What it is worth is evidence about its adapter, and training data."""
    stack = await open_stack(config_for(tmp_path, early_reject=EarlyRejectConfig(checkpoints=(2,), keep=0.1)))
    stack.engine.delay_s = 0.005
    stack.engine.script = lengths(*[40] * 4)
    group = await stored(stack, await stack.chat(best_of=4, plumbline={"early_reject": True}))
    assert [one.total is not None for one in group.candidates] == [one.is_whole for one in group.candidates]
    assert sum(one.is_whole for one in group.candidates) == 1


async def test_candidates_are_those_of_one_large_request(stack: Stack) -> None:
    """Candidate i under seed s is that of a plain request, though each grew as a request of its own."""
    grown = await stack.chat(best_of=4, n=4, plumbline={"early_reject": True})
    plain = await stack.chat(best_of=4, n=4)
    texts = [{choice["message"]["content"] for choice in each["choices"]} for each in (grown, plain)]
    assert texts[0] == texts[1]


async def test_a_failing_engine_is_a_503(open_stack: Opener, tmp_path: Path) -> None:
    """Also half-way, and the others are aborted."""
    stack = await open_stack(config_for(tmp_path, early_reject=EARLY))
    stack.engine.delay_s = 0.01
    stack.engine.fail_next(EngineError("boom"))
    response = await stack.client.post(CHAT, json=chat_body(best_of=4, plumbline={"early_reject": True}))
    assert_openai_error(response, 503, "engine_unavailable")
    progress = stack.engine.progress
    await asyncio.sleep(0.1)
    assert stack.engine.progress <= progress + 1


async def test_waves_and_early_rejection_do_not_go_together(stack: Stack) -> None:
    """400, with what to do."""
    response = await stack.client.post(CHAT, json=chat_body(**AUTO, plumbline={"early_reject": True}))
    assert_openai_error(response, 400, "invalid_request", "plumbline.early_reject")
