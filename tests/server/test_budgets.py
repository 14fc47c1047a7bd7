"""Token buckets of keys and tenants, with the clock moved by hand."""

from __future__ import annotations

import pytest

from server.budgets import Budgets
from server.config import BudgetConfig, LimitsConfig
from server.errors import BadRequest, RateLimited
from server.store.keys import KeyRecord

APP = KeyRecord("key-1", "acme", "app")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def budgets(clock: Clock, **limits: BudgetConfig) -> Budgets:
    return Budgets(LimitsConfig(**limits), monotonic=clock)


def test_a_budget_is_refused_when_it_is_spent_and_fills_with_time(clock: Clock) -> None:
    """A full minute's worth at once, then as it comes; the refusal says when."""
    site = budgets(clock, app=BudgetConfig(requests_per_minute=60))
    for _ in range(60):
        site.count_request(APP)
    with pytest.raises(RateLimited) as refused:
        site.count_request(APP)
    assert (refused.value.code, refused.value.retry_after_s) == ("rate_limit_exceeded", 1)
    assert refused.value.headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60000ms",
    }
    clock.now = 1.0
    site.count_request(APP)
    with pytest.raises(RateLimited):
        site.count_request(APP)


def test_the_most_is_taken_and_what_was_not_generated_comes_back(clock: Clock) -> None:
    """Many at once cannot overdraw; an unsettled one stays taken."""
    site = budgets(clock, app=BudgetConfig(candidates_per_minute=8, tokens_per_minute=1000))
    first = site.reserve(APP, candidates=4, max_tokens=200)
    assert first.headers["x-ratelimit-remaining-tokens"] == "200"
    assert first.headers["x-ratelimit-remaining-candidates"] == "4"
    with pytest.raises(RateLimited) as refused:
        site.reserve(APP, candidates=2, max_tokens=200)
    assert refused.value.retry_after_s == 12  # 200 tokens at 1000 a minute
    first.settle(candidates=3, tokens=500)
    second = site.reserve(APP, candidates=2, max_tokens=200)
    assert second.headers["x-ratelimit-remaining-tokens"] == "100"
    assert second.headers["x-ratelimit-remaining-candidates"] == "3"


def test_a_refused_request_takes_nothing(clock: Clock) -> None:
    """Not from the budgets that would have had room either."""
    site = budgets(clock, app=BudgetConfig(candidates_per_minute=10), tenant=BudgetConfig(tokens_per_minute=100))
    site.reserve(APP, candidates=1, max_tokens=100)
    for _ in range(20):
        with pytest.raises(RateLimited):
            site.reserve(APP, candidates=1, max_tokens=100)
    clock.now = 60.0
    assert site.reserve(APP, candidates=1, max_tokens=100).headers["x-ratelimit-remaining-candidates"] == "9"


def test_what_no_full_budget_holds_is_refused_for_good(clock: Clock) -> None:
    """As a bad request, which no client repeats, naming what to ask less of."""
    site = budgets(clock, app=BudgetConfig(candidates_per_minute=4, tokens_per_minute=1000))
    with pytest.raises(BadRequest) as refused:
        site.reserve(APP, candidates=4, max_tokens=251)
    assert (refused.value.code, refused.value.param) == ("budget_too_small", "max_tokens")
    with pytest.raises(BadRequest) as refused:
        site.reserve(APP, candidates=5, max_tokens=1)
    assert refused.value.param == "best_of"


def test_a_key_s_own_budget_stands_before_its_role_s_and_zero_lifts_it(clock: Clock) -> None:
    """And other keys keep theirs."""
    site = budgets(clock, app=BudgetConfig(requests_per_minute=1))
    free = KeyRecord("key-2", "acme", "app", requests_per_minute=0)
    for _ in range(5):
        site.count_request(free)
    site.count_request(APP)
    with pytest.raises(RateLimited):
        site.count_request(APP)
    site.count_request(KeyRecord("key-3", "acme", "app"))
    site.count_request(KeyRecord("key-4", "acme", "operator"))


def test_a_tenant_s_keys_share_the_tenant_s_budget(clock: Clock) -> None:
    """Another tenant's do not."""
    site = budgets(
        clock, tenant=BudgetConfig(requests_per_minute=2), tenants={"big": BudgetConfig(requests_per_minute=4)}
    )
    for name in ("a", "b"):
        site.count_request(KeyRecord(name, "acme", "app"))
    with pytest.raises(RateLimited, match="tenant"):
        site.count_request(KeyRecord("c", "acme", "operator"))
    for name in "defg":
        site.count_request(KeyRecord(name, "big", "app"))
    with pytest.raises(RateLimited):
        site.count_request(KeyRecord("d", "big", "app"))


def test_more_is_never_given_back_than_was_taken(clock: Clock) -> None:
    """A budget never holds more than a minute's worth."""
    site = budgets(clock, app=BudgetConfig(tokens_per_minute=100))
    late = site.reserve(APP, candidates=1, max_tokens=30)
    clock.now = 3600.0
    late.settle(candidates=0, tokens=0)
    assert site.reserve(APP, candidates=1, max_tokens=100).headers["x-ratelimit-remaining-tokens"] == "0"


def test_what_was_generated_beyond_it_is_taken_too(clock: Clock) -> None:
    """Steps and further waves may take more than the candidates asked for; who comes next waits until it is made up."""
    site = budgets(clock, app=BudgetConfig(tokens_per_minute=100))
    site.reserve(APP, candidates=1, max_tokens=60).settle(candidates=1, tokens=150)
    with pytest.raises(RateLimited) as refused:
        site.reserve(APP, candidates=1, max_tokens=10)
    assert refused.value.retry_after_s == 36  # 60 tokens at 100 a minute
    clock.now = 36.0
    site.reserve(APP, candidates=1, max_tokens=10)


def test_rollouts_are_the_keys_own_expense(clock: Clock) -> None:
    """A learner spends nothing that its tenant's apps could."""
    learner = KeyRecord("key-2", "acme", "learner")
    limits = BudgetConfig(candidates_per_minute=8)
    site = budgets(clock, learner=BudgetConfig(candidates_per_minute=16), tenant=limits)
    site.reserve(learner, candidates=16, max_tokens=10, from_tenant=False)
    site.reserve(APP, candidates=8, max_tokens=10)
    with pytest.raises(RateLimited, match="This key"):
        site.reserve(learner, candidates=1, max_tokens=10, from_tenant=False)
