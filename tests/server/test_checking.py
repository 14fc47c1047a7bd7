"""Scorers on known pairs where a policy's log-probabilities are at hand."""

from __future__ import annotations

import pytest

from reward.types import Candidate, Message, Prompt
from server.checking.together import total_report
from server.checking.trial import Policy, Trial, agreements, candidates_of, why_not
from server.config import AliasConfig
from server.config.scorers import ScorerConfig
from server.config.selection import EnsembleConfig, LengthPenaltyConfig
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
        trial.values.append(None)
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
        trial.values.append(None)
        await trial.ask(number, PROMPT, one, other)
    accuracy = trial.report().accuracy
    assert accuracy is not None
    assert accuracy.low < 0.5 < accuracy.high


class Says:
    """Says what it was told to say."""

    version = "1"

    def __init__(self, name: str) -> None:
        self.name = name

    async def score(self, prompt: Prompt, candidates: list[Candidate]) -> list[float | None]:
        raise AssertionError("not asked again")


def trial_of(name: str, values: list[tuple[float, float] | None], weight: float = 1.0) -> Trial:
    return Trial(ScorerConfig(kind="logprob", name=name, weight=weight), Says(name), values)


def answers(tokens: tuple[int, int]) -> tuple[Candidate, Candidate]:
    one, other = (Candidate(place, "base", "a", (7,) * count, (), "stop") for place, count in enumerate(tokens))
    return one, other


def alias_of(*trials: Trial, **settings: object) -> AliasConfig:
    return AliasConfig(scorers=tuple(one.config for one in trials), ensemble=EnsembleConfig.model_validate(settings))


def test_the_total_is_what_the_alias_would_choose_by() -> None:
    """Calibrated: a scorer whose unit is large does not decide alone. Uncalibrated it does."""
    loud = trial_of("loud", [(1000.0 * number, 1000.0 * number + 500 * (-1) ** number) for number in range(40)])
    sure = trial_of("sure", [(9.0, 1.0)] * 40)
    pairs = dict.fromkeys(range(40), answers((3, 3)))
    for calibrate, right in ((True, 1.0), (False, 0.5)):
        found = total_report(alias_of(loud, sure, calibrate=calibrate), [loud, sure], pairs)
        assert found.accuracy is not None
        assert (found.accuracy.value, found.pairs, found.kind) == (right, 40, "sum")


def test_the_total_knows_weights_combiner_and_length() -> None:
    """As the alias sets them."""
    up, down = trial_of("up", [(1.0, 0.0)]), trial_of("down", [(0.0, 0.6)], weight=2.0)
    pairs = {0: answers((30, 10))}
    found = total_report(alias_of(up, down, calibrate=False), [up, down], pairs)
    assert found.accuracy is not None and found.accuracy.value == 0.0
    alone = alias_of(up, calibrate=False, length_penalty=LengthPenaltyConfig(strength=1.0, max_tokens=10))
    found = total_report(alone, [up], pairs)
    assert found.accuracy is not None and found.accuracy.value == 0.0


def test_the_total_goes_without_what_failed() -> None:
    """On that pair only; where nothing is left it failed itself. What could not be asked at all is named."""
    one, other = trial_of("one", [None, (1.0, 0.0), None]), trial_of("other", [(1.0, 0.0), (0.0, 9.0), None])
    gone = ScorerConfig(kind="self_certainty")
    alias = alias_of(one, other, calibrate=False)
    alias = alias.model_copy(update={"scorers": (*alias.scorers, gone)})
    found = total_report(alias, [one, other], dict.fromkeys(range(3), answers((3, 3))))
    assert found.accuracy is not None
    assert (found.accuracy.value, found.pairs, found.failures) == (0.5, 2, 1)
    assert found.reason == "without self_certainty"
