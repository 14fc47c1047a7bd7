"""What an objective gets and gives: pure functions on log-probabilities and masks.

Notation of the docstrings: Δ = log π_θ(y|x) − log π_ref(y|x), summed over the answer's tokens; Δ_w, Δ_l for
chosen and rejected; h = Δ_w − Δ_l; σ the logistic function; β the inverse temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from torch import Tensor


class Needs(Enum):
    """The kind of example that an objective has a loss for."""

    PAIRS = "pairs"
    UNPAIRED = "unpaired"


@dataclass(frozen=True, slots=True)
class Options:
    """Constants of a round."""

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """A answers of at most T tokens, N pairs and M unpaired examples that point to them."""

    logprobs: Tensor  # (A, T) under the policy, with gradient
    reference: Tensor  # (A, T) under the reference
    mask: Tensor  # (A, T) bool, True at the answer's tokens

    chosen: Tensor  # (N,) index of an answer
    rejected: Tensor  # (N,)
    pair_weights: Tensor  # (N,)
    endorsed: Tensor  # (N,) bool: a person preferred the chosen answer, it is not only the cleaner one

    unpaired: Tensor  # (M,) index of an answer
    desirable: Tensor  # (M,) bool
    unpaired_weights: Tensor  # (M,)
    mismatched: Tensor  # (K,) indices of answers that stand under another group's prompt

    @property
    def delta(self) -> Tensor:
        """Δ of every answer, (A,)."""
        return ((self.logprobs - self.reference) * self.mask).sum(-1)

    @property
    def margin(self) -> Tensor:
        """Value of h for every pair, (N,)."""
        delta = self.delta
        return delta[self.chosen] - delta[self.rejected]

    @property
    def mean_logprobs(self) -> Tensor:
        """Log-probability per token of every answer, (A,)."""
        return (self.logprobs * self.mask).sum(-1) / self.mask.sum(-1).clamp(min=1)


@dataclass(frozen=True, slots=True)
class Objective:
    """`losses` gives (N,) for pairs or (M,) for unpaired examples, unweighted."""

    name: str
    needs: Needs
    losses: Callable[[Batch, Options], Tensor]
