"""The pairwise losses of the later papers, against numbers worked out by hand.

`make_batch` has answers 0, 1, 2 of 2, 1, 2 tokens with Δ = 1, -1.5, .4 and log π = -2, -2, -1.6; its pairs are 0 ≻ 1,
which a person said, and 2 ≻ 1, which a rule did. What TRL has too is held equal to it in `test_parity_trl`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from learner.examples import Answer, Example, PairExample
from learner.objectives import OBJECTIVES, Batch, Rewarded
from learner.objectives.pairwise import PAIRWISE
from learner.objectives.pairwise.agreement import agreement
from tests.learner.batches import gradient, make_batch, random_batch

ELSEWHERE = {"sigmoid", "ipo", "hinge", "cdpo", "robust", "simpo", "mdpo", "rdpo", "cross_modality", "sft"}
"""In `test_objectives` and `test_images`."""
NAMES = [name for name in PAIRWISE if name not in ELSEWHERE]


def surprise(x: float) -> float:
    """−log σ(x)."""
    return math.log1p(math.exp(-x))


def losses(name: str, batch: Batch | None = None, **options: Any) -> list[float]:
    return OBJECTIVES[name](**options).losses(make_batch() if batch is None else batch).tolist()  # type: ignore[no-any-return]


def near(expected: list[float]) -> Any:
    return pytest.approx(expected, rel=1e-5)


BY_HAND: list[tuple[str, dict[str, Any], list[float]]] = [
    ("cpo", {"beta": 0.5, "nll_weight": 2.0}, [surprise(0) + 2 * 1, surprise(0.5 * 0.4)]),
    ("tpo", {"beta": 0.5, "nll_weight": 2.0}, [surprise(0) + 2 * 1, surprise(0.5 * 0.4)]),
    ("flex", {"beta": 0.5, "rejected_share": 0.2}, [surprise(0.5 * (1 + 0.3)), surprise(0.5 * (0.4 + 0.3))]),
    ("dpop", {"beta": 0.5}, [surprise(0.5 * 2.5), surprise(0.5 * 1.9)]),
    ("xpo", {"beta": 0.5}, [surprise(0.5 * 2.5), surprise(0.5 * 1.9)]),
    ("sppo_hard", {"beta": 0.5}, [0.0 + 0.5**2, 0.6**2 + 0.5**2]),
    ("sppo", {"beta": 0.5}, [(0.5**2 + 1) / 2, (0.1**2 + 1) / 2]),
    ("irepo", {"beta": 0.5}, [(math.log(3) - 1.25) ** 2, (math.log(3) - 0.95) ** 2]),
    ("tdpo1", {"beta": 0.5}, [surprise(0.5 * (2.5 + 0.5)), surprise(0.5 * (1.9 + 0.5))]),
    ("tdpo2", {"beta": 0.5, "alpha": 0.4}, [surprise(0.5 * (2.5 + 0.2)), surprise(0.5 * (1.9 + 0.2))]),
]


@pytest.mark.parametrize(("name", "options", "expected"), BY_HAND)
def test_losses_by_hand(name: str, options: dict[str, Any], expected: list[float]) -> None:
    """One opinion about a pair makes P ¾; the divergences of the answers are .5 a token."""
    assert losses(name, **options) == near(expected)


def test_orpo_by_hand() -> None:
    """Geometric means e⁻¹, e⁻², e⁻·⁸: their odds, and the likelihood of what a person preferred."""
    odds = [math.exp(x) / (1 - math.exp(x)) for x in (-1, -2, -0.8)]
    expected = [1 + 0.3 * surprise(math.log(odds[0] / odds[1])), 0.3 * surprise(math.log(odds[2] / odds[1]))]
    assert losses("orpo", odds_weight=0.3) == near(expected)


def test_dpop_charges_a_chosen_answer_for_what_it_lost() -> None:
    """1 ≻ 0: h = -2.5 and Δ_w = -1.5, λ = 4 within β; descent raises the answer more than DPO's does."""
    batch = replace(make_batch(), chosen=torch.tensor([1]), rejected=torch.tensor([0]))
    assert losses("dpop", batch, beta=0.5, penalty=4.0) == near([surprise(0.5 * (-2.5 - 4 * 1.5))])
    pulls = [gradient(OBJECTIVES[name](beta=0.5).losses(batch).sum(), batch)[1, 0] for name in ("sigmoid", "dpop")]
    assert pulls[1] < pulls[0] < 0


def test_xpo_lowers_what_base_said() -> None:
    """Base drew answer 1, then 0 and 1, of which each counts half; the others are plain DPO's."""
    plain = losses("sigmoid", beta=0.5)
    batch = replace(make_batch(), drawn_by_base=torch.tensor([False, True, False, True]))
    assert losses("xpo", batch, beta=0.5, optimism=0.1) == near([plain[0] - 0.1 * 2, plain[1] - 0.1 * 2])
    batch = replace(batch, drawn_by_base=torch.tensor([True, True, False, False]))
    assert losses("xpo", batch, beta=0.5, optimism=0.1) == near([plain[0] - 0.1 * (2 + 2) / 2, plain[1] - 0.1 * 2])
    drawn = replace(batch, drawn_by_base=torch.tensor([True, False, False, False]))
    pulls = [
        gradient(OBJECTIVES["xpo"](beta=0.5, optimism=0.1).losses(one).sum(), one)[0, 0]
        for one in (make_batch(), drawn)
    ]
    assert pulls[1] - pulls[0] == pytest.approx(0.1), "its likelihood costs"


def test_tpo_learns_from_what_was_typed() -> None:
    """Gold is answer 2 of the first pair, with a mean of -.8; it alone gets the likelihood's gradient."""
    batch = replace(make_batch(), gold=torch.tensor([2, 2]))
    assert losses("tpo", batch, beta=0.5, nll_weight=2.0) == near([surprise(0) + 2 * 0.8, surprise(0.2)])
    found = gradient(OBJECTIVES["tpo"](nll_weight=2.0).losses(batch)[:1].sum(), batch)
    assert found[2].tolist() == near([-1.0, -1.0])


def test_gold_is_what_the_pairs_own_person_typed() -> None:
    """Else what somebody typed, else the chosen answer."""

    def answer(name: str, *, is_human: bool) -> Answer:
        return Answer(name, (5, 6), "stop", may_be_positive=True, is_human=is_human)

    answers = (*(answer(name, is_human=False) for name in "ab"), *(answer(name, is_human=True) for name in "cd"))
    ann, bob, eve = (PairExample(0, 1, 1.0, "choice", name) for name in ("ann", "bob", "eve"))
    typed = (PairExample(2, 0, 1.0, "correction", "ann"), PairExample(3, 0, 1.0, "correction", "bob"))
    example = Example("g", (2,), (), answers, (ann, bob, eve, *typed), ())
    assert [example.gold(pair) for pair in example.pairs] == [2, 3, 2, 2, 3]
    assert Example("g", (2,), (), answers, (ann,), ()).gold(ann) == 0


def said(batch: Batch, *pairs: tuple[int, int]) -> Batch:
    """These pairs of answers, each by a person."""
    chosen, rejected = (torch.tensor(side) for side in zip(*pairs, strict=True))
    ones = torch.ones(len(pairs))
    return replace(batch, chosen=chosen, rejected=rejected, pair_weights=ones, endorsed=ones.bool())


def test_agreement_is_the_share_of_those_who_say_so() -> None:
    """Two of three, one of three, and one who is alone; ½ on each side before anybody spoke."""
    batch = said(make_batch(), (0, 1), (0, 1), (1, 0), (2, 1))
    assert agreement(batch, 0.5).tolist() == near([2.5 / 4, 2.5 / 4, 1.5 / 4, 1.5 / 2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sppo", lambda p, w, r: ((w - (p - 0.5) / 0.5) ** 2 + (r + (p - 0.5) / 0.5) ** 2) / 2),
        ("irepo", lambda p, w, r: (math.log(p / (1 - p)) - 0.5 * (w - r)) ** 2),
    ],
)
def test_targets_follow_how_many_agree(name: str, expected: Callable[[float, float, float], float]) -> None:
    """Where two of three agree, P is .625 for them and .375 for the third; nobody's margin grows without bound."""
    batch = said(make_batch(), (0, 1), (0, 1), (1, 0))
    assert losses(name, batch, beta=0.5) == near(
        [expected(0.625, 1, -1.5), expected(0.625, 1, -1.5), expected(0.375, -1.5, 1)]
    )
    found = gradient(OBJECTIVES[name](beta=0.5).losses(batch).sum(), batch)
    assert (found[0] > 0).all() and found[1, 0] < 0, "h = 2.5 is above what 2 of 3 are worth"


def test_bco_shifts_by_the_mean_reward() -> None:
    """With β .5 rewards .5, .2 and -.75, -.75: δ = ½ (.35 - .75); detached, so that only the slopes change."""
    delta = (0.35 - 0.75) / 2
    expected = [surprise(0.5 - delta) + surprise(delta + 0.75), surprise(0.2 - delta) + surprise(delta + 0.75)]
    assert losses("bco_pair", beta=0.5, shift=True) == near(expected)
    batch = make_batch()
    found = gradient(OBJECTIVES["bco_pair"](beta=0.5, shift=True).losses(batch).sum(), batch)
    assert float(found[0, 0]) == pytest.approx(-0.5 / (1 + math.exp(0.5 - delta)), rel=1e-5)


def test_aot_compares_equal_ranks() -> None:
    """The policy's margins 0 and .4 rank as they stand, the reference's -2.5 and -1.5: differences 2.5 and 1.9.

    With the pairs' own references 1 ≻ 2 in place of 2 ≻ 1 the ranks cross, and it is another loss than DPO's.
    """
    assert losses("aot", beta=0.5) == near(losses("sigmoid", beta=0.5))
    crossed = said(make_batch(), (0, 1), (1, 2))
    assert losses("aot", crossed, beta=0.5) == near([surprise(0.5 * (0 - 1.5)), surprise(0.5 * (-0.4 + 2.5))])
    assert losses("aot", crossed, beta=0.5) != near(losses("sigmoid", crossed, beta=0.5))


@pytest.mark.parametrize(("tau", "raises"), [(0.05, False), (0.1, False), (0.105, True), (0.5, True)])
def test_discopop_at_the_reference_begins_the_right_way_for_a_large_tau_only(tau: float, raises: bool) -> None:
    """The slope at h = 0 is β [(1 − log 2)/(4τ) − ¾]."""
    made = make_batch()
    batch = replace(made, reference=made.logprobs.detach())
    step = -gradient(OBJECTIVES["discopop"](beta=0.5, tau=tau).losses(batch)[:1].sum(), batch)
    assert step[0].tolist() == pytest.approx([-0.5 * ((1 - math.log(2)) / (4 * tau) - 0.75)] * 2, rel=1e-4)
    assert bool(step[0, 0] > 0) == raises


def with_previous(batch: Batch, *below: float) -> Batch:
    """π_old is so much below π_θ at each token of the answers."""
    gap = torch.tensor(below)[:, None]
    return replace(batch, references={"previous": batch.logprobs.detach() - gap, "base": batch.reference})


def test_trpa_by_hand() -> None:
    """ℓ = .5, -1.5, .2; both chosen answers are of the highest level; k3 of gap g is e^(−g) + g − 1."""
    batch = with_previous(make_batch(), 0.5, 0.0, -1.0, 0.0)
    k3 = [math.exp(-0.5) + 0.5 - 1, 0.0, math.exp(1.0) - 1 - 1]
    expected = [surprise(1.25 * 2) + 0.1 * k3[0] / 2, surprise(1.25 * 1.7) + 0.1 * k3[2] / 2]
    assert losses("trpa", batch, beta=0.5, kl=0.1) == near(expected)
    ranked = with_previous(said(make_batch(), (0, 2), (2, 1)), 0.0, 0.0, 0.0, 0.0)
    expected = [surprise(2.5 * 0.5 * 0.3), surprise(0.5 * 1.7)]
    assert losses("trpa", ranked, beta=0.5) == near(expected), "2 is beaten: its pair is of a lower level"


def test_trpa_stays_near_the_old_policy() -> None:
    """Far from it, the trust region pulls back against the preference."""
    batch = with_previous(make_batch(), 3.0, 0.0, 0.0, 0.0)
    free, held = (gradient(OBJECTIVES["trpa"](kl=kl).losses(batch)[:1].sum(), batch)[0, 0] for kl in (0.0, 10.0))
    assert free < 0 < held


def test_mrpo_by_hand() -> None:
    """Log p_2 = -3, -.5, -2 (main); p_1 lies where π_θ does, -2 and -2, and is kept near it; α = .4."""
    batch = with_previous(make_batch(), 0.0, 0.0, 0.0, 0.0)
    second, main = (-2.0, -2.0), (-3.0, -0.5)
    size = [abs(a + b) / 2 for a, b in zip(second, main, strict=True)]
    mixed = []
    for share, a, b in zip(size, second, main, strict=True):
        reach = 0.3 * share / sum(size) * abs(b)
        kept = min(max(a, b - reach), b + reach)
        mixed.append(kept + b - math.log(0.4 * math.exp(kept) + 0.6 * math.exp(b)))
    expected = surprise(0.5 * ((-2 - mixed[0]) - (-2 - mixed[1])))
    assert losses("mrpo", batch, beta=0.5, clip=0.3, alpha=0.4)[0] == pytest.approx(expected, rel=1e-5)


def test_mrpos_own_share_is_that_of_who_tells_the_answers_apart() -> None:
    """A second reference that does not (a_1 = 0) counts fully, α = 0: p = p_1. The same twice is DPO.

    Its -2 for both answers is within reach of -3, and for the other brought up to -.665.
    """
    batch = with_previous(make_batch(), 0.0, 0.0, 0.0, 0.0)
    kept = -0.5 - 0.99 * 1.25 / 3.75 * 0.5
    assert losses("mrpo", batch, beta=0.5, clip=0.99)[0] == pytest.approx(surprise(0.5 * (0 + 2 + kept)), rel=1e-4)
    same = replace(batch, references={"previous": batch.reference})
    assert losses("mrpo", same, beta=0.5) == near(losses("sigmoid", beta=0.5))


def test_mnpo_by_hand() -> None:
    """Margins: policy 0 and .4, main and base -2.5 and -1.5, previous as the policy; c = .25, λ = .75, .25."""
    batch = with_previous(make_batch(), 0.0, 0.0, 0.0, 0.0)
    expected = [(m - 0.25 * r - 0.75 * (0.75 * m + 0.25 * r) - 2.0) ** 2 for m, r in ((0.0, -2.5), (0.4, -1.5))]
    assert losses("mnpo", batch, eta=0.25, ratio=0.25, previous_weight=3.0, base_weight=1.0) == near(expected)


def rewarded(batch: Batch, *rewards: float) -> Batch:
    count = len(rewards)
    of_answers = Rewarded(
        answers=torch.arange(count),
        groups=torch.zeros(count, dtype=torch.long),
        rewards=torch.tensor(rewards),
        weights=torch.ones(count),
        sampled=torch.zeros(count, 2),
        step_length=1.0,
        round_length=1.0,
    )
    return replace(batch, rewarded=of_answers)


def test_prdp_by_hand() -> None:
    """Δ = 1, -1.5, .4 with rewards 1, 0, .5 at β .5: errors -1, -1.5, -.6; each answer has half of its two pairs."""
    batch = rewarded(with_previous(make_batch(), 0.0, 0.0, 0.0, 0.0), 1.0, 0.0, 0.5)
    pairs = [(0.5**2, 0.4**2), (0.5**2, 0.9**2), (0.4**2, 0.9**2)]
    assert losses("prdp", batch, beta=0.5) == near([sum(one) / 4 for one in pairs])


def test_prdp_gains_nothing_by_going_further_than_the_bound() -> None:
    """Answer 0 moved by .5 a token towards its target, .2 allowed: the larger error counts, without a gradient."""
    batch = rewarded(with_previous(make_batch(), 0.5, 0.0, 0.0, 0.0), 2.0, 0.0)
    error = (1 - 2 * 0.3) + 1.5 - 4
    assert losses("prdp", batch, beta=0.5) == near([error**2 / 2, error**2 / 2])
    assert (gradient(OBJECTIVES["prdp"](beta=0.5).losses(batch).sum(), batch)[0] == 0).all()


def test_tdpo_charges_the_divergence_of_rejected_answers() -> None:
    """By its gradient: both lower the KL of rejected answers, TDPO1 raises that of chosen ones."""
    for name, raises in (("tdpo1", True), ("tdpo2", False)):
        kl = torch.rand(4, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
        batch = replace(make_batch(), statistics={"reference_kl": kl})
        (found,) = torch.autograd.grad(OBJECTIVES[name]().losses(batch).sum(), kl)
        assert found[1, 0] > 0 and found[1, 1] == 0, "padding counts for nothing"
        assert (found[0] < 0).all() if raises else (found[0] == 0).all()


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence", "alpha_divergence"])
def test_another_divergence_is_another_loss(divergence: str) -> None:
    """And descends in the same direction; far from the reference it stays finite."""
    batch = random_batch()
    objective = OBJECTIVES["sigmoid"](beta=0.5, f_divergence=divergence)  # type: ignore[call-arg]
    assert objective.losses(batch).tolist() != near(losses("sigmoid", batch, beta=0.5))
    step = -gradient(objective.losses(batch).sum(), batch)
    assert (step[batch.chosen][batch.mask[batch.chosen]] >= 0).all()
    assert (step[batch.rejected][batch.mask[batch.rejected]] <= 0).all()
    with torch.no_grad():
        batch.logprobs[0] -= 500
    assert torch.isfinite(objective.losses(batch)).all()
    assert torch.isfinite(gradient(objective.losses(batch).sum(), batch)).all()


def test_objectives_that_are_alike_at_an_edge_differ_inside() -> None:
    """Each configuration that is another method, with and without what makes it one."""
    batch = random_batch(1)
    dpo = losses("sigmoid", batch)
    for name, edge in (("flex", {"rejected_share": 1.0}), ("dpop", {"penalty": 0.0}), ("xpo", {"optimism": 0.0})):
        assert losses(name, batch, **edge) == near(dpo)
    drawn = replace(batch, drawn_by_base=torch.ones(6, dtype=torch.bool))
    for name, options in (("flex", {}), ("dpop", {}), ("xpo", {"optimism": 0.1}), ("tdpo1", {}), ("tdpo2", {})):
        assert losses(name, drawn, **options) != near(dpo)
