"""What people compared, as thumbs for the objectives on single answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from learner.errors import SettingsError
from learner.examples import Answer, Example, PairExample, UnpairedExample
from learner.missing import explained
from learner.settings import read_settings
from learner.shares import bounded
from learner.unpairing import unpaired
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer, make_group
from tests.learner.test_listwise import config
from tests.learner.tiny import EOS


def compared(*pairs: tuple[int, int, str, str], thumbs: tuple[UnpairedExample, ...] = ()) -> Example:
    """Three answers and pairs (better, worse, source, annotator)."""
    answers = tuple(Answer(f"g.{number}", (10 + number, EOS), "stop", True, False) for number in range(3))
    made = tuple(PairExample(better, worse, 1.0, source, who) for better, worse, source, who in pairs)
    return Example("g", (2, 5), (), answers, made, thumbs)


def thumbs_of(example: Example) -> set[tuple[int, bool, float, str]]:
    found = unpaired(example, keep_others=True)
    assert found is not None
    return {(one.answer, one.desirable, one.weight, one.annotator) for one in found.unpaired}


def test_a_choice_is_a_thumb_up_and_a_thumb_down() -> None:
    """Of each person who chose; the pair stays."""
    example = compared((0, 1, "choice", "ann"), (1, 0, "choice", "bob"))
    ups_and_downs = {(0, True, 1.0, "ann"), (1, False, 1.0, "ann"), (1, True, 1.0, "bob"), (0, False, 1.0, "bob")}
    assert thumbs_of(example) == ups_and_downs
    found = unpaired(example, keep_others=True)
    assert found is not None and found.pairs == example.pairs
    assert found.opinions == 2, "nobody said more than before"


def test_who_stands_in_the_middle_of_a_ranking_is_neither_good_nor_bad() -> None:
    """2 ≻ 0 ≻ 1: 0 won as often as it lost."""
    rank = ((2, 0, "ranking", "ann"), (2, 1, "ranking", "ann"), (0, 1, "ranking", "ann"))
    assert thumbs_of(compared(*rank)) == {(2, True, 1.0, "ann"), (1, False, 1.0, "ann")}


def test_whoever_chose_an_answer_and_then_typed_a_better_one_says_nothing_of_it() -> None:
    """One opinion of each answer by each person: 0 won the choice and lost to what was typed."""
    example = compared((0, 1, "choice", "ann"), (2, 0, "correction", "ann"))
    assert thumbs_of(example) == {(1, False, 1.0, "ann"), (2, True, 1.0, "ann")}


def test_the_same_word_is_not_counted_twice_against_a_persons_share() -> None:
    """Where a round's examples are bounded again, after the feed changed, choices weigh no more than thumbs."""
    chosen = [compared((0, 1, "choice", "ann")), compared((0, 1, "choice", "ann"))]
    thumb = UnpairedExample(0, True, 1.0, "bob")
    rated = [compared(thumbs=(thumb,)), compared(thumbs=(thumb,))]
    once = [one for one in (unpaired(one, keep_others=False) for one in (*chosen, *rated)) if one is not None]
    assert bounded(once, 0.5, 2) == once


def test_a_thumb_stands_before_what_was_compared() -> None:
    """The same person's, of the same answer."""
    thumb = UnpairedExample(0, False, 2.0, "ann")
    assert thumbs_of(compared((0, 1, "choice", "ann"), thumbs=(thumb,))) == {
        (0, False, 2.0, "ann"),
        (1, False, 1.0, "ann"),
    }


def test_rules_give_no_thumbs() -> None:
    """Nor do pairs that a thumb and a scorer made together; without objectives on pairs they have no part at all."""
    example = compared((0, 1, "safety", "rules"), (0, 2, "thumbs", "ann"))
    assert thumbs_of(example) == set()
    assert unpaired(example, keep_others=False) is None


def test_doing_it_twice_changes_nothing_and_what_is_taken_back_is_gone() -> None:
    """As where the feed changes groups in mid-round."""
    once = unpaired(compared((0, 1, "choice", "ann"), (0, 2, "choice", "bob")), keep_others=False)
    assert once is not None and unpaired(once, keep_others=False) == once
    (of_ann, _) = once.pairs
    left = unpaired(replace(once, pairs=(of_ann,)), keep_others=False)
    assert left is not None and {one.annotator for one in left.unpaired} == {"ann"}


def test_it_is_for_objectives_on_single_answers() -> None:
    """Elsewhere it would do nothing."""
    with pytest.raises(SettingsError, match="unpair: none of the objectives is on single answers"):
        read_settings(config(unpair=True, objectives={"sigmoid": 1.0}))
    read_settings(config(unpair=True, objectives={"npo": 1.0}))


def test_whoever_lacks_thumbs_is_told_of_it(server: FakeServer) -> None:
    """Where there are pairs."""
    assert "unpair = true" in explained(["kto"], [make_group(0, server.base_digest, server)])


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired", "npo", "c_rlft"])
def test_a_round_learns_from_choices(name: str, server: FakeServer, make_learner: MakeLearner) -> None:
    """Nobody gives a thumb; what was chosen becomes likelier than what was not."""
    for group in list(server.groups.values()):
        assert group is not None
        server.tell(group.model_copy(update={"unpaired": []}))
    server.config["learner"] |= {"objectives": {name: 1.0}, "unpair": True, "max_kl": 50.0}
    assert make_learner().run() == 0
    (report,) = server.reports
    assert report.outcome == "uploaded", report.reason
    assert report.detail["after"]["margin"] > report.detail["before"]["margin"]
    (adapter,) = server.adapters.values()
    assert adapter[0].sources == {"choice": 8} and adapter[0].annotators == ["ann"]
