"""`token_mask` leaves alone what both answers of a choice say.

Plain DPO moves every word of the two answers, the right ones that both have as well. Masked, a choice is about the
clauses that one answer has and the other has not. Both learn from the same choices.

- `mask_shared`, `mask_shared_plain`: mean |Δ| of a token, in nats, in clauses that both answers say, of the chosen
  answers that were learned from. `mask_shared_ratio`: the one / the other.
- `mask_learned`, `mask_learned_plain`: mean Δ of a token that only the chosen answer says − of one that only the
  rejected answer says: what is left alone must not be all.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from benchmarks._purposes import CROWD, ONE_PASS, Lab, Outcome, Purpose, shown, table
from benchmarks._purposes_likelihood import Case, Likelihood
from benchmarks._study import Recipe
from clients.demo.settings import MODEL
from learner.examples import Example, Wanted, prepare
from learner.objectives import Needs
from learner.sentences import Cutter
from learner.spelling import read_spelling
from server.wire.base import BASE

CLAUSES: Final = (",", " and also", " and", ".", "!", "?", ";", "\n")
PLAIN: Final = ONE_PASS | {"objectives": {"sigmoid": 1.0}, "separators": list(CLAUSES)}
RECIPES: Final = (Recipe("plain", PLAIN), Recipe("masked", PLAIN | {"token_mask": "sentence"}))


@dataclass(frozen=True, slots=True)
class Moved:
    """Changes of tokens' log-probabilities: where both answers say the same, and where one alone says it."""

    shared: float
    """Mean of the absolute values."""
    chosen: float
    rejected: float


async def run(lab: Lab) -> Outcome:
    await lab.crowd()
    likelihood = await asyncio.to_thread(Likelihood, lab.study.client)
    cutter = Cutter(read_spelling(MODEL), CLAUSES)
    wanted = Wanted(kinds=frozenset({Needs.PAIRS}))
    groups = lab.study.groups(CROWD)
    prepared = [prepare(group, likelihood.limits(group.base_digest), wanted).example for group in groups]
    examples = [cutter.masked(one) for one in prepared if one is not None]
    cases = [Case(one.prompt, one.images, tuple(answer.token_ids for answer in one.answers)) for one in examples]
    base = await asyncio.to_thread(likelihood.of, BASE, cases)
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    for recipe in RECIPES:
        adapter = (await lab.learn(CROWD, recipe)).adapter
        changed = moved(examples, await asyncio.to_thread(likelihood.of, adapter, cases), base)
        quality = await lab.measure(recipe.name, adapter)
        suffix = "" if recipe.name == "masked" else "_plain"
        figures[f"mask_shared{suffix}"] = changed.shared
        figures[f"mask_learned{suffix}"] = changed.chosen - changed.rejected
        figures[f"mask_hallucination{suffix}"] = quality.hallucination.value
        means = [f"{value:+.3f}" for value in (changed.chosen, changed.rejected)]
        rows.append([recipe.name, f"{changed.shared:.3f}", *means, shown(quality.hallucination)])
    figures["mask_shared_ratio"] = figures["mask_shared"] / figures["mask_shared_plain"]
    columns = ("learned by", "|Δ| of shared", "Δ of chosen alone", "Δ of rejected alone", "hallucination")
    title = f"{sum(len(one.pairs) for one in examples)} choices; means of a token, nats"
    return Outcome(table(title, columns, rows), figures)


def moved(examples: Sequence[Example], after: Sequence[Sequence[Tensor]], before: Sequence[Sequence[Tensor]]) -> Moved:
    """By case and answer, the tokens' log-probabilities after and before; the examples' pairs tell their parts."""
    shared: list[float] = []
    chosen: list[float] = []
    rejected: list[float] = []
    for example, values, were in zip(examples, after, before, strict=True):
        changes = [(one - other).tolist() for one, other in zip(values, were, strict=True)]
        for pair in example.pairs:
            for change, is_own in zip(changes[pair.chosen], pair.chosen_part, strict=True):
                (chosen if is_own else shared).append(change)
            parts = zip(changes[pair.rejected], pair.rejected_part, strict=True)
            rejected += [change for change, is_own in parts if is_own]
    return Moved(statistics.mean(map(abs, shared)), statistics.mean(chosen), statistics.mean(rejected))


MASK: Final = Purpose("mask", {CROWD: {}}, run, {"mask_shared_ratio": ("<=", 0.5), "mask_learned": (">", 0.0)})
