"""`explore = "pilaf"`: people compare the answer with another policy's; what is served stays as it is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from reward.types import Prompt
from server.config.selection import AutoConfig, CompareConfig, EarlyRejectConfig, PilafConfig
from server.engine.fake import FakeEngine
from server.engine.port import EngineError, Generation, PromptTooLong, Sampling, UnknownModel
from server.preferences import derive
from server.store import groups, signals
from server.store.records import GroupRecord, Routing
from tests.api.conftest import CHAT, Opener, Stack, chat_body, config_for

COMPARE = {"compare": True, "explain": True}
SAID = {
    "a2": ("a red cup", "a red plate", "a blue cup", "so it is"),
    "a1": ("an old answer",),
    "clients/demo/shapes_vlm": ("there is a dog",),
}


class Unhurried(FakeEngine):
    """Of these models no answer is ever seen."""

    stuck: frozenset[str] = frozenset()

    async def generate(self, model: str, prompt: Prompt, n: int, sampling: Sampling) -> Generation:
        if model in self.stuck and prompt.images:
            await asyncio.sleep(600)
        return await super().generate(model, prompt, n, sampling)


@pytest.fixture
def engine() -> Unhurried:
    return Unhurried(base_model="clients/demo/shapes_vlm")


def say(model: str, prompt: Prompt, index: int) -> str:
    return SAID[model][index % len(SAID[model])]


async def opened(open_stack: Opener, directory: Path, **alias: Any) -> Stack:
    """With the adapter a2 active, a1 before it, and every comparison one of policies."""
    settings = {"explore": "pilaf", "pilaf": PilafConfig(share=1.0), **alias}
    stack: Stack = await open_stack(config_for(directory, **settings))
    for adapter in ("a1", "a2"):
        stack.engine.register(adapter)
    stack.services.router.adopt(Routing("default", active="a2", previous="a1", generation=7))
    stack.engine.script = say
    return stack


async def stored(stack: Stack, reply: dict[str, Any]) -> GroupRecord:
    group = await stack.services.database.read(lambda c: groups.get_group(c, reply["id"]))
    assert group is not None
    return group


def shown_by(group: GroupRecord) -> list[str]:
    """Who said what is shown, the served answer first."""
    shown = sorted((one for one in group.candidates if one.is_shown), key=lambda one: not one.is_chosen)
    return [one.adapter for one in shown]


async def asked(stack: Stack) -> list[tuple[str, int]]:
    """(model, candidates) of every request to the engine but probes."""
    return [(call.model, call.n) for call in stack.engine.calls if call.method == "generate" and call.prompt.images]


@pytest.mark.parametrize(("other", "by"), [("base", "base"), ("previous", "a1")])
async def test_the_answer_is_compared_with_another_policys(
    other: str, by: str, open_stack: Opener, tmp_path: Path
) -> None:
    """One of the adapter and one of base, or of the adapter before; the group names both, and the choice teaches."""
    stack = await opened(open_stack, tmp_path, pilaf=PilafConfig(share=1.0, other=other))
    reply = await stack.chat(best_of=4, plumbline=COMPARE)
    group = await stored(stack, reply)
    assert shown_by(group) == ["a2", by]
    assert [one.adapter for one in group.candidates] == ["a2"] * 4 + [by]
    assert reply["plumbline"]["generated"] == 5
    assert len(reply["choices"]) == 2
    own, others = (choice["candidate_id"] for choice in reply["choices"])
    assert reply["plumbline"]["compare"] == [own, others]
    said = {"completion_id": reply["id"], "chosen": others, "rejected": own}
    assert (await stack.client.post("/v1/preferences", json=said)).status_code == 200
    opinions = await stack.services.database.read(lambda c: signals.live_signals(c, [reply["id"]]))
    (pair,) = derive(await stored(stack, reply), opinions[reply["id"]], stack.services.config.aliases[0].signals).pairs
    assert (pair.chosen, pair.rejected) == (others, own)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"best_of": "auto", "auto": AutoConfig(first_wave=2, wave=2, max_candidates=4, cost=1e-6)},
        {"early_reject": EarlyRejectConfig(enabled=True, checkpoints=(2,))},
        {"rules": ()},
    ],
)
async def test_what_is_served_stays_as_it_is(settings: dict[str, Any], open_stack: Opener, tmp_path: Path) -> None:
    """The answer is the one that is chosen without exploration, from as many candidates, with the same probabilities;
    the other policy's could not have been it.
    """
    told = []
    for explore in (0.0, "pilaf"):
        stack = await opened(open_stack, tmp_path / str(explore), **settings, explore=explore)
        stack.engine.script = None
        reply = await stack.chat(seed=5, max_tokens=12, plumbline=COMPARE)
        told.append((reply["choices"][0]["message"], reply["plumbline"]["explanation"]["candidates"]))
    (plain, candidates), (explored, with_other) = told
    assert explored == plain
    assert [one["probability"] for one in with_other] == [one["probability"] for one in candidates] + [0.0]
    assert [one.get("total") for one in with_other[:-1]] == [one.get("total") for one in candidates]
    assert with_other[-1]["adapter"] == "base"


async def test_the_others_answer_is_not_scored(open_stack: Opener, tmp_path: Path) -> None:
    """Its total would be by another policy's opinion: nothing is learned from it but what people choose."""
    stack = await opened(open_stack, tmp_path)
    group = await stored(stack, await stack.chat(best_of=2, plumbline=COMPARE))
    assert [one.total is None for one in group.candidates] == [False, False, True]
    assert not group.degraded


@pytest.mark.parametrize(
    ("alias", "changes"),
    [
        ({"pilaf": PilafConfig(share=0.0)}, {}),
        ({"explore": 0.0}, {}),
        ({}, {"plumbline": {}}),
        ({}, {"n": 2}),
        ({}, {"response_format": {"type": "json_object"}}),
    ],
)
async def test_only_comparisons_are_explored(
    alias: dict[str, Any], changes: dict[str, Any], open_stack: Opener, tmp_path: Path
) -> None:
    """By the share that is set, and where people are to choose between two texts."""
    stack = await opened(open_stack, tmp_path, **alias)
    await stack.chat(**{"best_of": 4, "plumbline": COMPARE} | changes)
    assert {model for model, _ in await asked(stack)} == {"a2"}


async def test_there_is_no_other_policy_before_the_first_adapter(open_stack: Opener, tmp_path: Path) -> None:
    """Base is compared with itself, as without exploration."""
    stack = await opened(open_stack, tmp_path)
    stack.services.router.adopt(Routing("default", generation=8))
    stack.engine.script = None
    reply = await stack.chat(best_of=4, plumbline=COMPARE)
    assert reply["plumbline"]["generated"] == 4
    assert len(reply["choices"]) == 2


async def test_about_the_share_is_explored(open_stack: Opener, tmp_path: Path) -> None:
    """Drawn for each comparison by itself."""
    stack = await opened(open_stack, tmp_path, pilaf=PilafConfig(share=0.5))
    for seed in range(60):
        await stack.chat(seed=seed, best_of=2, plumbline=COMPARE)
    assert 12 <= sum(model != "a2" for model, _ in await asked(stack)) <= 48


@pytest.mark.parametrize(
    ("base_says", "compare"),
    [("the forbidden word", True), ("a red cup", True), ("Cup, a red.", "auto")],
)
async def test_what_cannot_be_compared_gives_way(
    base_says: str, compare: bool | str, open_stack: Opener, tmp_path: Path
) -> None:
    """A blocked answer, or one that says the same: the comparison is with the adapter's own. It is kept."""
    stack = await opened(open_stack, tmp_path)
    stack.engine.script = lambda model, prompt, index: base_says if model.startswith("clients") else SAID["a2"][index]
    stack.engine.token_logprob = lambda model, prompt, piece: -0.1 if piece.strip() == "red" else -1.0
    reply = await stack.chat(best_of=1, plumbline={"compare": compare})
    group = await stored(stack, reply)
    assert shown_by(group) == ["a2", "a2"]
    assert [one.adapter for one in group.candidates] == ["a2", "a2", "base"]
    assert "forbidden" not in json.dumps(reply)


@pytest.mark.parametrize("error", [EngineError("away"), PromptTooLong("too long"), UnknownModel("a1")])
async def test_another_policy_that_fails_costs_nothing(error: EngineError, open_stack: Opener, tmp_path: Path) -> None:
    stack = await opened(open_stack, tmp_path, pilaf=PilafConfig(share=1.0, other="previous"))
    real = stack.engine.script

    def script(model: str, prompt: Prompt, index: int) -> str | None:
        if model == "a1":
            raise error
        assert real is not None
        return real(model, prompt, index)

    stack.engine.script = script
    group = await stored(stack, await stack.chat(best_of=4, plumbline=COMPARE))
    assert shown_by(group) == ["a2", "a2"]
    assert len(group.candidates) == 4


async def test_another_policy_that_hangs_is_not_waited_for(
    engine: Unhurried, open_stack: Opener, tmp_path: Path
) -> None:
    """No longer than the answer itself took; its request is ended."""
    stack = await opened(open_stack, tmp_path)
    engine.stuck = frozenset({engine.base_model})
    async with asyncio.timeout(10):
        group = await stored(stack, await stack.chat(best_of=4, plumbline=COMPARE))
    assert shown_by(group) == ["a2", "a2"]
    assert not [one for one in asyncio.all_tasks() if one.get_name() == "other policy"]


async def test_an_unsure_comparison_of_policies_is_asked(open_stack: Opener, tmp_path: Path) -> None:
    """Without a total of the other answer the ensemble has no opinion on the two."""
    stack = await opened(open_stack, tmp_path, compare=CompareConfig(when="margin", max_margin=0))
    group = await stored(stack, await stack.chat(best_of=4, plumbline={"compare": "auto"}))
    assert shown_by(group) == ["a2", "base"]


@pytest.mark.parametrize("temperature", [0, 1])
async def test_a_streamed_comparison_is_one_of_policies_too(
    temperature: float, open_stack: Opener, tmp_path: Path
) -> None:
    """At temperature 0, where each policy has one answer, too."""
    stack = await opened(open_stack, tmp_path)
    body = chat_body(stream=True, temperature=temperature, plumbline={"compare": True})
    response = await stack.client.post(CHAT, json=body)
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(line) for line in lines]
    texts: dict[int, str] = {}
    for event in events:
        for choice in event.get("choices", []):
            texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
    assert texts[0] in SAID["a2"]
    assert texts[1] == "there is a dog"


async def test_what_is_explored_counts_against_the_budget(open_stack: Opener, tmp_path: Path) -> None:
    """`usage` and the group tell of the candidate that nobody asked for."""
    stack = await opened(open_stack, tmp_path)
    reply = await stack.chat(best_of=2, plumbline=COMPARE)
    group = await stored(stack, reply)
    assert reply["usage"]["completion_tokens"] == sum(len(one.token_ids) for one in group.candidates)
    assert len(group.candidates) == 3
