"""What the benchmark of methods compares, and what it counts."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks._methods_plot import front
from benchmarks._methods_table import COMPOSITIONS, DPO, METHODS, METHODS_ALONE
from benchmarks._study import Quality
from benchmarks.methods import Result, Run, combined, narrowed, read_back, summarise, written
from clients.demo.statistics import Figure
from learner.objectives import OBJECTIVES
from learner.settings import Settings
from server.wire.base import BASE

SAME_AS_DPO_IN_A_FIRST_ROUND = {"mrpo"}


def result(hallucination: float, coverage: float = 0.98) -> Result:
    """With intervals of .02 to either side."""
    figures = (Figure(one, one - 0.02, one + 0.02) for one in (hallucination, coverage, 0.0))
    return Result(*figures, kl=0.1, seconds=10.0)


def test_every_objective_is_compared_and_every_recipe_can_be_set() -> None:
    """None is forgotten, no name is there twice, and the learner takes each."""
    settings = {one.name: Settings.model_validate(one.recipe.learner) for one in METHODS}
    assert len(settings) == len(METHODS)
    used = {name for one in METHODS_ALONE for name in settings[one.name].objectives}
    assert used | SAME_AS_DPO_IN_A_FIRST_ROUND == set(OBJECTIVES)
    for one in settings.values():
        one.recipe()


def test_no_method_is_another_under_a_second_name() -> None:
    """By configuration; that they also differ in what they learn is the table's to show."""
    recipes = [repr((one.recipe.learner, one.recipe.thumbs_only, one.recipe.reward_model)) for one in METHODS]
    assert len(set(recipes)) == len(recipes)


def test_what_improves_is_surely_below_the_base_and_leaves_nothing_out() -> None:
    """By the upper bound of the hallucination, and by coverage; what was refused counts, and does not improve."""
    results = {
        BASE: result(0.5),
        DPO: result(0.2),
        "good": result(0.1),
        "silent": result(0.05, coverage=0.9),
        "idle": result(0.49),
        COMPOSITIONS[0].name: result(0.08),
    }
    figures = summarise(results, {"broken": "its KL was too large"})
    assert figures["methods_total"] == 5  # without base and composition
    assert figures["methods_improving"] == 2
    assert figures["best_vs_dpo"] == pytest.approx(0.4)
    assert figures["better_than_dpo"] == 2


def test_several_crowds_narrow_the_interval() -> None:
    """Four crowds halve it; the share is that of all descriptions together."""
    assert narrowed([Figure(0.5, 0.4, 0.6)] * 4) == Figure(0.5, 0.45, 0.55)
    runs = [Run(Quality(Figure(share, 0, 1), Figure(1, 1, 1), Figure(0, 0, 0)), 0.2, 5.0) for share in (0.1, 0.3)]
    found = combined(runs, 100)
    assert found.hallucination.value == pytest.approx(0.2)
    assert found.hallucination.high - found.hallucination.low < 0.12
    assert math.isclose(found.kl, 0.2)


def test_the_page_gets_the_least_hallucination_first() -> None:
    """And is told how each stands to plain DPO."""
    rows = written({BASE: result(0.5), DPO: result(0.2), "good": result(0.1), "near": result(0.18)})
    assert list(rows) == ["good", "near", DPO, BASE]
    assert [row["vs_dpo"] for row in rows.values()] == ["better", "same", "", ""]


def test_what_was_written_is_read_back_as_it_was() -> None:
    """So that some methods can be measured again beside the others' rows."""
    rows = written({BASE: result(0.5), DPO: result(0.2), "good": result(0.1)})
    assert written(read_back(json.loads(json.dumps(rows)))) == rows


def test_the_front_is_what_nothing_beats_in_both() -> None:
    """Less hallucination, or more coverage."""
    results = {"a": result(0.1, 0.95), "b": result(0.2, 0.99), "c": result(0.2, 0.94)}
    assert front(results) == ["a", "b"]
