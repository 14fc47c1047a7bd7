"""Where people change their minds, what they said last counts most."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.batch import Collator
from learner.evaluation import evaluate
from learner.examples import Answer, Example, PairExample, UnpairedExample
from learner.model import Base, Policy
from learner.prefix import PrefixModel
from learner.recency import aged
from learner.references import References
from learner.settings import Settings
from learner.vision import Vision
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer, make_group, pair
from tests.learner.tiny import EOS, TARGETS

ANSWERS = tuple(
    Answer(name, (token, EOS), "stop", may_be_positive=True, is_human=False) for name, token in (("a", 10), ("b", 20))
)
CHOICE = PairExample(0, 1, 1.0, "choice", "ann")
SAFETY = PairExample(1, 0, 0.5, "safety", "rules")
THUMB = UnpairedExample(0, True, 2.0, "bob")


def group(number: int, *pairs: PairExample, thumbs: tuple[UnpairedExample, ...] = ()) -> Example:
    return Example(f"g{number}", (2, 5, 6), (), ANSWERS, pairs, thumbs)


def test_an_opinion_counts_half_when_so_many_were_given_since() -> None:
    """A group is of one age; what rules say neither ages anybody nor counts as an opinion."""
    both = group(1, CHOICE, SAFETY, thumbs=(THUMB,))
    kept = aged([group(0, CHOICE), both, group(2, SAFETY), group(3, CHOICE)], 2)
    assert [one.recency for one in kept] == [pytest.approx(0.5**1.5), pytest.approx(0.5**0.5), 0.5**0.5, 1.0]


def test_ageing_twice_changes_nothing_and_none_undoes_it() -> None:
    """The round does it whenever something is erased in mid-round."""
    examples = [group(number, CHOICE) for number in range(5)]
    once = aged(examples, 3)
    assert aged(once, 3) == once
    assert aged(once, None) == examples
    assert aged(once[1:], 3) == once[1:]


def test_age_weighs_what_people_said_and_nothing_else(base_dir: Path, server: FakeServer) -> None:
    """In the batch that is trained on, and in how the round measures itself."""
    base = Base(base_dir, "cpu")
    policy = Policy.fresh(base, Settings(rank=2, target_modules=TARGETS), seed=1)
    with torch.no_grad():
        for tensor in policy.parameters.values():
            tensor.add_(0.3)
    engine = PrefixModel(policy.model)
    vision = Vision(base.model, base_dir, server.images.__getitem__, 2**30)
    collator = Collator(References(policy, "base", begins_at_base=True), engine, vision, 4096)
    old, new = aged([group(0, CHOICE, SAFETY, thumbs=(THUMB,)), group(1, CHOICE)], 1)
    batch = collator.batch([old, new])
    assert batch.pair_weights.tolist() == [0.5, 0.5, 1.0]  # the rule's weight is its own
    assert batch.unpaired_weights.tolist() == [1.0]
    apart = [evaluate(policy, engine, collator, [one], 1.0).standing for one in (group(0, CHOICE), group(1, SAFETY))]
    both = evaluate(policy, engine, collator, aged([group(0, CHOICE), *[group(1, CHOICE, SAFETY)]], 1), 1.0).standing
    weights = (0.5, 1.0, 1.0)  # an old choice, a new one, a rule
    margins = (apart[0].margin, apart[0].margin, apart[1].margin)
    expected = sum(weight * value for weight, value in zip(weights, margins, strict=True)) / sum(weights)
    assert apart[0].margin != 0
    assert both.margin == pytest.approx(expected, rel=1e-5)
    assert both.examples == 3
    policy.close()


@pytest.mark.parametrize("half_life", [6, None])
def test_a_round_follows_those_who_changed_their_minds(
    half_life: int | None, server: FakeServer, make_learner: MakeLearner
) -> None:
    """Twenty opinions of old and ten of the opposite since: the newest win where age counts, else the many."""
    server.entries.clear()
    for number in range(30):
        group = make_group(number, server.base_digest, server)
        chosen, rejected = group.candidates if number < 20 else reversed(group.candidates)
        said = [pair(chosen.id, rejected.id, annotator=f"user-{number % 6}")]
        server.tell(group.model_copy(update={"pairs": said, "unpaired": []}))
    server.config["learner"] |= {"half_life_signals": half_life, "validation_share": 0.0}
    assert make_learner().run() == 0, server.reports
    ((manifest, _),) = server.adapters.values()
    gained = [(one.candidate_id[-1], one.logprob - one.base_logprob) for one in manifest.fingerprint]
    for_the_old = sum(change if name == "a" else -change for name, change in gained)
    assert (for_the_old < 0) == (half_life is not None)
