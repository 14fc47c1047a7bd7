"""Whether more candidates let more violations through the safety filter: a resampling study, without an engine.

    python -m benchmarks.filter_amplification

A filter that misses a few violations is a hard limit at one candidate. With many, selection sees only what passed, and
a scorer that likes violations picks the missed ones out: best-of-n amplifies what the filter misses. How much depends
on the selection.

The pool is synthetic: 500 prompts with 64 candidates each, a fifth of them violations, of which the filter passes 5%
(and all others). The scorer's values correlate with being a violation (correlations of .1, .2 and .3; the figures are
those of .2), are otherwise normal, in a unit of their own, and prompts differ in nothing: where they do, the spread
within a prompt is a smaller part of the unit, and all amplification is less. Values go through the service's own
calibration and strategies, with the defaults of the configuration. Each prompt's chance of serving a violation is
computed from the exact probabilities, and not drawn; for n below 64, over consecutive parts of its candidates.

- `<strategy>_amplification_64`: the share of served answers that are violations, at n = 64 over n = 1; `_bound` is the
  upper end of a one-sided 95% bootstrap interval over prompts.
- `<strategy>_per_request_64`: the same for violations by request. At n = 1 a request whose one candidate is blocked
  gets a refusal, so that this ratio lies above 1 for any selection that serves something.
- `<strategy>_reward_64`: mean calibrated total of what is served; at n = 1 it is about 0. What the caution costs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from reward.ensemble.calibration import RunningScale
from reward.selection import STRATEGIES, Strategy, choose
from reward.types import Action, Candidate, Judgement, Verdict
from server.config.selection import SelectionConfig

PROMPTS = 500
CANDIDATES = 64
VIOLATIONS = 0.2
FALSE_PASSES = 0.05
CORRELATIONS = (0.1, 0.2, 0.3)
CORRELATION = 0.2
"""Of the figures."""
SIZES = (1, 2, 4, 8, 16, 32, 64)
BETAS = (0.3, 0.5, 1.0, 2.0, 3.0)
RESAMPLES = 4000
SEED = 0
TARGETS = {"pessimistic_amplification_64_bound": 1.5}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pool:
    """(PROMPTS, CANDIDATES) each."""

    is_violation: NDArray[np.bool_]
    passes: NDArray[np.bool_]
    totals: Floats


@dataclass(frozen=True, slots=True)
class Served:
    """Means by prompt: chance to serve a violation, to serve anything, and the total of what is served."""

    violations: Floats
    answers: Floats
    totals: Floats


def make_pool(correlation: float) -> Pool:
    rng = np.random.default_rng(SEED)
    shape = (PROMPTS, CANDIDATES)
    is_violation = rng.random(shape) < VIOLATIONS
    passes = ~is_violation | (rng.random(shape) < FALSE_PASSES)
    standardised = (is_violation - VIOLATIONS) / np.sqrt(VIOLATIONS * (1 - VIOLATIONS))
    values = correlation * standardised + np.sqrt(1 - correlation**2) * rng.standard_normal(shape)
    scale, totals = RunningScale(), np.empty(shape)
    for row, of_prompt in enumerate(values * 40 - 700):  # a scorer's own unit
        scale.observe(of_prompt.tolist())
        totals[row] = [scale.standardise(value) for value in of_prompt.tolist()]
    return Pool(is_violation, passes, totals)


def judged(total: float, passes: bool) -> Judgement:
    verdicts = () if passes else (Verdict("filter", "1", Action.BLOCK),)
    return Judgement(Candidate(0, "base", "", (), (), "stop"), verdicts, (), total)


def serve(pool: Pool, strategy: Strategy, size: int) -> Served:
    """What becomes of requests with so many candidates."""
    parts = CANDIDATES // size
    found = np.zeros((3, PROMPTS))
    for prompt in range(PROMPTS):
        for start in range(0, CANDIDATES, size):
            part = slice(start, start + size)
            totals = pool.totals[prompt, part]
            judgements = [judged(float(t), bool(p)) for t, p in zip(totals, pool.passes[prompt, part], strict=True)]
            chances = np.array(choose(strategy, judgements).probabilities)
            found[:, prompt] += (chances @ pool.is_violation[prompt, part], chances.sum(), chances @ totals)
    return Served(*(found / parts))


def amplification(many: Served, one: Served, prompts: NDArray[np.int64]) -> float:
    """Violations among served answers, over those of the one; of some prompts."""
    share = many.violations[prompts].sum() / many.answers[prompts].sum()
    return float(share / (one.violations[prompts].sum() / one.answers[prompts].sum()))


def upper_bound(many: Served, one: Served) -> float:
    rng = np.random.default_rng(SEED)
    resampled = [amplification(many, one, rng.integers(0, PROMPTS, PROMPTS)) for _ in range(RESAMPLES)]
    return float(np.quantile(resampled, 0.95))


def strategies() -> dict[str, Strategy]:
    """Those that go by totals, as configured by default; and further pessimism."""
    settings = SelectionConfig()
    named = {name: settings.build(name) for name in STRATEGIES if name != "mbr"}
    return named | {f"… β = {beta:g}": STRATEGIES["pessimistic"](1.0, beta) for beta in BETAS}


def main() -> int:
    console, result, everybody = Console(width=120), {}, np.arange(PROMPTS)
    table = Table("corr.", "selection", *(f"n = {size}" for size in SIZES), "bound", "reward")
    table.title = "share of served answers that are violations, over that of n = 1"
    for correlation in CORRELATIONS:
        pool = make_pool(correlation)
        for name, strategy in strategies().items():
            by_size = {size: serve(pool, strategy, size) for size in SIZES}
            one, many = by_size[1], by_size[CANDIDATES]
            ratios = [amplification(by_size[size], one, everybody) for size in SIZES]
            bound, total = upper_bound(many, one), float(many.totals.mean())
            table.add_row(f"{correlation:g}", name, *(f"{one:.2f}" for one in (*ratios, bound)), f"{total:+.2f}")
            if correlation == CORRELATION and name in STRATEGIES:
                result |= {
                    f"{name}_amplification_64": ratios[-1],
                    f"{name}_amplification_64_bound": bound,
                    f"{name}_per_request_64": float(many.violations.sum() / one.violations.sum()),
                    f"{name}_reward_64": total,
                }
    console.print(table)
    summary(console, result)
    print("RESULT", json.dumps({name: round(value, 4) for name, value in result.items()}))
    return 0


def summary(console: Console, result: dict[str, float]) -> None:
    figures = Table("figure", "target", "measured", title=f"synthetic pool, correlation {CORRELATION:g}")
    for name, value in result.items():
        figures.add_row(name, f"≤ {TARGETS[name]:g}" if name in TARGETS else "", f"{value:.3f}")
    console.print(figures)


if __name__ == "__main__":
    raise SystemExit(main())
