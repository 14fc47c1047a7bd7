"""The ensemble fails open: a bad scorer is left out and named, never guessed, never a maximum."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from reward.ensemble import COMBINERS, Calibration, Ensemble, LengthPenalty, Member
from reward.scorers import ImplicitScorer, LengthScorer, LogprobScorer, RepetitionScorer
from reward.selection import choose
from reward.selection.strategies import Argmax
from reward.types import Candidate, Judgement, Message, Prompt

PROMPT = Prompt((Message("user", ("Hi",)),))


def candidate(index: int, text: str = "a b", *, adapter: str = "a1", logprobs: tuple[float, ...] = (-1.0, -2.0)):
    return Candidate(index, adapter, text, tuple(range(len(logprobs))), logprobs, "stop")


TWO = (candidate(0), candidate(1))


@dataclass(frozen=True)
class Scripted:
    answer: Callable[[], Sequence[float | None]]
    name: str = "scripted"
    version: str = "1"

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        value = self.answer()
        if value == "hang":
            await asyncio.sleep(60)
        return value


def raising() -> Sequence[float]:
    raise RuntimeError


GOOD = Member(Scripted(lambda: [1.0, 2.0], "good"))


@pytest.mark.parametrize(
    "answer",
    [
        raising,
        lambda: "hang",
        lambda: [1.0],
        lambda: [1.0] * 3,
        lambda: [float("nan")] * 2,
        lambda: [float("inf")] * 2,
        lambda: [1e300] * 2,
        lambda: ["high", "low"],
        list,
    ],
    ids=["crash", "hang", "too few", "too many", "nan", "infinite", "absurd", "no numbers", "empty"],
)
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("combiner", COMBINERS)
async def test_a_failing_scorer_is_left_out_and_named(
    answer: Callable[[], Sequence[float]], combiner: str, calibrated: bool
) -> None:
    """The other scorers decide, as if it were not there, and the answer is marked degraded (I7)."""
    settings = {"combiner": COMBINERS[combiner]}
    with_bad = Ensemble(
        (GOOD, Member(Scripted(answer, "bad"), timeout_s=0.05)),
        calibration=Calibration() if calibrated else None,
        **settings,
    )
    alone = Ensemble((GOOD,), calibration=Calibration() if calibrated else None, **settings)
    scored, degraded = await with_bad.score(PROMPT, TWO)
    expected, _ = await alone.score(PROMPT, TWO)
    assert degraded == ("bad",)
    assert [one.total for one in scored] == [one.total for one in expected]
    assert [one.value for one in scored] == [1.0, 2.0]
    best = choose(Argmax(), [Judgement(one, (), (), found.total) for one, found in zip(TWO, scored, strict=True)])
    assert best.index == 1


async def test_all_scorers_failing_leaves_no_totals() -> None:
    """Then the first clean candidate is taken; see `choose`."""
    ensemble = Ensemble((Member(Scripted(raising, "bad")),), calibration=Calibration())
    scored, degraded = await ensemble.score(PROMPT, TWO)
    assert degraded == ("bad",)
    assert [(one.total, one.value) for one in scored] == [(None, None)] * 2


async def test_a_constant_scorer_changes_nothing() -> None:
    """However long it says the same, the others' order stands, and no number is lost."""
    ensemble = Ensemble((GOOD, Member(Scripted(lambda: [3.0, 3.0], "constant"))), calibration=Calibration())
    for _ in range(50):
        scored, degraded = await ensemble.score(PROMPT, TWO)
    assert degraded == ()
    first, second = (one.total for one in scored)
    assert first is not None and second is not None and first < second


async def test_what_was_scored_in_parts_compares_as_a_whole() -> None:
    """A scorer that failed for one part is left out of all, and totals are of one calibration."""
    answers = iter([[1.0, 2.0], [5.0, 7.0]])
    sometimes = iter([[9.0, -9.0], [1.0]])
    ensemble = Ensemble(
        (Member(Scripted(lambda: next(answers), "good")), Member(Scripted(lambda: next(sometimes), "bad"))),
        calibration=Calibration(),
    )
    (first, no_fault), (second, fault) = [await ensemble.score(PROMPT, TWO) for _ in range(2)]
    assert (no_fault, fault) == ((), ("bad",))
    rows = [one.scores for one in (*first, *second)]
    whole = ensemble.combine(rows, [*TWO, *TWO], fault)
    totals = [one.total for one in whole if one.total is not None]
    assert totals == sorted(totals) and len(set(totals)) == 4
    assert [one.value for one in whole] == [1.0, 2.0, 5.0, 7.0]


async def test_an_answers_value_never_drifts() -> None:
    """What adapters are compared by, and training data keeps, is the same before and after thousands of others."""
    ensemble = Ensemble((GOOD,), calibration=Calibration(), length_penalty=LengthPenalty(5.0, max_tokens=1))
    (before, _), _ = await ensemble.score(PROMPT, TWO)
    assert ensemble.calibration is not None
    ensemble.calibration.of(0, "1").observe([100.0 * number for number in range(500)])
    (after, _), _ = await ensemble.score(PROMPT, TWO)
    assert before.value == after.value == ensemble.value(after.scores) == 1.0
    assert before.total != after.total


async def test_partial_answers_teach_the_calibration_nothing() -> None:
    """Only what asks for it is observed."""
    ensemble = Ensemble((GOOD,), calibration=Calibration())
    (first, _), _ = await ensemble.score(PROMPT, TWO, observe=False)
    (second, _), _ = await ensemble.score(PROMPT, TWO, observe=False)
    assert first.total == second.total == 1.0


async def test_a_calibration_is_learned_again_from_what_was_said() -> None:
    """Of the same scorer and version; nothing else of it counts."""
    lived = Ensemble((Member(Scripted(lambda: [3.0, 7.0])),), calibration=Calibration())
    said = []
    for _ in range(20):
        scored, _ = await lived.score(PROMPT, TWO)
        said += [{score.scorer: [score.version, score.value] for score in one.scores} for one in scored]
    woken = Ensemble(lived.members, calibration=Calibration())
    woken.recall([*said, {"scripted": ["0", 900.0]}, {"another": ["1", 900.0]}, {"scripted": ["1", None]}])
    rows = [one.scores for one in scored]
    plain, known = Ensemble(lived.members).combine(rows, TWO, ()), lived.combine(rows, TWO, ())
    assert woken.combine(rows, TWO, ()) == known != plain


async def test_one_missing_value_leaves_that_candidate_without_a_total() -> None:
    """NaN for one candidate is never its maximum, and never another's loss."""
    ensemble = Ensemble((GOOD, Member(Scripted(lambda: [float("nan"), 1.0], "half"))))
    scored, degraded = await ensemble.score(PROMPT, TWO)
    assert degraded == ()
    assert [one.total for one in scored] == [None, 3.0]


async def test_weights_and_disagreement() -> None:
    """The total is the weighted sum; disagreement is the spread of its parts."""
    ensemble = Ensemble((Member(Scripted(lambda: [1.0, 1.0]), 2.0), Member(Scripted(lambda: [0.0, 2.0]))))
    scored, _ = await ensemble.score(PROMPT, TWO)
    assert [one.total for one in scored] == [2.0, 4.0]
    assert [one.disagreement for one in scored] == [1.0, 0.0]


async def test_a_value_without_some_kinds_of_scorers() -> None:
    """What the others said, weighted; nothing where one of them is missing or none is left."""
    ensemble = Ensemble((Member(LogprobScorer()), Member(Scripted(lambda: [1.0, None]), weight=2.0)))
    scored, _ = await ensemble.score(PROMPT, TWO)
    assert ensemble.value(scored[0].scores, without=(LogprobScorer,)) == 2.0
    assert ensemble.value(scored[0].scores) == scored[0].total
    assert ensemble.value(scored[1].scores, without=(LogprobScorer,)) is None
    assert ensemble.value(scored[0].scores, without=(LogprobScorer, Scripted)) is None
    assert ensemble.value((), without=()) is None


async def test_logprob_is_the_mean_per_token() -> None:
    """Long answers are not punished for being long."""
    assert await LogprobScorer().score(PROMPT, [candidate(0, logprobs=(-1.0, -3.0))]) == [-2.0]


async def test_length_and_repetition_score_what_they_say() -> None:
    """Within the target nothing is lost; a repeated sentence costs one."""
    assert await LengthScorer(1).score(PROMPT, TWO) == [-1.0, -1.0]
    assert await LengthScorer(4).score(PROMPT, TWO) == [0.0, 0.0]
    assert await RepetitionScorer().score(PROMPT, [candidate(0, "No. No."), candidate(1, "No.")]) == [-1.0, 0.0]


async def test_implicit_reward_is_the_scaled_log_ratio() -> None:
    """β (log π_adapter − log π_base) on the text's tokens; 0 for base; none where the tokens differ."""
    asked: list[str] = []

    async def base(prompt: Prompt, answer: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        asked.append(answer)
        return ((0, 1), (-2.0, -2.0)) if answer == "same" else ((7, 1), (-2.0, -2.0))

    scorer = ImplicitScorer(base, "base", beta=0.5)
    answers = [
        candidate(0, "same", logprobs=(-1.0, -1.0, -9.0)),  # the last token ends the turn and does not count
        candidate(1, "other"),
        candidate(2, "same", adapter="base"),
        candidate(3, "same", logprobs=(-1.0, -2.0)),
    ]
    assert await scorer.score(PROMPT, answers) == [1.0, None, 0.0, 0.5]
    assert sorted(asked) == ["other", "same"], "what was said twice is scored once"
