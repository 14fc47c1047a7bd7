"""The configuration of choosing among candidates, of an alias."""

from __future__ import annotations

from pydantic import Field

from reward.selection import STRATEGIES, Strategy
from server.config_base import Section
from server.wire.chat import StrategyName


class SelectionConfig(Section):
    """How one of the candidates becomes the answer (`docs/alignment.md`)."""

    strategy: StrategyName = "argmax"
    """`argmax`, `soft`, `mbr` or `pessimistic`; a request may name another. The default suits few candidates."""
    temperature: float = Field(0.5, gt=0)
    """`soft`: λ of p ∝ exp(total / λ), in the total's units."""
    beta: float = Field(1.0, gt=0)
    """`pessimistic`: strength of the χ² penalty, in the total's units. Small is argmax, large takes all alike."""

    def build(self, name: str | None = None) -> Strategy:
        """The strategy of this name, the alias's own without one."""
        return STRATEGIES[name or self.strategy](self.temperature, self.beta)
