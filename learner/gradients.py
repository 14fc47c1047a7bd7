"""A step's gradient in two halves: what it raises, and what it lowers.

Losses of margins couple the two: chosen and rejected log-probabilities may rise or fall together (gradient
entanglement, Yuan et al. 2024, https://arxiv.org/abs/2410.13828).

1. Of one step of plain descent by g_w − g_l, the gradients of the log-probabilities of chosen and rejected answers, the
   chosen ones change by ‖g_w‖² − ⟨g_w, g_l⟩ and the rejected ones by ⟨g_w, g_l⟩ − ‖g_l‖², to first order: they part
   as long as ⟨g_w, g_l⟩ ≤ min(‖g_w‖², ‖g_l‖²), and move together beyond. `entanglement` says so of a step's pairs.
2. By u = g_w/‖g_w‖ − g_l/‖g_l‖ they always part, for ⟨g_w, u⟩ = ‖g_w‖ (1 − cos) ≥ 0 ≥ ‖g_l‖ (cos − 1) = ⟨g_l, u⟩.
   `Sides.normalised` is that for a step as a whole, with any loss of log-probabilities: the half that raises some of
   them against the half that lowers others, each as the loss weighs it. AdamW scales the coordinates afterwards, so
   that in training the two hold in its metric only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from learner.objectives import Batch
from learner.team import Team


class Backward:
    """The backward passes of one step. `watched_pairs`: how many pairs the step has; 0: nothing is watched."""

    def __init__(self, parameters: Iterable[Tensor], team: Team, *, normalized: bool, watched_pairs: int) -> None:
        self._parameters = list(parameters)
        self._team = team
        self._sides = Sides(self._parameters) if normalized else None
        self._entanglement = Entanglement(self._parameters) if watched_pairs else None
        self._pairs = watched_pairs

    def run(self, loss: Tensor, batch: Batch) -> None:
        """Add a micro-batch's gradient."""
        if not loss.requires_grad and self._team.size > 1:
            loss = batch.logprobs.sum() * 0  # a sharded base needs every rank in every backward pass
        if not loss.requires_grad:
            return
        if self._entanglement is not None:
            self._entanglement.watch(batch, self._pairs)
        if self._sides is not None:
            self._sides.backward(loss, batch)
        else:
            torch.autograd.backward(loss)

    def finish(self, *, teaches: bool) -> dict[str, float]:
        """Leave the step's gradient, over all ranks, in the parameters; what was watched, as metrics."""
        if not teaches:  # no gradient is not a gradient of 0, by which the optimiser would go on as before
            _put(self._parameters, [None] * len(self._parameters))
        elif self._sides is not None:
            self._sides.normalised(self._team)
        else:
            self._team.add_up_gradients(self._parameters)
        return {} if self._entanglement is None else self._entanglement.metrics(self._team)


class TwoGradients:
    """Two gradients by the same parameters, added up over micro-batches. Each costs a backward pass of its own."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = list(parameters)
        self._sums: list[Tensor] = []

    def add(self, values: Sequence[Tensor], slopes: Iterable[Sequence[Tensor]], *, keep_graph: bool) -> None:
        """The gradients of `values` that follow from the two `slopes`. Gradients that are there stay what they are."""
        for side, slope in enumerate(slopes):
            held = [one.grad for one in self._parameters]
            _put(self._parameters, [None] * len(held))
            torch.autograd.backward(values, slope, retain_graph=keep_graph or side == 0)
            found = torch.cat(
                [(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in self._parameters]
            )
            _put(self._parameters, held)
            if len(self._sums) <= side:
                self._sums.append(found)
            else:
                self._sums[side] += found

    def whole(self, team: Team) -> tuple[Tensor, Tensor]:
        """Both, flat, over all ranks together. Zeros where nothing was added."""
        nothing = torch.cat([torch.zeros_like(one).flatten() for one in self._parameters])
        first, second = self._sums or (nothing, nothing.clone())
        team.add_up(first)
        team.add_up(second)
        return first, second


class Sides(TwoGradients):
    """The gradients of a loss through the log-probabilities that it raises, and through those that it lowers."""

    def backward(self, loss: Tensor, batch: Batch) -> None:
        """In place of the loss's own backward pass. All that it is a function of must be log-probabilities."""
        values = [batch.logprobs, *(view.logprobs for view in batch.views.values())]
        slopes = torch.autograd.grad(loss, values, allow_unused=True, materialize_grads=True)
        self.add(values, ([one.clamp(max=0) for one in slopes], [one.clamp(min=0) for one in slopes]), keep_graph=False)

    def normalised(self, team: Team) -> None:
        """Leave the sum of both halves, each of norm 1, as the gradient; a half that is 0 is left out."""
        total = sum(half / half.norm().clamp(min=torch.finfo(half.dtype).tiny) for half in self.whole(team))
        assert isinstance(total, Tensor)
        parts = torch.split(total, [one.numel() for one in self._parameters])
        _put(self._parameters, [part.view_as(one) for one, part in zip(self._parameters, parts, strict=True)])


class Entanglement(TwoGradients):
    """The gradients of the log-probabilities of chosen and of rejected answers, as means over a step's pairs."""

    def watch(self, batch: Batch, pairs: int) -> None:
        """Before the backward pass of the batch's loss. `pairs`: those of the whole step."""
        totals = batch.totals(batch.logprobs)
        slopes = []
        for side in (batch.chosen, batch.rejected):
            counts = torch.bincount(side, minlength=len(totals)).to(totals.dtype)
            slopes.append([counts / max(1, pairs)])
        self.add([totals], slopes, keep_graph=True)

    def metrics(self, team: Team) -> dict[str, float]:
        """⟨g_w, g_l⟩, both norms, and 1 where one step of descent would move both the same way."""
        chosen, rejected = (half.double() for half in self.whole(team))
        inner, squares = float(chosen @ rejected), (float(chosen @ chosen), float(rejected @ rejected))
        return {
            "gradient_inner": inner,
            "chosen_gradient_norm": squares[0] ** 0.5,
            "rejected_gradient_norm": squares[1] ** 0.5,
            "entangled": float(inner > min(squares)),
        }


def _put(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for one, gradient in zip(parameters, gradients, strict=True):
        one.grad = gradient
