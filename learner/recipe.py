"""What a round minimises: objectives with weights, and how far each kind of label is believed. Pure.

The axes meet here and nowhere else: an objective knows nothing of weightings, and a weighting nothing of losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learner.objectives import Batch, Needs, Objective
from learner.objectives.unpaired.c_rlft import CRlft
from learner.objectives.unpaired.kto import Kto
from learner.weighting import Reliabilities, Weighting


@dataclass(frozen=True, slots=True)
class Recipe:
    losses: tuple[tuple[float, Objective], ...]
    beta: float
    """Of the implicit reward by which weightings see what the policy thinks of a label."""
    weightings: Mapping[Needs, Weighting]
    """For pairs and unpaired examples; a kind that is not here is believed as it is."""

    @property
    def needs(self) -> frozenset[Needs]:
        return frozenset(objective.needs for _, objective in self.losses)

    @property
    def references(self) -> frozenset[str]:
        """Those besides the main one."""
        return frozenset(name for _, objective in self.losses for name in objective.references)

    @property
    def views(self) -> frozenset[str]:
        return frozenset(name for _, objective in self.losses for name in objective.views)

    @property
    def statistics(self) -> frozenset[str]:
        return frozenset(name for _, objective in self.losses for name in objective.statistics)

    @property
    def needs_dropout(self) -> bool:
        return any(weighting.needs_dropout for weighting in self.weightings.values())

    @property
    def marker(self) -> tuple[int, ...] | None:
        """Behind which undesirable answers run once more; None: they do not."""
        return next((one.marker for _, one in self.losses if isinstance(one, CRlft)), None)

    def balanced(self, desirable: float, undesirable: float) -> Recipe:
        """For a round with these amounts of thumbs."""
        balanced = tuple(
            (weight, one.balanced(desirable, undesirable) if isinstance(one, Kto) else one)
            for weight, one in self.losses
        )
        return replace(self, losses=balanced)

    def loss(self, batch: Batch, reliabilities: Reliabilities, examples: int) -> Tensor:
        """Σ_objectives w · Σ_examples w_i · loss_i / `examples`.

        `examples` counts those of the whole optimiser step, all kinds together, so that micro-batches add up to the
        step's loss, and an example weighs the same whatever it happens to share a batch with.
        """
        batch = batch.apart()
        loss = batch.logprobs.new_zeros(())
        labels = {
            Needs.PAIRS: lambda: self._pairs(batch, reliabilities),
            Needs.UNPAIRED: lambda: self._unpaired(batch, reliabilities),
            Needs.REWARDED: lambda: _Believed(batch.rewarded.weights if batch.rewarded else batch.logprobs[:0, 0]),
        }
        for needs in Needs:
            of_kind = [(weight, one) for weight, one in self.losses if one.needs is needs]
            believed = labels[needs]() if of_kind else None
            if believed is None or not len(believed.keep):
                continue
            flipped = batch.flipped() if believed.flip is not None else None
            for weight, objective in of_kind:
                total = (believed.keep * objective.losses(batch)).sum()
                if flipped is not None and believed.flip is not None:
                    total = total + (believed.flip * objective.losses(flipped)).sum()
                loss = loss + weight * total / examples
        return loss

    def _pairs(self, batch: Batch, reliabilities: Reliabilities) -> _Believed:
        delta = self._delta(Needs.PAIRS, batch)
        return self._believed(
            Needs.PAIRS,
            torch.sigmoid(self.beta * (delta[..., batch.chosen] - delta[..., batch.rejected])),
            batch.pair_annotators,
            reliabilities,
            weights=batch.pair_weights,
            by_person=batch.endorsed,
            may_flip=batch.may_be_positive[batch.rejected],
        )

    def _unpaired(self, batch: Batch, reliabilities: Reliabilities) -> _Believed:
        gap = self.beta * (self._delta(Needs.UNPAIRED, batch)[..., batch.unpaired] - batch.reference_point)
        return self._believed(
            Needs.UNPAIRED,
            torch.sigmoid(torch.where(batch.desirable, gap, -gap)),
            batch.unpaired_annotators,
            reliabilities,
            weights=batch.unpaired_weights,
            by_person=torch.ones_like(batch.desirable),
            may_flip=batch.may_be_positive[batch.unpaired] | batch.desirable,
        )

    def _delta(self, needs: Needs, batch: Batch) -> Tensor:
        """By which the weighting of this kind judges: (A,), or (P, A) with dropout. Detached."""
        weighting = self.weightings.get(needs)
        return batch.dropped_delta if weighting is not None and weighting.needs_dropout else batch.delta.detach()

    def _believed(
        self,
        needs: Needs,
        agreement: Tensor,
        annotators: Sequence[str],
        reliabilities: Reliabilities,
        *,
        weights: Tensor,
        by_person: Tensor,
        may_flip: Tensor,
    ) -> _Believed:
        weighting = self.weightings.get(needs)
        if weighting is None or not len(weights):
            return _Believed(weights)
        shares = weighting.shares(agreement, weights.new_tensor(reliabilities.of(annotators)))
        if weighting.learns:
            said = [index for index, person in enumerate(by_person.tolist()) if person]
            keep = shares.keep.tolist()
            reliabilities.note([annotators[index] for index in said], [keep[index] for index in said])
        kept = torch.where(by_person, shares.keep, torch.ones_like(weights))
        flip = None if shares.flip is None else weights * shares.flip * (by_person & may_flip)
        return _Believed(weights * kept, flip)


@dataclass(frozen=True, slots=True)
class _Believed:
    """Weights of the examples of one kind, and of their opposite labels. (n,) each."""

    keep: Tensor
    flip: Tensor | None = None
