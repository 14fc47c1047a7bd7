"""The order in which a round learns."""

from __future__ import annotations

import pytest

from learner.augmentation import LEVELS
from learner.curriculum import easy_first, level
from learner.errors import SettingsError
from learner.examples import Answer, Example, PairExample, RewardedExample, UnpairedExample
from learner.loop import Learner
from learner.plan import schedule
from learner.settings import Settings, read_settings
from learner.state import RoundState, StateDir
from learner.workplace import Workplace
from server.wire.training import TrainingConfig
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer, make_group


def answer(name: str, total: float | None, logprob: float | None) -> Answer:
    logprobs = () if logprob is None else (logprob, logprob)
    return Answer(name, (5, 6), "stop", may_be_positive=True, is_human=False, logprobs=logprobs, total=total)


def compared(
    name: str, *, totals: tuple[float | None, float | None], logprobs: tuple[float | None, float | None]
) -> Example:
    """The first answer is preferred."""
    answers = tuple(answer(f"{name}{place}", totals[place], logprobs[place]) for place in range(2))
    return Example(name, (2,), (), answers, (PairExample(0, 1, 1.0, "choice", "ann"),), ())


def test_what_the_reward_is_clearest_about_comes_first() -> None:
    """Where it contradicts people, last."""
    gaps = {"near": 0.1, "against": -2.0, "clear": 3.0}
    groups = [compared(name, totals=(gap, 0.0), logprobs=(None, None)) for name, gap in gaps.items()]
    assert easy_first(groups) == ["clear", "near", "against"]


def test_without_rewards_the_likelihood_decides() -> None:
    """By token, as the engine logged it; of a typed answer it is unknown: that group stands in the middle."""
    gaps = {"near": -0.1, "against": -2.0, "clear": 3.0}
    groups = [compared(name, totals=(None, 1.0), logprobs=(gap - 5, -5.0)) for name, gap in gaps.items()]
    typed = compared("typed", totals=(None, 1.0), logprobs=(None, -1.0))
    assert easy_first([typed, *groups]) == ["clear", "near", "typed", "against"]


def test_rewards_and_likelihoods_are_ranked_apart() -> None:
    """Gaps of 100 and 50 in reward are no easier than those of .2 and .1 in likelihood."""
    by_reward = [compared(f"r{gap}", totals=(gap, 0.0), logprobs=(None, None)) for gap in (100.0, 50.0)]
    by_likelihood = [compared(f"l{gap}", totals=(None, None), logprobs=(gap - 1, -1.0)) for gap in (0.2, 0.1)]
    assert easy_first([*by_reward, *by_likelihood]) == ["l0.2", "r100.0", "l0.1", "r50.0"]


def test_rewarded_groups_go_by_their_best_and_worst_and_thumbs_stand_in_the_middle() -> None:
    """A group with a pair goes by that."""

    def drawn(name: str, *rewards: float) -> Example:
        ones = tuple(answer(f"{name}{place}", None, None) for place in range(len(rewards)))
        labels = tuple(RewardedExample(place, reward, 1.0) for place, reward in enumerate(rewards))
        return Example(name, (2,), (), ones, (), (), labels)

    thumbs = Example("thumbs", (2,), (), (answer("t", None, None),), (), (UnpairedExample(0, True, 1.0, "ann"),))
    groups = [drawn("flat", 1.0, 1.1), drawn("wide", 0.0, 9.0), thumbs, drawn("some", 0.0, 1.0)]
    assert easy_first(groups) == ["wide", "some", "thumbs", "flat"]


def test_every_epoch_is_in_the_curriculums_order() -> None:
    """Without the groups that are kept back; without a curriculum the seed decides, another way in each epoch."""
    names = [f"g{number:02d}" for number in range(12)]
    values = {"number": 1, "parent": "base", "seed": 7, "plan": names, "kept_back": ["g03"], "signals": 0}
    settings = Settings(epochs=2, batch_groups=4, curriculum="easy_then_hard")
    state = RoundState(**values, settings=settings, feed_after=0, feed_upto=0, easy_first=names[::-1])
    order = [name for name in reversed(names) if name != "g03"]
    assert schedule(state) == [[order[:4], order[4:8], order[8:]]] * 2
    first, second = schedule(state.model_copy(update={"easy_first": []}))
    assert first != second and sorted(name for batch in first for name in batch) == sorted(order)


def test_changes_are_strongest_at_first() -> None:
    """Each level for an equal part of the steps, whatever their number."""
    assert [level(step, 8) for step in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [level(step, 2) for step in range(2)] == [0, 2] and level(0, 1) == 0
    assert max(level(step, 1000) for step in range(1000)) == LEVELS - 1


def test_perturbations_need_an_objective_that_shows_changed_images() -> None:
    """A retrieved image is not changed, and has no strength."""
    for objectives in ({"sigmoid": 1.0}, {"rdpo": 1.0}):
        with pytest.raises(SettingsError, match="curriculum"):
            read_settings(told(objectives=objectives, curriculum="perturbation"))
    assert read_settings(told(objectives={"mdpo": 1.0}, curriculum="perturbation")).curriculum == "perturbation"


def told(**learner: object) -> TrainingConfig:
    return TrainingConfig(
        alias="a", base_model="m", base_digest="0" * 64, max_lora_rank=16, lora_modules=[], learner=learner
    )


def opening(learner: Learner) -> list[Workplace]:
    """Where it works, as soon as it does."""
    places: list[Workplace] = []
    opened = learner._open

    def open_and_tell(directory: StateDir) -> Workplace:
        places.append(opened(directory))
        return places[0]

    learner._open = open_and_tell  # type: ignore[method-assign]
    return places


def test_a_round_raises_the_difficulty(server: FakeServer, make_learner: MakeLearner) -> None:
    """Strong changes alone at first, and each level in turn."""
    server.config["learner"] |= {"objectives": {"mdpo": 1.0}, "curriculum": "perturbation", "epochs": 4}
    learner = make_learner()
    places = opening(learner)
    seen: list[set[str]] = []

    def at(point: str) -> None:
        if point == "step":
            names = {image.rpartition(":")[0] for image in places[0].vision._cache}
            seen.append(names - {""})

    learner._at = at
    assert learner.run() == 0, server.reports
    names = ["crop", "crop@1", "crop@2", "crop@3"]
    assert seen == [set(names[: 1 + level(step, len(seen))]) for step in range(len(seen))] and len(seen) == 8


def test_a_round_begins_with_what_is_clear(server: FakeServer, make_learner: MakeLearner) -> None:
    """Its order is planned by the rewards, and stands in its state."""
    server.entries.clear()
    for number in range(0, 12, 3):
        group = make_group(number, server.base_digest, server)
        good, bad = group.candidates
        ones = [good.model_copy(update={"total": float(number)}), bad.model_copy(update={"total": 0.0})]
        server.tell(group.model_copy(update={"candidates": ones}))
    server.config["learner"] |= {"objectives": {"sigmoid": 1.0}, "curriculum": "easy_then_hard"}
    learner = make_learner()
    places = opening(learner)
    planned: list[list[str]] = []

    def at(point: str) -> None:
        if point == "planned":
            state = places[0].state.round
            assert state is not None
            planned.append(state.easy_first)

    learner._at = at
    assert learner.run() == 0, server.reports
    assert planned == [["g009", "g006", "g003", "g000"]]
