"""An alias's scorers in the running service: what they ask of the engine, and that the answer goes out without them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.config import AliasConfig
from server.config.scorers import ProgramConfig, ScorerConfig
from server.engine.port import Sampling
from server.installation import Installation, StartError
from tests.api.conftest import Opener, Stack, config_for


def samplings(stack: Stack) -> list[Sampling]:
    return [one.sampling for one in stack.engine.calls if one.method == "generate" and one.sampling is not None]


async def test_alternatives_are_asked_for_where_a_scorer_reads_them(open_stack: Opener, tmp_path: Path) -> None:
    """Only by an alias with such a scorer, only where there is a choice, and never shown to who did not ask."""
    stack = await open_stack(config_for(tmp_path, scorers=(ScorerConfig(kind="self_certainty", top_k=3),)))
    reply = await stack.chat(best_of=2, logprobs=True, top_logprobs=1, plumbline={"explain": True})
    assert [one.certainty_top_k for one in samplings(stack)] == [3]
    assert all(len(one["top_logprobs"]) == 1 for one in reply["choices"][0]["logprobs"]["content"])
    assert reply["plumbline"]["degraded"] == []
    scores = [one["scores"]["self_certainty"] for one in reply["plumbline"]["explanation"]["candidates"]]
    assert all(score is not None for score in scores)
    await stack.chat(best_of=1)
    assert samplings(stack)[-1].certainty_top_k == 0


async def test_other_aliases_ask_for_none(stack: Stack) -> None:
    """Alternatives cost time in the engine."""
    await stack.chat(best_of=2)
    assert samplings(stack)[-1].certainty_top_k == 0


async def test_an_answer_goes_out_without_a_scorer_that_fails(open_stack: Opener, tmp_path: Path) -> None:
    """Marked degraded by the scorer's name; the others choose."""
    broken = ProgramConfig(command=(sys.executable, "-c", "raise SystemExit(1)"))
    scorers = (ScorerConfig(kind="logprob"), ScorerConfig(kind="program", name="house-style", program=broken))
    stack = await open_stack(config_for(tmp_path, scorers=scorers))
    reply = await stack.chat(best_of=4, seed=3, plumbline={"explain": True})
    assert reply["plumbline"]["degraded"] == ["house-style"]
    candidates = reply["plumbline"]["explanation"]["candidates"]
    best = max(candidates, key=lambda one: one["scores"]["logprob"])
    assert reply["choices"][0]["candidate_id"] == best["candidate_id"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"kind": "length"}, "set target_tokens"),
        ({"kind": "format"}, "set form"),
        ({"kind": "json_schema"}, "set schema_file"),
        ({"kind": "judge"}, "set judge"),
        ({"kind": "logprob", "beta": 0.2}, "no setting beta"),
        ({"kind": "program", "program": {"command": []}}, "command"),
        ({"kind": "logprob", "name": "Bad Name"}, "name"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings: dict[str, object], reason: str) -> None:
    """Before anything starts."""
    with pytest.raises(ValidationError, match=reason):
        ScorerConfig.model_validate(settings)


def test_two_scorers_of_one_name_are_refused() -> None:
    """Scores and metrics could not be told apart."""
    with pytest.raises(ValidationError, match="same name"):
        AliasConfig(scorers=(ScorerConfig(kind="logprob"), ScorerConfig(kind="logprob")))


async def test_a_scorer_that_cannot_be_built_stops_the_start_with_one_line(tmp_path: Path) -> None:
    """With its name and what is wrong."""
    scorer = ScorerConfig(kind="language", language="xx", name="tongue")
    installation = Installation(config_for(tmp_path, scorers=(scorer,)))
    with pytest.raises(StartError, match="scorer tongue: language 'xx' is not one of"):
        await installation.open()
    await installation.close()


async def test_what_scorers_usually_say_survives_a_restart(open_stack: Opener, tmp_path: Path) -> None:
    """The same candidates get the same totals when the service comes back, and other ones than at its first start."""
    stack = await open_stack(config_for(tmp_path / "state"))

    async def totals(of: Stack) -> list[float]:
        reply = await of.chat(best_of=4, seed=99, store=False, plumbline={"explain": True})
        return [one["total"] for one in reply["plumbline"]["explanation"]["candidates"]]

    fresh = await totals(await open_stack(config_for(tmp_path / "fresh")))
    for seed in range(10):
        await stack.chat(best_of=4, seed=seed)
    lived = await totals(stack)
    await stack.services.database.close()
    stack.engine.closed = False
    shutil.copytree(tmp_path / "state", tmp_path / "again")
    assert await totals(await open_stack(config_for(tmp_path / "again"))) == pytest.approx(lived)
    assert fresh != pytest.approx(lived)
