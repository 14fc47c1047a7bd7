"""`self_inject` reduces hallucination though nobody says anything.

The learner is told of the answers that the model gave and of nothing that was said of them: no choice, no thumb, no
rule. Its pairs prefer an own answer to the same answer with a hallucination put in (an object that often comes with
the others, in the words of another answer).

- `no_signal_hallucination`, `no_signal_hallucination_base`; `no_signal_fall`: 1 − one / the other.
- `no_signal_low`: by how much their 95% intervals lie apart; below zero they overlap.
"""

from __future__ import annotations

from typing import Final

from benchmarks._purposes import CROWD, ONE_PASS, Lab, Outcome, Purpose, shown, table
from benchmarks._purposes_mask import CLAUSES
from benchmarks._study import Recipe
from server.wire.base import BASE

LEARNER: Final = ONE_PASS | {"objectives": {"sigmoid": 1.0}, "self_inject": 1.0, "separators": list(CLAUSES)}
RECIPE: Final = Recipe("self_inject", LEARNER, is_speechless=True)


async def run(lab: Lab) -> Outcome:
    await lab.crowd()
    learned = await lab.learn(CROWD, RECIPE, f"learner-{CROWD}-speechless")
    found = {"base": await lab.measure("base", BASE), RECIPE.name: await lab.measure(RECIPE.name, learned.adapter)}
    rows = [
        [name, shown(one.hallucination), shown(one.coverage), shown(one.skills_drop)] for name, one in found.items()
    ]
    base, after = (found[name].hallucination.value for name in ("base", RECIPE.name))
    title = f"Nobody says anything: {learned.detail['groups']} groups of answers"
    return Outcome(
        table(title, ("model", "hallucination", "coverage", "skills drop"), rows),
        {
            "no_signal_hallucination_base": base,
            "no_signal_hallucination": after,
            "no_signal_fall": 1 - after / base,
            "no_signal_low": found["base"].hallucination.low - found[RECIPE.name].hallucination.high,
            "no_signal_coverage": found[RECIPE.name].coverage.value,
            "no_signal_skills_drop": found[RECIPE.name].skills_drop.value,
        },
    )


NO_SIGNAL: Final = Purpose("no_signal", {CROWD: {}}, run, {"no_signal_low": (">", 0.0)})
