"""Every objective that TRL has: loss and gradients on the same batch equal TRL's.

TRL's own `_compute_loss` computes the value: it is called unbound, on a trainer that holds only what it reads, with a
model that answers with our log-probabilities. So gradients are compared at the log-probabilities, which is all that a
loss sees; that those are a model's is what `test_prefix` holds.

Exceptions, named: TRL has no `npo`, `mdpo` and `ppo` (checked by hand in `test_objectives`), and not those that
`test_pairwise` works out. The likelihoods of `cpo` and `orpo` are made in its forward passes, from token ids: the
contrast is compared, and the likelihood added by our own formula. `cdpo` left its
`DPOTrainer`; the formula lives on as the label smoothing of `CPOTrainer.cpo_loss`, which is used. Its `sft` weighs
tokens equally where ours weighs answers equally, so they are compared at one length. Its `rloo` takes a KL penalty off
the reward, ours adds it to the loss, so they are compared without one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.experimental.tpo import TPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import nanstd

from learner.objectives import OBJECTIVES, Batch, Objective
from learner.objectives.policy_gradient.advantages import ADVANTAGES
from tests.learner.batches import gradient, random_batch, with_length

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
SEEDS = range(3)


class OneProcess:
    """What TRL asks of accelerate."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True

    def gather(self, value: Tensor) -> Tensor:
        return value

    gather_for_metrics = gather

    def reduce(self, value: Tensor, reduction: str) -> Tensor:
        return value


def trainer(**changes: Any) -> Any:
    """A `self` for TRL's loss functions."""
    values: dict[str, Any] = {
        "accelerator": OneProcess(),
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return SimpleNamespace(**{**values, **changes})


def masked(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros(()))


def model(logprobs: Tensor) -> Any:
    """Answers with these log-probabilities, whatever it is asked."""
    blank = torch.zeros_like(logprobs)
    output = SimpleNamespace(log_probs=logprobs, entropy=blank, mean_logits=blank, is_top1=blank.bool())
    return lambda **_: output


def inputs(mask: Tensor) -> dict[str, Tensor]:
    """Ids and masks of rows with one prompt token before the answers."""
    ahead = torch.zeros(len(mask), 1, dtype=torch.long)
    whole = torch.cat([ahead, mask.long()], dim=1)
    return {"input_ids": whole.clone(), "attention_mask": torch.ones_like(whole), "completion_mask": whole}


# --- pairs ------------------------------------------------------------------------------------------------


def trl_dpo(
    batch: Batch, loss_type: str, beta: float, label_smoothing: float = 0.0, divergence: str = "reverse_kl"
) -> Tensor:
    order = torch.cat([batch.chosen, batch.rejected])
    reference = masked(batch.reference, batch.mask).sum(-1)
    self = trainer(
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=label_smoothing,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type=divergence,
        f_alpha_divergence_coef=0.3,
        args=SimpleNamespace(discopop_tau=0.05),
        use_weighting=False,
    )
    given = {
        **inputs(batch.mask[order]),
        "ref_chosen_logps": reference[batch.chosen],
        "ref_rejected_logps": reference[batch.rejected],
    }
    found: Tensor = DPOTrainer._compute_loss(
        self, model(masked(batch.logprobs, batch.mask)[order]), given, return_outputs=False
    )
    return found


def trl_cpo(batch: Batch, loss_type: str, *, beta: float, gamma: float, label_smoothing: float, mean: bool) -> Tensor:
    self = trainer(loss_type=loss_type, alpha=0.0, beta=beta, simpo_gamma=gamma, label_smoothing=label_smoothing)
    logps = masked(batch.logprobs, batch.mask).sum(-1)
    if mean:
        logps = logps / batch.mask.sum(-1)
    losses, _, _ = CPOTrainer.cpo_loss(self, logps[batch.chosen], logps[batch.rejected])
    found: Tensor = losses.mean()
    return found


def assert_equal(batch: Batch, objective: Objective, expected: Tensor) -> None:
    ours = objective.losses(batch).mean()
    torch.testing.assert_close(ours.detach(), expected.detach().to(ours.dtype), **TOLERANCE)
    found = gradient(ours, batch)
    torch.testing.assert_close(found, gradient(expected, batch), **TOLERANCE)
    assert found.abs().sum() > 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize(("name", "smoothing"), [("sigmoid", 0.0), ("ipo", 0.0), ("hinge", 0.0), ("robust", 0.2)])
def test_pairwise_objectives_are_trls(name: str, smoothing: float, beta: float, seed: int) -> None:
    """On answers of unlike length, by `DPOTrainer._compute_loss`."""
    batch = random_batch(seed)
    options = {"beta": beta, **({"label_smoothing": smoothing} if smoothing else {})}
    assert_equal(batch, OBJECTIVES[name](**options), trl_dpo(batch, name, beta, smoothing))


PLAIN = ["nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop", "sigmoid_norm"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize(("name", "smoothing"), [*((name, 0.0) for name in PLAIN), ("exo_pair", 1e-3), ("aot", 0.2)])
def test_more_pairwise_objectives_are_trls(name: str, smoothing: float, beta: float, seed: int) -> None:
    """Those of the later papers; `aot` on eight pairs, so that ranks matter."""
    batch = random_batch(seed, answers=16)
    options = {"beta": beta, **({"label_smoothing": smoothing} if smoothing else {})}
    assert_equal(batch, OBJECTIVES[name](**options), trl_dpo(batch, name, beta, smoothing))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"])
def test_f_divergences_are_trls(divergence: str, seed: int) -> None:
    """In DPO's place of the reverse KL, with α = .3."""
    batch = random_batch(seed)
    objective = OBJECTIVES["sigmoid"](beta=0.4, f_divergence=divergence, alpha=0.3)
    assert_equal(batch, objective, trl_dpo(batch, "sigmoid", 0.4, divergence=divergence))


@pytest.mark.parametrize("seed", SEEDS)
def test_sft_is_trls_where_answers_are_of_one_length(seed: int) -> None:
    """TRL's mean is over tokens, ours over answers."""
    batch = with_length(random_batch(seed), 3)
    assert_equal(batch, OBJECTIVES["sft"](), trl_dpo(batch, "sft", 0.1))


@pytest.mark.parametrize("seed", SEEDS)
def test_simpo_is_trls(seed: int) -> None:
    """By `CPOTrainer.cpo_loss` on mean log-probabilities, as its forward gives them."""
    batch = random_batch(seed)
    expected = trl_cpo(batch, "simpo", beta=2.0, gamma=1.0, label_smoothing=0.0, mean=True)
    assert_equal(batch, OBJECTIVES["simpo"](), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_cdpo_is_trls_label_smoothing(seed: int) -> None:
    """`CPOTrainer.cpo_loss` keeps the formula; a reference of log-probability 0 makes it CPO's."""
    batch = random_batch(seed)
    batch = replace(batch, reference=torch.zeros_like(batch.reference))
    expected = trl_cpo(batch, "sigmoid", beta=0.3, gamma=0.0, label_smoothing=0.1, mean=False)
    assert_equal(batch, OBJECTIVES["cdpo"](beta=0.3), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_cpos_contrast_is_trls(seed: int) -> None:
    """Of whole answers."""
    batch = random_batch(seed)
    expected = trl_cpo(batch, "sigmoid", beta=0.3, gamma=0.0, label_smoothing=0.0, mean=False)
    assert_equal(batch, OBJECTIVES["cpo"](beta=0.3, nll_weight=0.0), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_orpos_odds_ratio_is_trls(seed: int) -> None:
    """By `ORPOTrainer.odds_ratio_loss` on mean log-probabilities; answers that are nearly certain are among them."""
    batch = random_batch(seed)
    with torch.no_grad():
        batch.logprobs[0] /= 1000
    mean = masked(batch.logprobs, batch.mask).sum(-1) / batch.mask.sum(-1)
    contrast = ORPOTrainer.odds_ratio_loss(trainer(beta=0.7), mean[batch.chosen], mean[batch.rejected])[0]
    assert_equal(batch, OBJECTIVES["orpo"](odds_weight=0.7), -mean[batch.chosen].mean() - contrast.mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_tpo_is_trls_where_answers_are_of_one_length(seed: int) -> None:
    """By `TPOTrainer._compute_loss` on logits of two words, the first of which was said."""
    batch = with_length(random_batch(seed), 3)
    batch = replace(batch, gold=torch.tensor([0, 3, 5]))
    order = torch.cat([batch.chosen, batch.rejected, batch.gold])  # type: ignore[list-item]
    logprobs = masked(batch.logprobs, batch.mask)[order]
    logits = torch.stack([logprobs, torch.log(-torch.expm1(logprobs))], dim=-1)
    logits = torch.cat([logits, torch.zeros(len(order), 1, 2)], dim=1)
    self = trainer(tpo_alpha=0.6, beta=0.3, loss_type="sigmoid", label_smoothing=0.0)
    mask = inputs(batch.mask[order])["completion_mask"]
    given = {"input_ids": torch.zeros_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    expected = TPOTrainer._compute_loss(self, lambda **_: SimpleNamespace(logits=logits), given, return_outputs=False)
    assert_equal(batch, OBJECTIVES["tpo"](beta=0.3, nll_weight=0.6), expected)


# --- thumbs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_kto_is_trls(seed: int) -> None:
    """With its reference point from mismatched answers, and both weights; by `KTOTrainer._compute_loss`."""
    batch = random_batch(seed)
    logps = masked(batch.logprobs, batch.mask)
    reference = masked(batch.reference, batch.mask).sum(-1)
    apart = logps.detach().sum(-1)[batch.mismatched]
    self = trainer(
        _compute_kl_logps=lambda *_: apart,
        calculate_KL=True,
        precompute_ref_logps=True,
        loss_type="kto",
        beta=0.4,
        desirable_weight=1.5,
        undesirable_weight=0.7,
    )
    given = {
        **inputs(batch.mask),
        "label": batch.desirable,
        "ref_logps": reference,
        "ref_KL_logps": reference[batch.mismatched],
    }
    expected = KTOTrainer._compute_loss(self, model(logps), given, return_outputs=False)
    assert_equal(batch, OBJECTIVES["kto"](beta=0.4, desirable_weight=1.5, undesirable_weight=0.7), expected)


# --- rewards ----------------------------------------------------------------------------------------------


def trl_grpo(batch: Batch, advantages: Tensor, correction: Tensor, loss_type: str, **changes: Any) -> Tensor:
    options: dict[str, Any] = {
        "delta": None,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "use_bias_correction_kl": False,
        "steps_per_generation": 1,
    }
    values: dict[str, Any] = {
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "use_vllm": True,
        "vllm_importance_sampling_correction": True,
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": 256,
        "_entropy_bonus_enabled": False,
    }
    logprobs = masked(batch.logprobs, batch.mask)
    self = trainer(
        loss_type=loss_type,
        args=SimpleNamespace(**{**options, **{k: v for k, v in changes.items() if k in options}}),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        **{**values, **{k: v for k, v in changes.items() if k in values}},
    )
    ids = batch.mask.long()
    given = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": ids,
        "advantages": advantages,
        "old_per_token_logps": masked(batch.references["previous"], batch.mask),
        "ref_per_token_logps": masked(batch.reference, batch.mask),
        "importance_sampling_ratio": correction,
        "num_items_in_batch": batch.mask.sum(),
    }
    found: Tensor = GRPOTrainer._compute_loss(self, model(logprobs), given)
    return found


def truncated(batch: Batch, most: float) -> Tensor:
    """TRL's `token_truncate`: its lines of `_generate_and_score_completions`."""
    assert batch.rewarded is not None
    gap = masked(batch.references["previous"] - batch.rewarded.sampled, batch.mask)
    return torch.clamp(torch.exp(gap), max=most)


GROUPS = [
    ("grpo", {}, {}),
    ("grpo", {"epsilon_high": 0.28}, {"epsilon_high": 0.28}),
    ("grpo", {"kl": 0.04}, {"beta": 0.04}),
    ("grpo", {"delta": 1.1}, {"delta": 1.1}),
    ("grpo", {"importance_sampling_level": "sequence"}, {"importance_sampling_level": "sequence"}),
    ("dr_grpo", {"max_length": 256}, {}),
    ("bnpo", {}, {}),
    ("dapo", {}, {"epsilon_high": 0.28}),
    ("cispo", {}, {"epsilon_high": 5.0}),
    ("cispo", {"epsilon_high": 1.05}, {"epsilon_high": 1.05}),
    ("sapo", {}, {}),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("name", "options", "changes"), GROUPS)
def test_policy_gradients_are_trls(name: str, options: dict[str, Any], changes: dict[str, Any], seed: int) -> None:
    """Old and sampling policies differ from the present one, so that clips and truncation both bite."""
    batch = random_batch(seed)
    objective = OBJECTIVES[name](**options, tis=1.2, sequence_mask=1e9)
    assert batch.rewarded is not None
    advantages = ADVANTAGES[objective.advantage](batch.rewarded.rewards, batch.rewarded.groups)  # type: ignore[attr-defined]
    expected = trl_grpo(batch, advantages, truncated(batch, 1.2), name, **changes)
    assert_equal(batch, objective, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_rloo_is_trls(seed: int) -> None:
    """By `RLOOTrainer._compute_loss`, which knows no other sampling policy than the old one."""
    batch = random_batch(seed)
    assert batch.rewarded is not None
    old = batch.references["previous"]
    batch = replace(batch, rewarded=replace(batch.rewarded, sampled=old))
    logprobs = masked(batch.logprobs, batch.mask)
    grouped = batch.rewarded.rewards.view(2, -1) if batch.rewarded else torch.empty(0)
    others = (grouped.sum(1, keepdim=True) - grouped) / (grouped.shape[1] - 1)  # its lines, without NaN
    self = trainer(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        epsilon_low=0.2,
        epsilon_high=0.2,
    )
    ids = batch.mask.long()
    given = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": ids,
        "advantages": (grouped - others).flatten(),
        "old_logps": masked(old, batch.mask).sum(-1),
    }
    expected = RLOOTrainer._compute_loss(self, model(logprobs), given)
    assert_equal(batch, OBJECTIVES["rloo"](), expected)


def test_group_normalised_advantages_are_trls() -> None:
    """Its mean, its sample standard deviation, and its 1e-4, on groups of four."""
    rewards = torch.randn(12, generator=torch.Generator().manual_seed(3))
    grouped = rewards.view(-1, 4)
    expected = (grouped - torch.nanmean(grouped, dim=1, keepdim=True)) / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)
    found = ADVANTAGES["normalised"](rewards, torch.arange(12) // 4)
    torch.testing.assert_close(found, expected.flatten(), **TOLERANCE)
