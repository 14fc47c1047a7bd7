"""How much each may ask for, and how much is done beside what apps ask for."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from server.config.base import Section


class BudgetConfig(Section):
    """What may be asked for in a minute, on each server; 0: as much as there is room for."""

    requests_per_minute: int = Field(0, ge=0)
    """Requests of any kind."""
    candidates_per_minute: int = Field(0, ge=0)
    """Candidates generated: a request may take `best_of` of them."""
    tokens_per_minute: int = Field(0, ge=0)
    """Tokens generated, of all candidates; prompts do not count."""

    def overridden(self, own: dict[str, int]) -> Self:
        return self.model_copy(update=own)


class LimitsConfig(Section):
    """Budgets of the keys, by role, where a key has none of its own; and of tenants, over all of their keys."""

    app: BudgetConfig = BudgetConfig()
    """Each app's key."""
    learner: BudgetConfig = BudgetConfig()
    """Each learner's key."""
    operator: BudgetConfig = BudgetConfig()
    """Each operator's key."""
    tenant: BudgetConfig = BudgetConfig()
    """Each tenant."""
    tenants: dict[str, BudgetConfig] = {}
    """Single tenants, in place of `tenant`."""

    def of_role(self, role: str) -> BudgetConfig:
        return {"app": self.app, "learner": self.learner, "operator": self.operator}[role]


class ShadowConfig(Section):
    """Answers of shadow adapters, of which nobody may notice anything."""

    concurrent: int = Field(2, ge=1)
    """Requests that shadows answer at once; further ones do without."""
    busy_requests: int = Field(8, ge=1)
    """With more chat requests in work or waiting, no shadow begins to answer."""


class RolloutsConfig(Section):
    """Answers that learners ask for, from which apps must suffer nothing."""

    concurrent: int = Field(2, ge=1)
    """Prompts that are answered at once, for all learners."""
    queued: int = Field(128, ge=0)
    """Prompts that may wait for it; further ones are told to come back."""
    busy_requests: int = Field(8, ge=1)
    """With more chat requests in work or waiting, none is begun."""
