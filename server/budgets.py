"""How much a key and its tenant may ask for in a minute: requests, candidates, tokens.

Token buckets: each budget starts full and fills evenly. What a chat request may cost at most (`best_of` candidates of
`max_tokens` each) is taken at its start, so that many at once cannot overdraw, and what was not generated is given back
at its end; what nobody knows, as of a request that was broken off, stays taken. What was generated beyond it (the steps
of a stepwise answer, a further wave before a refusal) is taken then, also from an empty budget: who comes next waits.
Prompts are not counted: requests are.

The buckets are this process's own: with several servers a key has its budgets on each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from server.config import BudgetConfig, LimitsConfig
from server.errors import BadRequest, RateLimited
from server.store.keys import KeyRecord

MINUTE_S: Final = 60.0
KINDS: Final = ("requests", "candidates", "tokens")


class Bucket:
    """Holds at most `limit` and fills by as much in a minute."""

    __slots__ = ("_filled_s", "_level", "limit")

    def __init__(self, limit: int, now_s: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._filled_s = now_s

    def level(self, now_s: float) -> float:
        self._level = min(float(self.limit), self._level + (now_s - self._filled_s) * self.limit / MINUTE_S)
        self._filled_s = now_s
        return self._level

    def wait_s(self, amount: float, now_s: float) -> float:
        """How long until it holds the amount."""
        return max(0.0, amount - self.level(now_s)) * MINUTE_S / self.limit

    def move(self, amount: float) -> None:
        """Put in (or, below zero, take out); what does not fit is gone."""
        self._level = min(float(self.limit), self._level + amount)


@dataclass(frozen=True, slots=True)
class Purse:
    """The buckets of one key or tenant, by kind, and whose they are, in words."""

    owner: str
    buckets: Mapping[str, Bucket]


class Reservation:
    """What one chat request has taken, until it is settled."""

    __slots__ = ("_cost", "_purses", "headers")

    def __init__(self, purses: Sequence[Purse], cost: Mapping[str, int], headers: dict[str, str]) -> None:
        self._purses = purses
        self._cost = cost
        self.headers = headers
        """OpenAI's `x-ratelimit-*`, as things stood when it was taken."""

    def settle(self, *, candidates: int, tokens: int) -> None:
        """Give back what was not generated, or take what was generated beyond it. Once."""
        spent = {"candidates": candidates, "tokens": tokens}
        for purse in self._purses:
            for kind, used in spent.items():
                if (bucket := purse.buckets.get(kind)) is not None:
                    bucket.move(self._cost[kind] - used)


class Budgets:
    """Every key's and tenant's budgets on this server. For one event loop; bounded by the number of keys."""

    def __init__(self, limits: LimitsConfig, *, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._keys: dict[str, Sequence[Purse]] = {}  # nothing of a key changes but that it ends
        self._tenants: dict[str, Purse | None] = {}

    def count_request(self, key: KeyRecord) -> None:
        """One request of any kind; raises `RateLimited`."""
        if purses := self._purses(key):
            self._take(purses, {"requests": 1})

    def reserve(self, key: KeyRecord, *, candidates: int, max_tokens: int, from_tenant: bool = True) -> Reservation:
        """Take what a request may cost at most, of the key's budgets and, with `from_tenant`, of its tenant's.

        Raises `RateLimited`, or `BadRequest` where it is more than a full budget ever holds.
        """
        purses = [one for one in self._purses(key) if from_tenant or one is not self._tenants[key.tenant]]
        cost = {"candidates": candidates, "tokens": candidates * max_tokens}
        if purses:
            self._take(purses, cost)
        return Reservation(purses, cost, self._headers(purses))

    def _purses(self, key: KeyRecord) -> Sequence[Purse]:
        known = self._keys.get(key.id)
        if known is not None:
            return known
        own = self._purse("this key", self._limits.of_role(key.role).overridden(key.budgets()))
        if key.tenant not in self._tenants:
            settings = self._limits.tenants.get(key.tenant, self._limits.tenant)
            self._tenants[key.tenant] = self._purse("this tenant", settings)
        purses = tuple(one for one in (own, self._tenants[key.tenant]) if one is not None)
        self._keys[key.id] = purses
        return purses

    def _purse(self, owner: str, settings: BudgetConfig) -> Purse | None:
        now_s = self._monotonic()
        limits = {kind: getattr(settings, f"{kind}_per_minute") for kind in KINDS}
        buckets = {kind: Bucket(limit, now_s) for kind, limit in limits.items() if limit > 0}
        return Purse(owner, buckets) if buckets else None

    def _take(self, purses: Sequence[Purse], cost: Mapping[str, int]) -> None:
        """From all or from none."""
        now_s = self._monotonic()
        wanted = [
            (purse, kind, bucket, amount)
            for purse in purses
            for kind, amount in cost.items()
            if (bucket := purse.buckets.get(kind)) is not None
        ]
        for purse, kind, bucket, amount in wanted:
            if amount > bucket.limit:
                raise BadRequest(
                    f"This may take {amount} {kind}, and {purse.owner} has {bucket.limit} a minute; ask for fewer "
                    "candidates (best_of, n) or a smaller max_tokens.",
                    param="max_tokens" if kind == "tokens" else "best_of",
                    code="budget_too_small",
                )
        waits = [(one.wait_s(amount, now_s), f"{one.limit} {kind}", purse) for purse, kind, one, amount in wanted]
        lacking = [one for one in waits if one[0] > 0]
        if lacking:
            longest_s, limit, purse = max(lacking, key=lambda one: one[0])
            raise RateLimited(
                f"{purse.owner.capitalize()} may take {limit} a minute; try again after the time in Retry-After.",
                retry_after_s=math.ceil(longest_s),
                code="rate_limit_exceeded",
                headers=self._headers(purses),
            )
        for _, _, bucket, amount in wanted:
            bucket.move(-amount)

    def _headers(self, purses: Sequence[Purse]) -> dict[str, str]:
        """Of each kind, the budget of which the smallest share is left."""
        now_s = self._monotonic()
        headers: dict[str, str] = {}
        for kind in KINDS:
            buckets = [one for purse in purses if (one := purse.buckets.get(kind)) is not None]
            if not buckets:
                continue
            tightest = min(buckets, key=lambda one: one.level(now_s) / one.limit)
            headers |= {
                f"x-ratelimit-limit-{kind}": str(tightest.limit),
                f"x-ratelimit-remaining-{kind}": str(int(tightest.level(now_s))),
                f"x-ratelimit-reset-{kind}": f"{math.ceil(1000 * tightest.wait_s(tightest.limit, now_s))}ms",
            }
        return headers
