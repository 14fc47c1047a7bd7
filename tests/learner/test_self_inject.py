"""Negatives out of a round's own answers: what is put in, where, and of whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from learner.errors import SettingsError
from learner.examples import Limits, Wanted, prepare
from learner.material import Material
from learner.self_inject import Phrases
from learner.sentences import Cutter
from learner.settings import Settings, read_settings
from learner.spelling import Spelling
from learner.state import StateDir
from server.wire.identity import directory_digest
from server.wire.training import TrainingCandidate, TrainingConfig, TrainingGroup
from tests.learner.conftest import SETTINGS, MakeLearner
from tests.learner.fake_server import ALIAS, FakeServer, candidate
from tests.learner.test_objectives import config
from tests.learner.tiny import EOS, image_prompt, png

PIECES = ("", "", "red", " red", " blue", " green", " circle", " square", ".", ",", " and", " It", " is", " all")
SPELLING = Spelling([piece.encode() for piece in PIECES])
SEPARATORS = (*Settings().separators, ",", " and")


def ids(text: str) -> list[int]:
    found: list[int] = []
    while text:
        piece = max((piece for piece in PIECES[2:] if text.startswith(piece)), key=len)
        found.append(PIECES.index(piece))
        text = text[len(piece) :]
    return [*found, EOS]


def text(token_ids: tuple[int, ...] | list[int]) -> str:
    return b"".join(SPELLING.of(token_ids)).decode()


def group(name: str, *answers: str | TrainingCandidate, **changes: object) -> TrainingGroup:
    made = [
        candidate(f"{name}-{number}", ids(one)) if isinstance(one, str) else one for number, one in enumerate(answers)
    ]
    values = {
        "id": name,
        "alias": ALIAS,
        "generation": 1,
        "prompt_token_ids": [2, 3],
        "images": [],
        "base_digest": "0" * 64,
        "on_policy_sampling": True,
        "candidates": made,
    }
    return TrainingGroup(**{**values, **changes})


LENDERS = (
    group("b", "red circle, blue square."),
    group("c", "red circle, blue square."),
    group("d", "red circle, green square."),
)
LIMITS = Limits("0" * 64, 64, 512, 61)


def phrases(*groups: TrainingGroup, share: float = 1.0) -> Phrases:
    made = Phrases(Cutter(SPELLING, SEPARATORS), share)
    for one in groups:
        made.put(one)
    return made


def injected(own: TrainingGroup, *groups: TrainingGroup) -> str | None:
    negative = phrases(own, *groups).negative(own)
    return None if negative is None else text(negative.token_ids)


def test_a_later_name_gives_way_to_one_that_occurs_with_the_rest() -> None:
    """Never the first; tokens as they were sampled, with what ends the sentence and the sequence."""
    own = group("a", "red circle, red square.")
    negative = phrases(own, *LENDERS).negative(own)
    assert negative is not None and negative.token_ids[-1] == EOS and negative.chosen == "a-0"
    assert text(negative.token_ids) in {"red circle, blue square.", "red circle, green square."}
    assert negative.lender in {"b", "d"}, "the first that says it"
    assert list(negative.token_ids) == ids(text(negative.token_ids)), "as it would be sampled"


def test_what_occurs_together_more_often_is_likelier() -> None:
    """Two groups say the one beside a red circle, one the other: over many groups about two to one."""
    said = [injected(group(f"a{number}", "red circle, red square."), *LENDERS) for number in range(120)]
    blue = said.count("red circle, blue square.")
    assert 60 <= blue <= 100 and blue + said.count("red circle, green square.") == 120


def test_what_any_candidate_of_the_group_says_is_not_absent() -> None:
    """By its last two words, in whatever wording; of answers too that may not be learned from."""
    also = candidate("x", ids("red circle. It is blue square."), blocked=True)
    assert injected(group("a", "red circle, red square.", also), *LENDERS) == "red circle, green square."
    every = group("a", "red circle, red square.", also, "red circle, green square.")
    assert injected(every, *LENDERS) is None
    assert injected(group("a", "red circle, red square.")) is None, "nobody lends"


def test_a_sentence_stands_in_for_a_sentence_only() -> None:
    """And a name in a list for a name in a list."""
    talker = group("b", "red circle. It is all.")
    assert injected(group("a", "red circle, red square."), talker) is None
    assert injected(group("a", "red circle. It is red."), talker) == "red circle. It is all."


@pytest.mark.parametrize(
    "changes",
    [{"blocked": True}, {"may_be_positive": False}, {"adapter": "human"}, {"finish_reason": "length"}],
    ids=str,
)
def test_only_whole_own_answers_that_may_be_learned_from_take_part(changes: dict[str, object]) -> None:
    """As the answer that is preferred, and as the one that lends."""
    odd = candidate("x", ids("red circle, red square."), **changes)
    assert injected(group("a", odd), *LENDERS) is None
    lent = group("b", candidate("y", ids("red circle, blue square."), **changes))
    assert injected(group("a", "red circle, red square."), lent) is None


def test_the_best_answer_is_preferred() -> None:
    """Where answers have rewards."""
    ones = [
        candidate(f"c{n}", ids(f"red circle, {name} square."), total=float(n))
        for n, name in enumerate(("green", "red"))
    ]
    negative = phrases(own := group("a", *ones), *LENDERS).negative(own)
    assert negative is not None and negative.chosen == "c1"


def test_what_was_put_in_leaves_with_its_group() -> None:
    """The counts too: as if it had never been there."""
    own = group("a", "red circle, red square.")
    made, never = phrases(own, *LENDERS), phrases(own, *LENDERS[:2])
    made.drop("d")
    assert (made._lent, made._together, made._said) == (never._lent, never._together, never._said)
    made.drop("b")
    negative = made.negative(own)
    assert negative is not None and negative.lender == "c"
    made.drop("c")
    assert made.negative(own) is None
    made.put(own)
    assert made._together == phrases(own)._together, "told twice is told once"


def test_a_share_of_the_groups_has_a_negative() -> None:
    """Always the same ones."""
    owns = [group(f"a{number}", "red circle, red square.") for number in range(200)]
    made = phrases(*LENDERS, share=0.3)
    chosen = [one.id for one in owns if made.negative(one)]
    assert 40 <= len(chosen) <= 80
    assert chosen == [one.id for one in owns if made.negative(one)]


def test_a_negative_is_a_pair_that_nobody_endorsed() -> None:
    """It weighs what its source does, may never be a positive, and belongs to the group that lent."""
    own = group("a", "red circle, red square.")
    negative = phrases(own, *LENDERS).negative(own)
    assert negative is not None
    example = prepare(own, LIMITS, Wanted(source_weights={"self_inject": 0.5}), negative).example
    assert example is not None
    ((pair,), rejected) = example.pairs, example.answers[1]
    assert (pair.source, pair.weight, pair.is_endorsed, pair.annotator) == ("self_inject", 0.5, False, "")
    assert (rejected.token_ids, rejected.may_be_positive, rejected.owner) == (
        negative.token_ids,
        False,
        negative.lender,
    )
    assert prepare(own, LIMITS, Wanted(source_weights={"self_inject": 0.0}), negative).example is None
    short = Limits("0" * 64, 64, 5, 61)
    assert prepare(own, short, Wanted(), negative).skipped == ("longer than the model's context",)


def test_it_needs_an_objective_on_pairs() -> None:
    """Refused by name."""
    with pytest.raises(SettingsError, match="self_inject"):
        read_settings(config(objectives={"kto": 1.0}, self_inject=0.5))


# --- a round ----------------------------------------------------------------------------------------------


@pytest.fixture
def reading(base_dir: Path) -> Iterator[FakeServer]:
    """A server whose base has a vocabulary, and whose groups have rewards but no human word."""
    vocabulary = {f"<{place}>" if not piece else piece.replace(" ", "▁"): place for place, piece in enumerate(PIECES)}
    special = [{"id": place, "content": f"<{place}>", "special": True} for place in (0, EOS)]
    file = base_dir / "tokenizer.json"
    file.write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": special}))
    try:
        yield FakeServer(str(base_dir), directory_digest(base_dir), **SETTINGS)
    finally:
        file.unlink()


@pytest.fixture
def server(reading: FakeServer) -> FakeServer:
    for number in range(12):
        colour = ("red", "blue", "green")[number % 3]
        answers = [
            candidate(
                f"g{number:02d}-{place}", ids(f"red circle, {colour} square."), total=float(place), logprobs=[-1.0] * 7
            )
            for place in range(2)
        ]
        made = group(
            f"g{number:02d}",
            *answers,
            rewarded=True,
            base_digest=reading.base_digest,
            prompt_token_ids=list(image_prompt(4, words=(5, number))),
            images=[reading.add_image(png(number))],
        )
        reading.tell(made)
    reading.config["learner"] |= {
        "objectives": {"sigmoid": 1.0},
        "self_inject": 1.0,
        "separators": list(SEPARATORS),
        "token_mask": "sentence",
    }
    return reading


def test_a_round_without_any_human_signal(server: FakeServer, make_learner: MakeLearner) -> None:
    """Groups that were served anyway teach it; whoever lent a phrase was learned from."""
    assert make_learner().run() == 0, server.reports
    ((manifest, _),) = server.adapters.values()
    assert manifest.sources == {"self_inject": 12} and manifest.annotators == []
    (report,) = server.reports
    assert report.detail["after"]["margin"] > report.detail["before"]["margin"]
    assert len(manifest.groups) == 12


def test_an_erased_phrase_leaves_the_round(server: FakeServer, make_learner: MakeLearner) -> None:
    """With the pairs that it was put into: they get another one. A round that is resumed makes the same negatives."""
    learner = make_learner()
    directory = StateDir(learner._options.state / ALIAS)
    place = learner._open(directory)
    settings = read_settings(TrainingConfig(**server.config))
    place.follow_feed(settings.capacity)
    material, resumed = (Material(place, lambda: None) for _ in range(2))
    material.gather(place.replay.all(), settings, "base")
    plan = list(material.examples)
    resumed.gather([group for group in place.replay.all() if group.id in plan], settings, "base")
    assert resumed.examples == material.examples and len(plan) == 12
    place.dirty.clear()

    def borrowers(lenders: set[str]) -> set[str]:
        return {name for name, one in material.examples.items() if lenders & {answer.owner for answer in one.answers}}

    gone = {"g00", "g01"}
    borrowed = borrowers(gone) - gone
    for name in gone:
        server.erase(name)
    place.follow_feed(settings.capacity)
    assert borrowed and material.refresh(place.dirty, settings, plan) == gone | borrowed
    assert not borrowers(gone) and set(material.examples) == set(plan) - gone
    assert all(len(one.pairs) == 1 for one in material.examples.values())
    directory.close()
