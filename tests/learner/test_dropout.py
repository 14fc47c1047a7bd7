"""How sure the policy is of itself: passes with dropout, and the weights that follow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learner.batch import Collator
from learner.dropout import Dropout
from learner.model import Base, Policy
from learner.objectives import Batch
from learner.prefix import PrefixModel
from learner.references import References
from learner.settings import Settings
from learner.vision import Vision
from learner.weighting import WEIGHTINGS, Reliabilities
from tests.learner.batches import gradient, make_batch
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer
from tests.learner.test_recipes import examples, shake
from tests.learner.tiny import TARGETS


def bits(p: float) -> float:
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p) if 0 < p < 1 else 0.0


def test_bald_by_hand() -> None:
    """Nothing is lost where all passes say the same, sure or not; all but nothing where they firmly contradict."""
    passes = torch.tensor([[0.5, 0.9, 0.999, 0.8], [0.5, 0.9, 0.001, 0.4]])
    shares = WEIGHTINGS["mc_dropout"].shares(passes, torch.full((4,), 0.9))
    split = 1 - (bits(0.6) - (bits(0.8) + bits(0.4)) / 2)
    assert shares.keep.tolist() == pytest.approx([1.0, 1.0, bits(0.999), split], rel=1e-4) and shares.flip is None


def dropped_batch() -> Batch:
    """In one pass the first pair stands as it does without dropout (h = 2.5), in the other turned round (h = -2.5)."""
    batch = make_batch()
    turned = 2 * batch.reference - batch.logprobs.detach()
    return replace(batch, dropped=torch.stack([batch.logprobs.detach(), turned]))


def test_what_the_passes_contradict_each_other_about_weighs_less() -> None:
    """The first pair by 1 − BALD, the second, which a rule made, is believed as ever."""
    recipe = Settings(objectives={"sigmoid": 1.0}, beta=0.5, weighting={"pairs": "mc_dropout"}).recipe()
    assert recipe.needs_dropout and not Settings().recipe().needs_dropout
    batch = dropped_batch()
    p = 1 / (1 + math.exp(-1.25))
    expected = bits(p) * -math.log(p) + 0.25 * math.log1p(math.exp(-0.95))
    loss = recipe.loss(batch, Reliabilities(), 1)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    step = -gradient(loss, batch)
    assert (step[0] > 0).all() and step[1, 0] < 0, "the direction is the label's"


def test_thumbs_are_weighed_too() -> None:
    """By p = σ(±β(Δ − z)) in each pass."""
    recipe = Settings(objectives={"kto": 1.0}, beta=0.5, weighting={"unpaired": "mc_dropout"}).recipe()
    batch = dropped_batch()
    found = recipe.loss(batch, Reliabilities(), 1)
    total = 0.0
    for delta, sign, weight in ((1.0, 1, 1.0), (-1.5, -1, 2.0)):
        ones = [1 / (1 + math.exp(-sign * 0.5 * (one - 0.6))) for one in (delta, -delta)]
        total += weight * (1 - bits(sum(ones) / 2) + sum(map(bits, ones)) / 2) * (1 - ones[0])
    assert float(found.detach()) == pytest.approx(total, rel=1e-5)


# --- the passes -------------------------------------------------------------------------------------------


@pytest.fixture
def policy(base_dir: Path) -> Iterator[Policy]:
    policy = Policy.fresh(Base(base_dir, "cpu"), Settings(rank=2, target_modules=TARGETS), seed=1)
    shake(policy, 1)
    yield policy
    policy.close()


def batch_of(policy: Policy, server: FakeServer, base_dir: Path, rate: float, passes: int = 2) -> Batch:
    vision = Vision(policy.base.model, base_dir, server.images.__getitem__, 2**30)
    engine = PrefixModel(policy.model)
    dropout = Dropout(policy, engine, passes, rate) if passes else None
    references = References(policy, "base", begins_at_base=False)
    return Collator(references, engine, vision, 8192, dropout=dropout).batch(examples(server, 0, 1, 2))


def test_passes_differ_only_by_what_is_dropped(policy: Policy, server: FakeServer, base_dir: Path) -> None:
    """Almost nothing dropped is the policy itself; the same seed gives the same; nothing else notices."""
    before = torch.get_rng_state()
    none = batch_of(policy, server, base_dir, rate=1e-9)
    assert none.dropped is not None and none.dropped.shape == (2, *none.logprobs.shape)
    assert not none.dropped.requires_grad
    for one in none.dropped:
        torch.testing.assert_close(one, none.logprobs.detach(), rtol=1e-5, atol=1e-5)
    some, again = (batch_of(policy, server, base_dir, rate=0.3) for _ in range(2))
    assert some.dropped is not None and again.dropped is not None
    assert torch.equal(some.dropped, again.dropped) and not torch.allclose(some.dropped[0], some.dropped[1])
    torch.testing.assert_close(some.logprobs, none.logprobs)
    torch.testing.assert_close(some.reference, none.reference)
    assert torch.equal(before, torch.get_rng_state())


def test_the_adapter_alone_is_dropped(policy: Policy, server: FakeServer, base_dir: Path) -> None:
    """With a share of one all of it: that is the base."""
    batch = batch_of(policy, server, base_dir, rate=1.0)
    assert batch.dropped is not None
    for one in batch.dropped:
        torch.testing.assert_close(one, batch.reference, rtol=1e-5, atol=1e-5)


def test_without_the_weighting_there_are_no_passes(policy: Policy, server: FakeServer, base_dir: Path) -> None:
    """Nothing is computed."""
    assert batch_of(policy, server, base_dir, rate=0.1, passes=0).dropped is None


def test_a_round_by_it_is_uploaded(server: FakeServer, make_learner: MakeLearner) -> None:
    """On pairs and on thumbs."""
    server.config["learner"] |= {"weighting": {"pairs": "mc_dropout", "unpaired": "mc_dropout"}, "dropout": 0.3}
    assert make_learner().run() == 0, server.reports
    (report,) = server.reports
    assert report.detail["steps_discarded"] == 0
