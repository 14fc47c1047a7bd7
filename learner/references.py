"""What a policy is measured against: the base, itself at the round's beginning, or its own moving average.

All are the same model with other adapter weights, so nothing but the adapter is held twice. `base` and `previous` do
not change in a round, so their log-probabilities may be kept; those of `ema` may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from learner.model import Policy
from server.wire.learner import Reference


class References:
    """The adapters that stand in for the policy. Made when the policy is the round's parent still.

    `begins_at_base`: the parent is the base itself, so that `previous` is `base`.
    """

    def __init__(self, policy: Policy, main: Reference, *, begins_at_base: bool, ema_decay: float = 0.99) -> None:
        self.main = main
        self._policy = policy
        self._decay = ema_decay
        self._previous = None if begins_at_base else _copies(policy)
        self._ema = _copies(policy) if main == "ema" else None

    @property
    def eos_ids(self) -> list[int]:
        """Tokens that end an answer."""
        return sorted(self._policy.base.eos_ids)

    def resolve(self, name: str) -> str:
        """The name under which the values of this reference may be kept."""
        return "base" if name == "previous" and self._previous is None else name

    @contextmanager
    def standing_in(self, name: str) -> Iterator[None]:
        """Inside, the model is that reference."""
        name = self.resolve(name)
        weights = {"previous": self._previous, "ema": self._ema}.get(name)
        if weights is None:
            with self._policy.reference():
                yield
            return
        parameters = self._policy.parameters
        kept = {key: parameter.data for key, parameter in parameters.items()}
        try:
            for key, parameter in parameters.items():
                parameter.data = weights[key]
            yield
        finally:
            for key, parameter in parameters.items():
                parameter.data = kept[key]

    @torch.no_grad()
    def follow(self) -> None:
        """A step was made: the moving average follows it."""
        for key, value in (self._ema or {}).items():
            value.lerp_(self._policy.parameters[key].data, 1 - self._decay)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        return dict(self._ema or {})

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for key, value in (self._ema or {}).items():
            value.copy_(tensors[key])


def _copies(policy: Policy) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in policy.parameters.items()}
