"""The ten-line examples of `docs/extending.md` do what the page says: as ours are used, not only as code that runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from reward.rules import LengthRule
from reward.types import Action, Candidate, Message, Prompt
from server.config import load_config
from server.scorers.factory import ScorerFactory
from tests.docs.snippets import ROOT, snippets

PAGE = ROOT / "docs" / "extending.md"
PROMPT = Prompt((Message("user", ("How many?",)),))
CANDIDATES = [Candidate(n, "base", text, (1,), (0.0,), "stop") for n, text in enumerate(("No 1234", "a few"))]


@pytest.fixture(scope="module")
def examples() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for one in snippets(PAGE):
        if one.language == "python":
            exec(compile(one.text, one.page, "exec", dont_inherit=True), names)
    return names


async def test_the_scorer_scores(examples: dict[str, Any]) -> None:
    assert await examples["FewDigits"]().score(PROMPT, CANDIDATES) == [-4.0, 0.0]


async def test_the_program_scores_the_same(tmp_path: Path) -> None:
    """Through the configuration and the process that the server starts for it."""
    block = next(one for one in snippets(PAGE) if one.language == "toml")
    (tmp_path / "plumbline.toml").write_text(block.text)
    factory = ScorerFactory(None)
    scorer = factory.build(load_config(tmp_path / "plumbline.toml").aliases[0].scorers[0])
    assert list(await scorer.score(PROMPT, CANDIDATES)) == [-4.0, 0.0]
    await factory.close()


def test_the_rule_blocks(examples: dict[str, Any]) -> None:
    """It has all that a rule of ours has."""
    rule = examples["NoShouting"]()
    assert rule.check("THIS IS FAR TOO LOUD FOR ME").action is Action.BLOCK
    assert rule.check("This is fine, as it is said.").action is Action.ALLOW
    assert {"name", "version", "action", "reach", "check"} <= set(dir(rule)) & set(dir(LengthRule("x", 1)))


def test_the_objective_falls_as_the_margin_grows(examples: dict[str, Any]) -> None:
    """One loss for each pair, and a gradient that widens the margin."""
    margin = torch.tensor([-10.0, 0.0, 20.0], requires_grad=True)
    losses = examples["SquaredHinge"](beta=0.1).losses(SimpleNamespace(margin=margin))
    assert losses.tolist() == pytest.approx([4.0, 1.0, 0.0])
    losses.sum().backward()
    assert margin.grad is not None and margin.grad.tolist() == pytest.approx([-0.4, -0.2, 0.0])
