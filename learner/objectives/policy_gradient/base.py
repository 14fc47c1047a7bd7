"""What the policy-gradient objectives share: ratios, advantages, the off-policy correction, and the KL term.

π_old is the policy at the round's beginning (reference `previous`), π_sampled whatever drew the answer: an older
adapter, in the engine's arithmetic. ρ = π_θ/π_old is clipped as the objective says; π_old/π_sampled corrects for
the rest, detached: truncated at each token (Yao et al. 2025, https://fengyao.notion.site/off-policy-rl), and an
answer whose whole ratio is beyond `sequence_mask` is left out (TRL's `sequence_mask`). Hilton et al. 2021,
https://arxiv.org/abs/2110.00641, separate the two policies in the same way.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from learner.objectives.base import Batch, Needs, Objective, Rewarded
from learner.objectives.policy_gradient.advantages import ADVANTAGES
from learner.objectives.policy_gradient.filtration import FILTRATIONS, draws
from learner.objectives.policy_gradient.values import advantages


@dataclass(frozen=True, slots=True)
class Drawn:
    """The rewarded answers' rows of a batch: R answers of at most T tokens. Everything is 0 outside the mask."""

    logprobs: Tensor  # (R, T) with gradient
    reference: Tensor  # (R, T)
    old: Tensor  # (R, T)
    sampled: Tensor  # (R, T)
    mask: Tensor  # (R, T)
    rewarded: Rewarded

    @property
    def lengths(self) -> Tensor:
        """(R,), 1 at least."""
        return self.mask.sum(-1).clamp(min=1)


def drawn(batch: Batch, rewarded: Rewarded) -> Drawn:
    mask = batch.mask[rewarded.answers]

    def rows(values: Tensor) -> Tensor:
        return values.masked_fill(~mask, 0.0)

    answers = rewarded.answers
    return Drawn(
        logprobs=rows(batch.logprobs[answers]),
        reference=rows(batch.reference[answers]),
        old=rows(batch.references["previous"][answers]),
        sampled=rows(rewarded.sampled),
        mask=mask,
        rewarded=rewarded,
    )


class PolicyGradient(Objective):
    """The losses of one rewarded answer each. Subclasses give `token_losses` and, if need be, `aggregate`.

    Options that papers name: `advantage = "win_rate"` is Pref-GRPO (https://arxiv.org/abs/2508.20751),
    `multi_objective = "normalize_then_sum"` NVIDIA's GDPO (https://arxiv.org/abs/2601.05242), `reward = "gap"` PIT
    (https://arxiv.org/abs/2310.00898), `filtration` PF-PPO (https://arxiv.org/abs/2409.06957), `token_window` MixGRPO
    (https://arxiv.org/abs/2507.21802).
    """

    needs: ClassVar[Needs] = Needs.REWARDED
    references: ClassVar[tuple[str, ...]] = ("previous",)

    advantage: str = "normalised"
    """Name in `ADVANTAGES`."""
    reward: Literal["value", "gap"] = "value"
    """`gap`: what an answer is worth is its gap to the base's answer, or to the one drawn first, not to the mean."""
    multi_objective: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """`normalize_then_sum`: an advantage from each scorer's own values, then their sum."""
    reward_weights: Mapping[str, Annotated[float, Field(ge=0)]] = {}
    """By scorer, where they are told apart; 1 for those that are not named."""
    filtration: str = "none"
    """Name in `FILTRATIONS`: which answers of a group count, by their rewards."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of a bonus on the mean entropy of an answer's tokens."""
    token_window: int = Field(0, ge=0)
    """Only so many neighbouring tokens of an answer are learned from in a step, further on in each; 0: all are."""
    window_stride: int | None = Field(None, ge=1)
    """Tokens by which the window moves on in a step; None: its own width."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """`sequence` is GSPO (https://arxiv.org/abs/2507.18071): one length-normalised ratio for an answer."""
    kl: float = Field(0.0, ge=0)
    """Weight of KL(π_θ ‖ π_ref) at each token, by Schulman's estimator k3."""
    tis: float = Field(2.0, gt=0)
    """A token's π_old/π_sampled is truncated at this."""
    sequence_mask: float = Field(3.0, gt=0)
    """An answer whose π_old/π_sampled is above this is left out."""

    @field_validator("advantage")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in ADVANTAGES:
            raise ValueError(f"no advantage is called {name!r}; there are: {', '.join(ADVANTAGES)}")
        return name

    @field_validator("filtration")
    @classmethod
    def _is_a_filtration(cls, name: str) -> str:
        if name != "none" and name not in FILTRATIONS:
            raise ValueError(f"no filtration is called {name!r}; there are: none, {', '.join(FILTRATIONS)}")
        return name

    @model_validator(mode="after")
    def _can_be_together(self) -> PolicyGradient:
        if self.reward == "gap" and self.advantage not in {"normalised", "centred"}:
            raise ValueError(f'reward = "gap" has a baseline of its own: advantage = "{self.advantage}" has another')
        if self.reward_weights and self.multi_objective != "normalize_then_sum" and self.advantage != "win_rate":
            raise ValueError('reward_weights need multi_objective = "normalize_then_sum", or advantage = "win_rate"')
        if self.window_stride is not None and not self.token_window:
            raise ValueError("window_stride needs a token_window")
        return self

    @property
    def statistics(self) -> tuple[str, ...]:
        return ("entropy",) if self.entropy_coef else ()

    def losses(self, batch: Batch) -> Tensor:
        """One loss for each rewarded answer, (R,)."""
        if batch.rewarded is None:
            return batch.logprobs.new_zeros(0)
        rewarded = batch.rewarded
        rows = drawn(batch, rewarded)
        worth = advantages(rewarded, self.advantage, self.reward, self.multi_objective, self.reward_weights)
        losses = self.token_losses(rows, self._ratio(rows), worth[:, None]) * self.correction(rows)
        if self.kl:
            gap = rows.reference - rows.logprobs
            losses = losses + self.kl * (torch.exp(gap) - gap - 1)
        learned = replace(rows, mask=self._window(rows))
        found = self.aggregate(losses.expand_as(rows.mask) * learned.mask, learned)
        if self.entropy_coef:
            entropy = batch.statistics["entropy"][rewarded.answers].masked_fill(~learned.mask, 0.0)
            found = found - self.entropy_coef * entropy.sum(-1) / learned.lengths
        if self.filtration != "none":
            shares = FILTRATIONS[self.filtration](rewarded.rewards, rewarded.groups)
            found = found * draws(shares, rewarded.groups).to(found.dtype)
        return found

    def _window(self, rows: Drawn) -> Tensor:
        """(R, T) bool: the tokens that this step learns from.

        MixGRPO's window moves along the denoising steps as training goes on; this one along the answer, and behind its
        end begins anew: every answer has its part in every step.
        """
        if not self.token_window:
            return rows.mask
        start = rows.rewarded.step * (self.window_stride or self.token_window) % rows.lengths[:, None]
        places = torch.arange(rows.mask.shape[1], device=rows.mask.device)
        return rows.mask & (places >= start) & (places < start + self.token_window)

    def _ratio(self, rows: Drawn) -> Tensor:
        """(R, T), or (R, 1) at the level of the sequence."""
        gap = rows.logprobs - rows.old
        if self.importance_sampling_level == "sequence":
            gap = (gap.sum(-1) / rows.lengths)[:, None]
        return torch.exp(gap)

    @torch.no_grad()
    def correction(self, rows: Drawn) -> Tensor:
        """min(π_old/π_sampled, tis) of every token, 0 throughout an answer that is too far off. (R, T)."""
        gap = rows.old - rows.sampled
        near = gap.sum(-1, keepdim=True) <= torch.log(gap.new_tensor(self.sequence_mask))
        return torch.exp(gap).clamp(max=self.tis) * near

    @abstractmethod
    def token_losses(self, rows: Drawn, ratio: Tensor, advantages: Tensor) -> Tensor:
        """The surrogate at each token: (R, T), or (R, 1) at the level of the sequence. `advantages` is (R, 1)."""

    def aggregate(self, losses: Tensor, rows: Drawn) -> Tensor:
        """(R, T), 0 outside the mask → (R,). Here: the mean over the answer's tokens."""
        return losses.sum(-1) / rows.lengths


class Clipped(PolicyGradient):
    """PPO's clipped surrogate, https://arxiv.org/abs/1707.06347, eq. 7."""

    epsilon: float = Field(0.2, gt=0, lt=1)
    epsilon_high: float | None = Field(None, gt=0)
    """Upper bound; None: the lower one's."""
    delta: float | None = Field(None, gt=0)
    """Bound of the unclipped ratio too (two-sided clipping, https://arxiv.org/abs/2505.07291)."""

    def token_losses(self, rows: Drawn, ratio: Tensor, advantages: Tensor) -> Tensor:
        """−min(ρ A, clip(ρ, 1 − ε, 1 + ε_high) A)."""
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        clipped = ratio.clamp(1 - self.epsilon, 1 + high)
        bounded = ratio if self.delta is None else ratio.clamp(max=self.delta)
        return -torch.minimum(bounded * advantages, clipped * advantages)
