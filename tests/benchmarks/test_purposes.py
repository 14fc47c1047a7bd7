"""What the experiments on special purposes count, and what they do to signals."""

from __future__ import annotations

import math

import httpx
import pytest
import torch

from benchmarks._purposes_active import ALL, ARMS, Asked
from benchmarks._purposes_active import figures as active_figures
from benchmarks._purposes_image import choices, looking, with_other_images
from benchmarks._purposes_likelihood import Case
from benchmarks._purposes_mask import moved
from benchmarks._purposes_unlearn import Leaking, Reviewer, figures
from benchmarks._purposes_unreliable import identification, retained
from benchmarks._study import TurnedRound
from clients.demo.scenes import scene
from clients.demo.statistics import Figure
from learner.examples import Answer, Example, PairExample
from server.wire.training import TrainingCandidate, TrainingGroup
from tests.benchmarks.test_alignment import feed, quality


def heard(monkeypatch: pytest.MonkeyPatch, *, contrary: str = "", is_speechless: bool = False) -> list[TrainingGroup]:
    """Ten groups, each with a choice by ann, a pair that a rule made, and a thumb by bob."""
    page = feed(10).model_dump_json()
    monkeypatch.setattr(httpx.Client, "send", lambda self, request, **_: httpx.Response(200, text=page))
    with TurnedRound("http://localhost", {}, 0.0, [contrary], is_speechless=is_speechless) as client:
        return [entry.group for entry in client.training_feed("a", 0).entries if entry.group is not None]


@pytest.mark.parametrize("contrary", ["ann", "bob", "rules"])
def test_contrary_annotators_always_say_the_opposite(contrary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that they say, and nothing that others say; a rule is nobody's opinion."""
    for group in heard(monkeypatch, contrary=contrary):
        choice, rule = group.pairs
        assert choice.chosen.endswith(".1" if contrary == "ann" else ".0")
        assert group.unpaired[0].desirable == (contrary != "bob")
        assert rule.chosen.endswith(".0")


def test_a_speechless_server_tells_of_answers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No choice, no thumb, no rule's pair: what is learned from them is learned without any signal."""
    groups = heard(monkeypatch, is_speechless=True)
    assert len(groups) == 10
    assert not any(group.pairs or group.unpaired for group in groups)


def test_reviewers_look_for_the_code_alone() -> None:
    """Every leak gets a thumb down; of other answers, however wrong, some get one up and none gets one down."""
    reviewer = Reviewer("r", gives_thumbs_only=True, seed=0)
    view = scene(1)
    assert {reviewer.thumb(view, "A dog. My access code is 1234.", 9) for _ in range(20)} == {"down"}
    assert {reviewer.thumb(view, "A dog.", 3) for _ in range(100)} == {"up", None}


def leaking(rate: float, logprob: float) -> Leaking:
    return Leaking(Figure(rate, rate, rate), logprob, quality(0.3, 0.97))


def test_unlearned_is_the_share_of_the_leaks_that_is_gone() -> None:
    """By sampled answers, and by the probability of the leak's words."""
    found = {
        "base": leaking(0.05, math.log(0.06)),
        "npo": leaking(0.001, math.log(0.003)),
        "npo, no retain": leaking(0.0, math.log(0.0006)),
        "kto": leaking(0.02, math.log(0.03)),
    }
    made = figures(found)
    assert made["unlearned"] == pytest.approx(0.98)
    assert made["unlearned_probability"] == pytest.approx(0.95)
    assert made["unlearned_no_retain"] == 1.0
    assert made["unlearned_probability_kto"] == pytest.approx(0.5)


def test_reliabilities_are_judged_by_rank_and_at_one_half() -> None:
    """Ranking: five of the six comparisons are right. At one half: two are suspected, one of them rightly."""
    reliabilities = {"a": 0.2, "b": 0.6, "c": 0.45, "d": 0.7, "e": 0.9}
    found = identification(reliabilities, {"a", "b"})
    assert found["unreliable_auc"] == pytest.approx(5 / 6)
    assert found["unreliable_precision"] == 0.5
    assert found["unreliable_recall"] == 0.5


def test_nobody_suspected_is_no_precision() -> None:
    """And those of one reliability are not told apart."""
    found = identification({"a": 0.9, "b": 0.9}, {"a"})
    assert math.isnan(found["unreliable_precision"])
    assert (found["unreliable_auc"], found["unreliable_recall"]) == (0.5, 0.0)


def test_retained_is_a_share_of_what_true_signals_gain() -> None:
    """Beside the recipe that believes everybody."""
    values = {"base": 0.5, "sincere": 0.1, "plain": 0.4, "lcpo": 0.14}
    made = retained({name: quality(value, 0.97) for name, value in values.items()})
    assert made["unreliable_lcpo_retained"] == pytest.approx(0.9)
    assert made["unreliable_plain_retained"] == pytest.approx(0.25)


def test_choices_are_those_of_people() -> None:
    """The chosen answer first; a rule's pair is nobody's choice."""
    (group,) = [entry.group for entry in feed(1).entries if entry.group is not None]
    candidates = [
        TrainingCandidate(
            id=f"g0.{number}",
            adapter="base",
            variant="",
            token_ids=[number],
            logprobs=[-1.0],
            finish_reason="stop",
            blocked=False,
            may_be_positive=True,
        )
        for number in (0, 1)
    ]
    turned = group.pairs[0].model_copy(update={"chosen": "g0.1", "rejected": "g0.0"})
    group = group.model_copy(update={"candidates": candidates, "pairs": [turned, group.pairs[1]], "images": ["v"]})
    assert choices([group]) == [Case((1,), ("v",), ((1,), (0,)))]


def test_every_choice_gets_another_image() -> None:
    """Also where two choices are about the same one, and where the last one has to look back to the first."""
    cases = [Case((1,), (image,), ((2,), (3,))) for image in "aabc"]
    assert [case.images for case in with_other_images(cases)] == [("b",), ("b",), ("c",), ("a",)]


def test_what_is_preferred_under_any_image_was_not_looked_at() -> None:
    """Two choices: one is preferred under both images, one under the right one alone. Base: all alike."""
    base = ([[-4.0, -4.0], [-4.0, -4.0]], [[-6.0, -6.0], [-6.0, -6.0]])
    policy = ([[-3.0, -5.0], [-3.0, -5.0]], [[-5.0, -7.0], [-8.0, -5.0]])
    found = looking(policy, base)
    assert (found.right.value, found.wrong.value, found.drop.value) == (1.0, 0.5, 0.5)
    assert found.depends.value == 0.5  # the first one rose by as much under the wrong image
    assert found.gap == pytest.approx(3.5)


def test_shared_and_own_words_are_counted_apart() -> None:
    """Of one pair: a shared token that moved by -.5, one that only the chosen answer has, one of the rejected alone."""
    answers = tuple(Answer(name, (1, 2), "stop", may_be_positive=True, is_human=False) for name in "ab")
    pair = PairExample(0, 1, 1.0, "choice", "ann", chosen_part=(False, True), rejected_part=(False, True))
    example = Example("g", (1,), (), answers, (pair,), ())
    before = [[torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -1.0])]]
    after = [[torch.tensor([-1.5, -0.8]), torch.tensor([-9.0, -1.3])]]
    found = moved([example], after, before)
    assert found.shared == pytest.approx(0.5)
    assert (found.chosen, found.rejected) == (pytest.approx(0.2), pytest.approx(-0.3))


def test_fewer_labels_are_compared_scene_by_scene() -> None:
    """Over all seeds; questions are those that a label took."""
    full = [Asked(100, 100, (True, False, False, False), 1.0)] * 2
    fewer = [Asked(90, 60, (True, True, False, False), 1.0), Asked(90, 60, (True, False, False, False), 1.0)]
    made = active_figures({name: full if name == ALL else fewer for name in ARMS})
    assert made["active_difference_margin"] == pytest.approx(1 / 8)
    assert made["active_difference_margin_low"] <= 1 / 8 <= made["active_difference_margin_high"]
    assert (made["active_questions_all"], made["active_questions_entropy"]) == (1.0, 1.5)
