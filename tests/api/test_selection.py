"""How the answer is chosen, as apps see it: strategies, waves, early rejection; and `explain`, which tells all."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.config import AliasConfig
from server.config_selection import SelectionConfig
from tests.api.conftest import CHAT, Opener, Stack, assert_openai_error, chat_body, config_for


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


def test_the_default_is_argmax() -> None:
    """For the default of few candidates."""
    assert AliasConfig().selection.build().name == "argmax"
