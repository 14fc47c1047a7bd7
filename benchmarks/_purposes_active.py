"""`compare: "auto"` asks where the ensemble is undecided: does it need fewer labels than asking at random?

The same people, about the same scenes, in the same order; the recipe is the same. One crowd is asked to choose whenever
two answers say different things ("always"), and gives so many labels. Others give six in ten of that: asked always,
too, or only where the alias's `[aliases.compare]` says that the ensemble is undecided (by `margin` between the two
answers shown, or by `entropy` of all). Every seed is another crowd.

- `active_hallucination_*`: over all seeds.
- `active_difference_*`: hallucination with six in ten labels − with all labels asked at random, the same scenes
  compared; `_low`, `_high`: its 95% interval. `random` is what fewer labels cost by themselves.
- `active_questions_*`: requests for each label given: what choosing the questions costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks._purposes import SMALL_STEPS, Lab, Outcome, Purpose, shown, table
from benchmarks._study import USERS, Recipe
from clients.demo.language import absent_objects
from clients.demo.measure import Descriptions
from clients.demo.statistics import Figure, share_over_scenes
from clients.demo.users import User, make_users

LABELS: Final = 120
FEWER: Final = 0.6
SEEDS: Final = {False: (0, 1, 2), True: (0,)}
DESCRIPTIONS: Final = {False: 300, True: 200}
ALL: Final = "all"
ARMS: Final[Mapping[str, dict[str, Any]]] = {
    ALL: {},
    "random": {},
    "margin": {"when": "margin"},
    "entropy": {"when": "entropy"},
}
"""The alias's `compare` settings; the first gives all labels."""
RECIPE: Final = Recipe("active", SMALL_STEPS | {"objectives": {"sigmoid": 1.0, "sft": 1.0}, "learning_rate": 1e-3})


@dataclass(frozen=True, slots=True)
class Asked:
    """Of one arm and seed. `invents`: of each scene's description."""

    questions: int
    labels: int
    invents: tuple[bool, ...]
    coverage: float


async def run(lab: Lab) -> Outcome:
    found: dict[str, list[Asked]] = {name: [] for name in ARMS}
    for seed in SEEDS[lab.quick]:
        for name in ARMS:
            labels = LABELS if name == ALL else round(FEWER * LABELS)
            alias = alias_of(name, seed)
            questions = await lab.study.collect(alias, choosers(seed), labels, lab.doing(f"{alias}: labels"))
            adapter = (await lab.learn(alias, RECIPE)).adapter
            said = await lab.study.describe(adapter, lab.doing(alias), DESCRIPTIONS[lab.quick])
            found[name].append(Asked(questions, labels, invents(said), said.coverage.value))
    made = figures(found)
    rows = [
        [
            name,
            str(LABELS if name == ALL else round(FEWER * LABELS)),
            f"{made[f'active_questions_{name}']:.1f}",
            shown(hallucination(every)),
            "" if name == ALL else shown(difference(every, found[ALL])),
            f"{sum(one.coverage for one in every) / len(every):.3f}",
        ]
        for name, every in found.items()
    ]
    columns = ("asked", "labels", "requests a label", "hallucination", "beyond all labels", "coverage")
    return Outcome(table(f"{len(found[ALL])} crowds of {USERS}", columns, rows), made)


def alias_of(arm: str, seed: int) -> str:
    return f"active-{arm}-{seed}"


def choosers(seed: int) -> list[User]:
    """The demo's users, all of whom choose."""
    return [User(one.id, gives_thumbs_only=False, seed=one.seed) for one in make_users(USERS, seed)]


def invents(said: Descriptions) -> tuple[bool, ...]:
    """Of every question, so that arms can be compared question by question."""
    pairs = zip(said.questions, said.answers, strict=True)
    return tuple(bool(absent_objects(asked.scene, answer.choices[0].text)) for asked, answer in pairs)


def hallucination(every: Sequence[Asked]) -> Figure:
    return share_over_scenes([(float(value), 1.0) for one in every for value in one.invents])


def difference(fewer: Sequence[Asked], full: Sequence[Asked]) -> Figure:
    """Mean of fewer − full over the same seeds and scenes."""
    return share_over_scenes(
        [
            (float(one) - float(other), 1.0)
            for some, every in zip(fewer, full, strict=True)
            for one, other in zip(some.invents, every.invents, strict=True)
        ]
    )


def figures(found: Mapping[str, Sequence[Asked]]) -> dict[str, float]:
    made = {"active_labels": FEWER}
    for name, every in found.items():
        made[f"active_hallucination_{name}"] = hallucination(every).value
        made[f"active_questions_{name}"] = sum(one.questions for one in every) / sum(one.labels for one in every)
        if name != ALL:
            beyond = difference(every, found[ALL])
            made |= {
                f"active_difference_{name}": beyond.value,
                f"active_difference_{name}_low": beyond.low,
                f"active_difference_{name}_high": beyond.high,
            }
    return made


ACTIVE: Final = Purpose(
    "active",
    {
        alias_of(name, seed): {"rules": [], "compare": compare}
        for seed in SEEDS[False]
        for name, compare in ARMS.items()
    },
    run,
    {"active_difference_margin_high": ("<=", 0.05), "active_difference_entropy_high": ("<=", 0.05)},
)
