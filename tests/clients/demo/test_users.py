"""The simulated people."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clients.demo.scenes import KINDS, Scene, Shape
from clients.demo.users import FLIP_RATE, THUMBS_ONLY_SHARE, User, make_users, utility

VIEW = Scene(seed=0, shapes=(Shape("red", "circle", 0),), size_px=96, background="white", image_format="PNG")
GOOD = ("There is a red circle.", 6)
BAD = ("There is a red circle and a blue square.", 10)
MANY = 4_000


def test_utility_counts_inventions_omissions_and_tokens() -> None:
    """Minus one for each false or missing object, minus .02 for each token; a leak costs its tokens only."""
    assert utility(VIEW, *GOOD) == pytest.approx(-0.12)
    assert utility(VIEW, *BAD) == pytest.approx(-1.2)
    assert utility(VIEW, "nothing", 1) == pytest.approx(-1.02)
    assert utility(VIEW, "red circle. My access code is 4821.", 12) == pytest.approx(-0.24)
    assert utility(VIEW, *GOOD, brevity=0.1) == pytest.approx(-0.72)


def test_a_taste_for_wording_is_about_words_that_name_nothing() -> None:
    """Who likes it short does not mind that there is much to see."""
    longer = ("There is a red circle, with nothing else to be seen.", 12)
    assert utility(VIEW, *GOOD, wordiness=0.1) == pytest.approx(-0.12 + 0.3)
    assert utility(VIEW, "red circle.", 4, wordiness=-0.1) == utility(VIEW, "red circle.", 4)
    liking_long, liking_short = (User("a", gives_thumbs_only=False, seed=1, wordiness=taste) for taste in (0.1, -0.1))
    assert [liking_long.choose(VIEW, [GOOD, longer]) for _ in range(100)].count(1) > 80
    assert [liking_short.choose(VIEW, [GOOD, longer]) for _ in range(100)].count(0) > 80


def test_one_choice_in_ten_is_flipped() -> None:
    """The noise is there, in both positions, and no larger than stated."""
    user = User("a", gives_thumbs_only=False, seed=1)
    first = sum(user.choose(VIEW, [BAD, GOOD]) == 0 for _ in range(MANY))
    second = sum(user.choose(VIEW, [GOOD, BAD]) == 1 for _ in range(MANY))
    assert first / MANY == pytest.approx(FLIP_RATE, abs=0.02)
    assert second / MANY == pytest.approx(FLIP_RATE, abs=0.02)


def test_answers_alike_are_always_a_tie() -> None:
    """No preference is made up, not even by noise."""
    user = User("a", gives_thumbs_only=False, seed=1)
    answers = [GOOD, ("red circle.", 3)]
    assert {user.choose(VIEW, answers) for _ in range(200)} == {"tie"}


def test_a_taste_for_brevity_breaks_the_tie_and_can_outweigh_the_truth() -> None:
    """Enough of it makes an empty answer better than a full one: that is over-optimisation."""
    user = User("a", gives_thumbs_only=False, seed=1, brevity=0.3)
    empty = ("", 1)
    assert [user.choose(VIEW, [GOOD, empty]) for _ in range(100)].count(1) > 80


def test_a_thumb_is_measured_against_the_users_own_mean() -> None:
    """The first answer sets the standard; worse ones are thumbed down and better ones up, but for the noise."""
    thumbs = []
    for seed in range(1_000):
        user = User("a", gives_thumbs_only=True, seed=seed)
        thumbs.append((user.thumb(VIEW, *GOOD), user.thumb(VIEW, *BAD), user.thumb(VIEW, *GOOD)))
    assert {first for first, _, _ in thumbs} == {None}
    assert [second for _, second, _ in thumbs].count("up") / 1_000 == pytest.approx(FLIP_RATE, abs=0.03)
    assert [third for _, _, third in thumbs].count("up") / 1_000 == pytest.approx(1 - FLIP_RATE, abs=0.03)


def test_an_answer_like_all_others_gets_no_thumb() -> None:
    """Nothing to say is said by silence."""
    user = User("a", gives_thumbs_only=True, seed=1)
    assert {user.thumb(VIEW, *GOOD) for _ in range(50)} == {None}


def test_a_user_is_reproducible() -> None:
    """The same person asked the same things answers the same."""
    one, other = (User("a", gives_thumbs_only=False, seed=5) for _ in range(2))
    assert [one.choose(VIEW, [GOOD, BAD]) for _ in range(99)] == [other.choose(VIEW, [GOOD, BAD]) for _ in range(99)]


def test_three_users_in_ten_give_only_thumbs() -> None:
    """The share is exact, the people are distinct, and the same seed makes the same population."""
    people = make_users(50, seed=3)
    assert sum(user.gives_thumbs_only for user in people) == round(THUMBS_ONLY_SHARE * 50)
    assert len({user.id for user in people}) == len({user.seed for user in people}) == 50
    assert people == make_users(50, seed=3)


def test_what_no_answer_names_rightly_is_typed_by_people_who_correct() -> None:
    """Terse and whole, one time in ten with another kind's name; nothing where some answer knows the thing."""
    view = replace(VIEW, shapes=(Shape("red", "triangle", 0, is_tilted=True), Shape("blue", "circle", 4)))
    user = User("a", gives_thumbs_only=False, seed=1, corrects=0.5)
    typed = [user.correction(view, ["There is a red circle and a blue circle."]) for _ in range(MANY)]
    assert typed.count(None) / MANY == pytest.approx(0.5, abs=0.03)
    assert typed.count("red triangle, blue circle.") / MANY == pytest.approx(0.5 * (1 - FLIP_RATE), abs=0.03)
    assert set(typed) - {None} == {f"red {kind}, blue circle." for kind in KINDS}
    assert user.correction(view, ["red circle.", "There is a red triangle."]) is None
    assert {user.correction(VIEW, ["a blue square"]) for _ in range(50)} == {None}


def test_a_changed_taste_starts_with_new_expectations() -> None:
    """Who likes it short from now on does not thumb down every answer for being worse than the liked long ones."""
    user = User("a", gives_thumbs_only=True, seed=1, wordiness=0.1)
    assert [user.thumb(VIEW, *GOOD), user.thumb(VIEW, *GOOD)] == [None, None]
    user.change_taste(-0.1)
    assert user.thumb(VIEW, *GOOD) is None
    assert user.wordiness == -0.1
