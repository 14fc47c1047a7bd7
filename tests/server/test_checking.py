"""Scorers on known pairs where a policy's log-probabilities are at hand."""

from __future__ import annotations

import pytest

from reward.types import Candidate, Message, Prompt
from server.checking.trial import Policy, Trial, agreements, candidates_of, why_not
from server.config_scorers import ScorerConfig
from server.engine.fake import FakeEngine
from server.scorers.factory import ScorerFactory

PROMPT = Prompt((Message("user", ("What is it?",)),))


@pytest.mark.parametrize(
    ("kind", "without", "base", "adapter"),
    [
        ("logprob", False, True, True),
        ("implicit", False, False, True),
        ("self_certainty", False, False, False),
        ("repetition", True, True, True),
    ],
)
def test_who_can_be_asked(kind: str, without: bool, base: bool, adapter: bool) -> None:
    """Without an engine, with one, and with an adapter on it."""
    engine = FakeEngine()
    config = ScorerConfig.model_validate({"kind": kind})
    found = [why_not(config, policy) is None for policy in (None, Policy(engine), Policy(engine, "a-1"))]
    assert found == [without, base, adapter]


async def test_the_policys_own_scorers_get_its_log_probabilities() -> None:
    """The adapter's of both answers; the implicit scorer asks for the base model's half itself."""
    engine = FakeEngine(token_logprob=lambda model, prompt, token: -1.0 if (model, token) == ("a-1", "good") else -2.0)
    engine.register("a-1")
    policy, factory = Policy(engine, "a-1"), ScorerFactory(engine)
    trials = [
        Trial(config, factory.build(config))
        for config in (ScorerConfig(kind="logprob"), ScorerConfig(kind="implicit", beta=0.5))
    ]
    chosen, rejected = await candidates_of(PROMPT, ("good", "bad"), policy)
    for trial in trials:
        trial.margins.append(None)
        await trial.ask(0, PROMPT, chosen, rejected)
    assert [trial.margins for trial in trials] == [[1.0], [0.5]]
    assert agreements(trials)[0].share == 1.0


class FavoursThePlace:
    """Likes whatever stands first."""

    name, version = "first", "1"

    async def score(self, prompt: Prompt, candidates: list[Candidate]) -> list[float | None]:
        return [1.0, 0.0]


async def test_who_favours_a_place_gains_nothing() -> None:
    """The places of the two answers are drawn, the same for every scorer and every run."""
    trial = Trial(ScorerConfig(kind="logprob"), FavoursThePlace())
    one, other = await candidates_of(PROMPT, ("a", "b"), None)
    for number in range(400):
        trial.margins.append(None)
        await trial.ask(number, PROMPT, one, other)
    accuracy = trial.report().accuracy
    assert accuracy is not None
    assert accuracy.low < 0.5 < accuracy.high
