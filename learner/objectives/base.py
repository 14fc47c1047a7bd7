"""What an objective gets and gives: pure functions on log-probabilities and masks.

Notation of the docstrings: Δ = log π_θ(y|x) − log π_ref(y|x), summed over the answer's tokens; Δ_w, Δ_l for
chosen and rejected; h = Δ_w − Δ_l; σ the logistic function; β the inverse temperature; r an answer's reward,
A its advantage, ρ_t = exp(log π_θ − log π_old) of a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import ClassVar, Final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class Needs(Enum):
    """The kind of example that an objective has a loss for."""

    PAIRS = "pairs"
    UNPAIRED = "unpaired"
    REWARDED = "rewarded"


@dataclass(frozen=True, slots=True)
class View:
    """The chosen answers of the batch's pairs once more, under changed images. V answers of at most T tokens."""

    logprobs: Tensor  # (V, T) under the policy, with gradient
    reference: Tensor  # (V, T)
    mask: Tensor  # (V, T)
    pairs: Tensor  # (V,) the pair that each is of; pairs without images have none

    @property
    def delta(self) -> Tensor:
        """Δ of every answer under the changed images, (V,)."""
        return _masked(self.logprobs - self.reference, self.mask).sum(-1)

    def within(self, parts: Tensor) -> View:
        """Masked to the parts of the chosen answers, (N, T), that the pairs are about."""
        return replace(self, mask=self.mask & parts[self.pairs, : self.mask.shape[1]])


@dataclass(frozen=True, slots=True)
class Rewarded:
    """R answers with rewards, of which those of one group compete with each other; ranked lists are this too."""

    answers: Tensor  # (R,) index of an answer
    groups: Tensor  # (R,) number of its group, 0, 1, ... without gaps
    rewards: Tensor  # (R,)
    weights: Tensor  # (R,)
    sampled: Tensor  # (R, T) log-probabilities that the engine logged when it drew the answers
    step_length: float
    """Mean tokens of the rewarded answers of the whole optimiser step."""
    round_length: float
    """The same of the whole round."""
    step: int = 0
    """How many optimiser steps there were before this one."""
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    """(R,) what each scorer gave, by name; NaN where that is not known."""
    baseline: Tensor | None = None
    """(R,) bool: the answer that the others of its group may be measured by."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A answers of at most T tokens, and N pairs, M unpaired examples and rewarded groups that point to them."""

    logprobs: Tensor  # (A, T) under the policy, with gradient
    reference: Tensor  # (A, T) under the reference
    mask: Tensor  # (A, T) bool, True at the answer's tokens
    may_be_positive: Tensor  # (A,) bool, False: training never moves towards it

    chosen: Tensor  # (N,) index of an answer
    rejected: Tensor  # (N,)
    pair_weights: Tensor  # (N,)
    endorsed: Tensor  # (N,) bool: a person preferred the chosen answer, it is not only the cleaner one

    unpaired: Tensor  # (M,) index of an answer
    desirable: Tensor  # (M,) bool
    unpaired_weights: Tensor  # (M,)
    mismatched: Tensor  # (K,) indices of answers that stand under another group's prompt

    pair_annotators: tuple[str, ...] = ()  # N names
    unpaired_annotators: tuple[str, ...] = ()  # M names
    rewarded: Rewarded | None = None
    marked: Tensor | None = None
    """(M,) where each undesirable answer runs once more behind its class's marker: index of an answer, −1 for none.
    None where the labels are turned round."""
    references: Mapping[str, Tensor] = field(default_factory=dict)
    """(A, T) under each reference that an objective asks for by name."""
    views: Mapping[str, View] = field(default_factory=dict)
    """By the name of the augmentation."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """(A, T) by name, of the policy's whole distribution at each token: see `STATISTICS`."""
    chosen_mask: Tensor | None = None
    """(N, T) what of the chosen answers each pair is about; None: all of them."""
    rejected_mask: Tensor | None = None
    """(N, T), there where `chosen_mask` is."""
    dropped: Tensor | None = None
    """(P, A, T) in passes with dropout, where a weighting looks at them; detached."""
    shared_point: Tensor | None = None
    """`reference_point` of a larger batch that this one is a part of."""
    gold: Tensor | None = None
    """(N,) index of the answer that says what each pair's person would have said; None: the chosen ones."""
    drawn_by_base: Tensor | None = None
    """(A,) bool: base sampled the answer; None: of none it is known."""

    @property
    def delta(self) -> Tensor:
        """Δ of every answer, (A,)."""
        return _masked(self.logprobs - self.reference, self.mask).sum(-1)

    @property
    def dropped_delta(self) -> Tensor:
        """Δ of every answer in each pass with dropout, (P, A)."""
        assert self.dropped is not None
        return _masked(self.dropped - self.reference, self.mask).sum(-1)

    @property
    def margin(self) -> Tensor:
        """Value of h for every pair, (N,)."""
        delta = self.delta
        return delta[self.chosen] - delta[self.rejected]

    @property
    def lengths(self) -> Tensor:
        """Tokens of every answer, (A,), 1 at least."""
        return self.mask.sum(-1).clamp(min=1)

    def totals(self, values: Tensor) -> Tensor:
        """Sums over each answer's tokens, (A, T) → (A,)."""
        return _masked(values, self.mask).sum(-1)

    @property
    def mean_logprobs(self) -> Tensor:
        """Log-probability per token of every answer, (A,)."""
        return self.totals(self.logprobs) / self.lengths

    @property
    def reference_point(self) -> Tensor:
        """KTO's z: mean Δ of the mismatched answers, at least 0, detached; 0 without any."""
        if self.shared_point is not None:
            return self.shared_point
        mismatched = self.delta.detach()[self.mismatched]
        return mismatched.mean().clamp(min=0) if len(mismatched) else mismatched.new_zeros(())

    def apart(self) -> Batch:
        """Where pairs are about parts of answers: each pair with two answers of its own, masked to those parts.

        So objectives need not know of parts, and no gradient reaches what is masked.
        """
        if self.chosen_mask is None or self.rejected_mask is None:
            return self
        answers, pairs = len(self.mask), len(self.chosen)
        own = torch.arange(pairs, device=self.chosen.device)
        rows = torch.cat([torch.arange(answers, device=own.device), self.chosen, self.rejected])
        whole = self.mask[rows]
        parts = torch.cat([self.mask, self.chosen_mask, self.rejected_mask])
        return replace(
            self,
            logprobs=self.logprobs[rows],
            reference=self.reference[rows],
            mask=whole & parts,
            may_be_positive=self.may_be_positive[rows],
            chosen=answers + own,
            rejected=answers + pairs + own,
            gold=None if self.gold is None else torch.where(self.gold == self.chosen, answers + own, self.gold),
            drawn_by_base=None if self.drawn_by_base is None else self.drawn_by_base[rows],
            references={name: values[rows] for name, values in self.references.items()},
            statistics={name: values[rows] for name, values in self.statistics.items()},
            dropped=None if self.dropped is None else self.dropped[:, rows],
            views={name: view.within(self.chosen_mask) for name, view in self.views.items()},
            chosen_mask=None,
            rejected_mask=None,
        )

    def flipped(self) -> Batch:
        """The same answers with every label turned round. Nobody endorsed what was rejected."""
        return replace(
            self,
            chosen=self.rejected,
            rejected=self.chosen,
            endorsed=torch.zeros_like(self.endorsed),
            desirable=~self.desirable,
            marked=None,
            views={},
        )


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """Zero outside the mask, whatever stands there."""
    return torch.where(mask, values, values.new_zeros(()))


STATISTICS: Final = ("reference_kl", "entropy", "end_ratio")
"""What an objective may ask to know of every token's distribution, in nats, with gradient: KL(π_ref ‖ π_θ), the entropy
of π_θ, and log π_θ − log π_ref of ending the answer in the token's place. Each costs logits of the whole vocabulary;
those about the reference its forward pass too."""


class Objective(BaseModel, ABC):
    """A loss with its options, which are the fields. Stateless: `losses` is a function of batch and options."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    needs: ClassVar[Needs]
    references: ClassVar[tuple[str, ...]] = ()
    """References besides the main one that it reads in `Batch.references`."""

    @property
    def views(self) -> tuple[str, ...]:
        """Names of what it reads in `Batch.views`: augmentations, or `retrieve`."""
        return ()

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names in `STATISTICS` that it reads in `Batch.statistics`."""
        return ()

    @abstractmethod
    def losses(self, batch: Batch) -> Tensor:
        """One loss for each pair (N,), unpaired example (M,) or rewarded answer (R,), unweighted."""


class Implicit(Objective):
    """Those on the implicit reward βΔ. They take the alias's `beta`, unless their options name another."""

    beta: float = Field(0.1, gt=0)
