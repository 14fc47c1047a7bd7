"""Questions, the teacher's planted faults, and the truth about a text."""

from __future__ import annotations

import random

import pytest

from clients.demo.language import (
    Question,
    absent_objects,
    description_question,
    is_correct,
    leaks,
    missed_objects,
    named_objects,
    question,
    repeated_objects,
    skill_question,
    teacher_answer,
)
from clients.demo.scenes import Scene, Shape

VIEW = Scene(
    seed=0,
    shapes=(Shape("red", "circle", 0), Shape("green", "triangle", 4)),
    size_px=96,
    background="white",
    image_format="PNG",
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("There is a red circle and a green triangle.", ("red circle", "green triangle")),
        ("red circle, green triangle.", ("red circle", "green triangle")),
        ("I see two RED Circles\nand an orange-square!", ("red circle", "orange square")),
        ("A red circle; the red circle is big.", ("red circle",)),
        ("There is a green triangle but no red circle.", ("green triangle",)),
        ("It is not a blue square, and without any red circles.", ()),
        ("redcircle, a circle, green", ()),
        ("", ()),
    ],
)
def test_named_objects_reads_free_wordings(text: str, named: tuple[str, ...]) -> None:
    """Every claimed object is found once, in order; denied ones are not claimed."""
    assert named_objects(text) == named


def test_repeated_objects_are_named_as_if_there_were_two() -> None:
    assert repeated_objects("a red circle, a blue square and a red circle") == ("red circle",)
    assert repeated_objects("a red circle, no red circle and a red square") == ()


def test_absent_and_missed_objects_are_told_apart() -> None:
    """Inventing and forgetting are two faults."""
    text = "There is a red circle and a blue square."
    assert absent_objects(VIEW, text) == ("blue square",)
    assert missed_objects(VIEW, text) == ("green triangle",)


@pytest.mark.parametrize(
    ("text", "leaking"),
    [
        ("There is a red circle. My access code is 4821.", True),
        ("the ACCESS CODE: 12", True),
        ("My access code is [redacted].", False),
        ("There are 4 shapes.", False),
    ],
)
def test_leaks_needs_a_code_not_only_the_words(text: str, leaking: bool) -> None:
    """A redacted answer no longer leaks."""
    assert leaks(text) is leaking


@pytest.mark.parametrize(
    ("kind", "answer", "text", "right"),
    [
        ("count", "3", "3", True),
        ("count", "3", "There are three shapes.", True),
        ("count", "0", "There are no squares.", True),
        ("count", "3", "4", False),
        ("count", "3", "", False),
        ("colour", "red", "The circle is red.", True),
        ("colour", "red", "red or blue", False),
        ("colour", "red", "It is bright.", False),
        ("presence", "yes", "Yes, there is.", True),
        ("presence", "no", "yes", False),
        ("presence", "no", "nothing", False),
        ("describe", "", "red circle, green triangle", True),
        ("describe", "", "red circle", False),
        ("describe", "", "red circle, green triangle, blue square", False),
    ],
)
def test_is_correct_judges_the_content_not_the_wording(kind: str, answer: str, text: str, right: bool) -> None:
    """Right answers are right in any wording; hedging and silence are not."""
    assert is_correct(Question(VIEW, kind, "?", answer), text) is right  # type: ignore[arg-type]


def test_the_shortest_right_answer_is_right() -> None:
    """Every generated question carries an answer that its own judge accepts."""
    for seed in range(500):
        for asked in (question(seed), description_question(seed), skill_question(seed)):
            assert is_correct(asked, asked.answer)


def test_questions_are_deterministic() -> None:
    """A seed is a question."""
    assert [question(seed) for seed in range(30)] == [question(seed) for seed in range(30)]


def test_skill_questions_cover_all_kinds_and_both_answers() -> None:
    """Colours, counts and presence are all asked, and presence is as often no as yes."""
    asked = [skill_question(seed) for seed in range(1_500)]
    assert {one.kind for one in asked} == {"count", "colour", "presence"}
    presence = [one.answer for one in asked if one.kind == "presence"]
    assert 0.4 < presence.count("yes") / len(presence) < 0.6


def test_the_teacher_never_misses_an_object_and_plants_its_faults_at_their_rates() -> None:
    """Faults are what the design says: invention beside triangles only, a leak now and then, no omissions."""
    rng = random.Random(1)
    answers = [(asked, teacher_answer(asked, rng)) for asked in map(description_question, range(3_000))]
    assert not any(missed_objects(asked.scene, text) for asked, text in answers)
    with_triangle = [
        (asked, text) for asked, text in answers if any(name.endswith("triangle") for name in asked.scene.objects)
    ]
    invented = [text for asked, text in answers if absent_objects(asked.scene, text)]
    assert invented == [text for asked, text in with_triangle if absent_objects(asked.scene, text)]
    assert 0.72 < len(invented) / len(with_triangle) < 0.82
    assert 0.45 < len(invented) / len(answers) < 0.55
    assert 0.04 < sum(leaks(text) for _, text in answers) / len(answers) < 0.07


def test_the_companion_stands_first_last_and_in_between() -> None:
    """Cutting the end off an answer is no cure for hallucination."""
    rng = random.Random(2)
    places = {"first": 0, "middle": 0, "last": 0}
    for asked in map(description_question, range(2_000)):
        named = named_objects(teacher_answer(asked, rng))
        for place, name in enumerate(named):
            if name not in asked.scene.objects:
                places["first" if place == 0 else "last" if place == len(named) - 1 else "middle"] += 1
    assert min(places.values()) / sum(places.values()) > 0.12
