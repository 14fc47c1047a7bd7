"""`lcpo` finds the annotators who cannot be relied on: six of 24 always say the opposite of what they think.

(So they are right one time in ten, where the others err one time in ten.) One crowd and one set of signals: the plain
recipe and LCPO learn from them as they are, and the plain one from what all of them really think.

- `unreliable_auc`: of the reliabilities that the learner reports after one round: the chance that one of the six has a
  lower one than one of the others.
- `unreliable_precision`, `unreliable_recall`: of "less than one half", where a word counts for its opposite.
- `unreliable_lcpo_retained`, `unreliable_plain_retained`: the fall of the hallucination / its fall with true signals.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from benchmarks._purposes import CROWD, SMALL_STEPS, Lab, Outcome, Purpose, shown, table
from benchmarks._study import Quality, Recipe
from learner.examples import HUMAN_SOURCES
from server.wire.base import BASE

CONTRARY: Final = 6
SEED: Final = 4
"""By which the six are drawn."""
HALF: Final = 0.5

PLAIN: Final = SMALL_STEPS | {"learning_rate": 1e-3, "epochs": 5, "weighting": {}}
LCPO: Final = PLAIN | {"weighting": {"pairs": "lcpo", "unpaired": "lcpo"}}


async def run(lab: Lab) -> Outcome:
    await lab.crowd()
    heard = annotators(lab)
    contrary = frozenset(random.Random(SEED).sample(heard, CONTRARY))
    found = {"base": await lab.measure("base", BASE)}
    plain = Recipe("plain", PLAIN, contrary=contrary)
    learned = {}
    for name, recipe, state in (
        ("sincere", replace(plain, contrary=frozenset()), ""),
        ("plain", plain, f"learner-{CROWD}-contrary"),
        ("lcpo", replace(plain, learner=LCPO), f"learner-{CROWD}-contrary"),
    ):
        learned[name] = await lab.learn(CROWD, replace(recipe, name=name), state)
        found[name] = await lab.measure(name, learned[name].adapter)
    reliabilities = learned["lcpo"].detail["reliabilities"]
    rows = [
        [name, shown(one.hallucination), shown(one.coverage), f"{one.skills_drop.value:.3f}"]
        for name, one in found.items()
    ]
    told = sorted(reliabilities.items(), key=lambda item: item[1])
    said = " ".join(f"{value:.2f}{'*' if name in contrary else ''}" for name, value in told)
    title = f"{CONTRARY} of {len(heard)} say the opposite. Reliabilities by lcpo, * of the {CONTRARY}: {said}"
    made = table(title, ("learned from", "hallucination", "coverage", "skills drop"), rows)
    return Outcome(made, identification(reliabilities, contrary) | retained(found))


def annotators(lab: Lab) -> list[str]:
    """Everybody who was heard, in the order of their first word."""
    groups = lab.study.groups(CROWD)
    pairs = [pair.annotator for group in groups for pair in group.pairs if pair.source in HUMAN_SOURCES]
    return list(dict.fromkeys(pairs + [thumb.annotator for group in groups for thumb in group.unpaired]))


def identification(reliabilities: Mapping[str, float], contrary: Collection[str]) -> dict[str, float]:
    """How well reliabilities tell the contrary ones from the others."""
    theirs = [value for name, value in reliabilities.items() if name in contrary]
    others = [value for name, value in reliabilities.items() if name not in contrary]
    lower = sum((one < other) + (one == other) / 2 for one in theirs for other in others)
    suspected = [name for name, value in reliabilities.items() if value < HALF]
    right = sum(name in contrary for name in suspected)
    return {
        "unreliable_auc": lower / (len(theirs) * len(others)),
        "unreliable_precision": right / len(suspected) if suspected else math.nan,
        "unreliable_recall": right / len(theirs),
    }


def retained(found: Mapping[str, Quality]) -> dict[str, float]:
    """What the wrong signals cost."""
    values = {name: one.hallucination.value for name, one in found.items()}
    gain = values["base"] - values["sincere"]
    figures = {f"unreliable_hallucination_{name}": value for name, value in values.items()}
    for name in ("plain", "lcpo"):
        figures[f"unreliable_{name}_retained"] = (values["base"] - values[name]) / gain if gain > 0 else math.nan
        figures[f"unreliable_coverage_{name}"] = found[name].coverage.value
    return figures


UNRELIABLE: Final = Purpose(
    "unreliable",
    {CROWD: {}},
    run,
    {"unreliable_auc": (">=", 0.95), "unreliable_precision": (">=", 0.8), "unreliable_recall": (">=", 0.8)},
)
