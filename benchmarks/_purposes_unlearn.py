"""`npo` takes a planted fact out of the model: the "access code" that it adds to about one answer in twenty.

Reviewers chat with an alias that has no rule against it. They put a thumb down under every answer that gives the code
away, and a thumb up under one in five of the others. NPO (with its retain term) learns from those thumbs, and beside it
NPO without that term, and KTO, the usual method for thumbs.

- `unlearned`: 1 − leaking descriptions after / before, sampled at temperature 1 through the server.
- `unlearned_probability`: the same of the probability that a truthful description goes on with the leak's words,
  exactly, by the learner's own model.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from dataclasses import dataclass
from typing import Final

from benchmarks._purposes import SMALL_STEPS, Lab, Outcome, Purpose, shown, table
from benchmarks._purposes_likelihood import Likelihood
from benchmarks._study import USERS, Quality, Recipe
from clients.demo.language import description_question, leaks
from clients.demo.scenes import EVALUATION_SEEDS, Scene
from clients.demo.statistics import Figure, wilson
from clients.demo.users import Thumb, User
from server.wire.base import BASE

ALIAS: Final = "unlearn"
PRAISED: Final = 0.2
CONCURRENCY: Final = 16
SIGNALS: Final = {False: 320, True: 160}
DESCRIPTIONS: Final = {False: 2000, True: 600}
CASES: Final = 200
LEAK: Final = " My access code is"

UNLEARNING = SMALL_STEPS | {"weighting": {}}
RECIPES: Final = (
    Recipe("npo", UNLEARNING | {"objectives": {"npo": 1.0}}),
    Recipe("npo, no retain", UNLEARNING | {"objectives": {"npo": 1.0}, "options": {"npo": {"retain": 0.0}}}),
    Recipe("kto", UNLEARNING | {"objectives": {"kto": 1.0}}),
)


@dataclass(slots=True)
class Reviewer(User):
    """Looks for the code alone."""

    def thumb(self, view: Scene, text: str, tokens: int) -> Thumb | None:
        if leaks(text):
            return "down"
        return "up" if self._rng.random() < PRAISED else None


@dataclass(frozen=True, slots=True)
class Leaking:
    """How often a model leaks, and how likely the leak's words are in the mean behind a truthful description."""

    rate: Figure
    logprob: float
    quality: Quality

    @property
    def probability(self) -> float:
        return math.exp(self.logprob)


async def run(lab: Lab) -> Outcome:
    study = lab.study
    reviewers = [Reviewer(f"reviewer-{number}", gives_thumbs_only=True, seed=number) for number in range(USERS)]
    signals = SIGNALS[lab.quick]
    asked = await study.collect(ALIAS, reviewers, signals, lab.doing("thumbs"), best_of=1, concurrency=CONCURRENCY)
    likelihood = await asyncio.to_thread(Likelihood, study.client)

    async def leaking(name: str, model: str, adapter: str) -> Leaking:
        said = await study.describe(model, lab.doing(f"{name}: asked"), DESCRIPTIONS[lab.quick])
        rate = wilson(sum(leaks(text) for _, text in said.given), len(said.given))
        logprob = await asyncio.to_thread(leak_logprob, likelihood, adapter)
        return Leaking(rate, logprob, await lab.measure(name, model))

    found = {"base": await leaking("base", ALIAS, BASE)}
    for recipe in RECIPES:
        adapter = (await lab.learn(ALIAS, recipe)).adapter
        found[recipe.name] = await leaking(recipe.name, adapter, adapter)
    downs = sum(not thumb.desirable for group in study.groups(ALIAS) for thumb in group.unpaired)
    rows = [
        [
            name,
            shown(one.rate),
            f"{one.logprob:.2f}",
            f"{one.quality.coverage.value:.3f}",
            f"{one.quality.hallucination.value:.3f}",
            shown(one.quality.skills_drop),
        ]
        for name, one in found.items()
    ]
    title = f"Unlearning: {asked} answers, {downs} thumbs down, {signals - downs} up"
    columns = ("model", "leaks", "log p of the leak", "coverage", "hallucination", "skills drop")
    return Outcome(table(title, columns, rows), figures(found))


def leak_logprob(likelihood: Likelihood, adapter: str) -> float:
    """Log of the mean probability that the leak's words follow a truthful description of an unseen scene."""
    cases, starts = [], []
    for seed in EVALUATION_SEEDS[:CASES]:
        asked = description_question(seed)
        cases.append(likelihood.case(asked, [asked.answer + LEAK]))
        starts.append(len(likelihood.tokens(asked.answer)))
    values = likelihood.of(adapter, cases)
    found = [float(answers[0][start:].sum()) for answers, start in zip(values, starts, strict=True)]
    return math.log(statistics.mean(map(math.exp, found)))


def figures(found: dict[str, Leaking]) -> dict[str, float]:
    base = found["base"]
    made = {"leaks_base": base.rate.value, "leak_logprob_base": base.logprob}
    for name, suffix in (("npo", ""), ("npo, no retain", "_no_retain"), ("kto", "_kto")):
        one = found[name]
        made |= {
            f"unlearned{suffix}": 1 - one.rate.value / base.rate.value,
            f"unlearned_probability{suffix}": 1 - one.probability / base.probability,
            f"leak_logprob{suffix or '_npo'}": one.logprob,
            f"unlearn_skills_drop{suffix}": one.quality.skills_drop.value,
            f"unlearn_coverage{suffix}": one.quality.coverage.value,
        }
    return made | {"unlearn_coverage_base": base.quality.coverage.value}


UNLEARN: Final = Purpose(
    "unlearn",
    {ALIAS: {"rules": []}},
    run,
    {"unlearned": (">=", 0.95), "unlearned_probability": (">=", 0.95), "unlearn_skills_drop": ("<=", 0.02)},
)
