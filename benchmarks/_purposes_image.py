"""`mdpo` and `rdpo` make answers depend on the image, where plain DPO also learns what needs no looking.

All learn from the same choices, with the same settings. They are measured on choices that another crowd made, about
other scenes: once under the scene that the answers are about, once under another choice's scene.

- `image_accuracy_*`, `image_accuracy_wrong_*`: choices whose chosen answer the policy's implicit reward prefers, under
  the right image and under the wrong one. `image_drop_*`: by how much the wrong image lowers it. What is preferred
  under any image was preferred without looking.
- `image_depends_*`: chosen answers whose implicit reward is higher under the right image than under the wrong one.
- `image_gap_*`: nats by which the chosen answer is likelier under the right image than under the wrong one.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks._purposes import CROWD, ONE_PASS, Lab, Outcome, Purpose, shown, table
from benchmarks._purposes_likelihood import Case, Likelihood, changes, totals
from benchmarks._study import Quality, Recipe, people
from clients.demo.language import Question, description_question
from clients.demo.statistics import Figure, share_over_scenes
from learner.examples import HUMAN_SOURCES
from server.wire.base import BASE
from server.wire.training import TrainingGroup

KEPT_BACK: Final = "image-kept-back"
SEED: Final = 7
SIGNALS: Final = {False: 250, True: 150}
FIRST_SCENE_KEPT_BACK: Final = 500_000
OBJECTIVES: Final = ("sigmoid", "mdpo", "rdpo")
RECIPES: Final = tuple(Recipe(name, ONE_PASS | {"objectives": {name: 1.0}}) for name in OBJECTIVES)


@dataclass(frozen=True, slots=True)
class Looking:
    """How a policy takes the choices kept back, under their own and under other images."""

    right: Figure
    wrong: Figure
    drop: Figure
    depends: Figure
    gap: float


async def run(lab: Lab) -> Outcome:
    await lab.crowd()
    await lab.study.collect(
        KEPT_BACK, people(SEED), SIGNALS[lab.quick], lab.doing("choices kept back"), question=elsewhere
    )
    right = choices(lab.study.groups(KEPT_BACK))
    wrong = with_other_images(right)
    likelihood = await asyncio.to_thread(Likelihood, lab.study.client)

    async def under(adapter: str) -> tuple[list[list[float]], list[list[float]]]:
        values = await asyncio.to_thread(likelihood.of, adapter, [*right, *wrong])
        every = totals(values)
        return every[: len(right)], every[len(right) :]

    base = await under(BASE)
    found: dict[str, Looking] = {}
    qualities: dict[str, Quality] = {"base": await lab.measure("base", BASE)}
    for recipe in RECIPES:
        adapter = (await lab.learn(CROWD, recipe)).adapter
        found[recipe.name] = looking(await under(adapter), base)
        qualities[recipe.name] = await lab.measure(recipe.name, adapter)
    gap = mean_gap(*base)
    rows = [["base", "", "", "", "", f"{gap:.2f}", *invented(qualities["base"])]]
    for name, one in found.items():
        figured = [shown(figure) for figure in (one.right, one.wrong, one.drop, one.depends)]
        rows.append([name, *figured, f"{one.gap:.2f}", *invented(qualities[name])])
    columns = ("learned by", "right image", "wrong image", "drop", "depends", "gap, nats", "hallucination", "coverage")
    title = f"Accuracy on {len(right)} choices of others, about other scenes"
    return Outcome(table(title, columns, rows), {**figures(found), "image_gap_base": gap})


def elsewhere(seed: int) -> Question:
    return description_question(seed + FIRST_SCENE_KEPT_BACK)


def choices(groups: Sequence[TrainingGroup]) -> list[Case]:
    """What people chose between, the chosen answer first."""
    found = []
    for group in groups:
        tokens = {candidate.id: tuple(candidate.token_ids) for candidate in group.candidates}
        found += [
            Case(tuple(group.prompt_token_ids), tuple(group.images), (tokens[pair.chosen], tokens[pair.rejected]))
            for pair in group.pairs
            if pair.source in HUMAN_SOURCES
        ]
    return found


def with_other_images(cases: Sequence[Case]) -> list[Case]:
    """Each under the images of the next case that has others."""
    made = []
    for place, case in enumerate(cases):
        following = [*cases[place + 1 :], *cases[:place]]
        other = next(one.images for one in following if one.images != case.images)
        made.append(replace(case, images=other))
    return made


def looking(
    policy: tuple[list[list[float]], list[list[float]]], base: tuple[list[list[float]], list[list[float]]]
) -> Looking:
    """From the log-probabilities of (chosen, rejected) answers under right and wrong images."""
    right, wrong = (changes(after, before) for after, before in zip(policy, base, strict=True))
    agrees = [float(chosen > rejected) for chosen, rejected in right]
    agrees_blindly = [float(chosen > rejected) for chosen, rejected in wrong]
    depends = [float(one[0] > other[0]) for one, other in zip(right, wrong, strict=True)]
    return Looking(
        share(agrees),
        share(agrees_blindly),
        share([one - other for one, other in zip(agrees, agrees_blindly, strict=True)]),
        share(depends),
        mean_gap(*policy),
    )


def share(values: Sequence[float]) -> Figure:
    return share_over_scenes([(value, 1.0) for value in values])


def mean_gap(right: Sequence[Sequence[float]], wrong: Sequence[Sequence[float]]) -> float:
    return statistics.mean(one[0] - other[0] for one, other in zip(right, wrong, strict=True))


def invented(quality: Quality) -> list[str]:
    return [shown(quality.hallucination), f"{quality.coverage.value:.3f}"]


def figures(found: Mapping[str, Looking]) -> dict[str, float]:
    made: dict[str, float] = {}
    for name, one in found.items():
        made |= {
            f"image_accuracy_{name}": one.right.value,
            f"image_accuracy_wrong_{name}": one.wrong.value,
            f"image_drop_{name}": one.drop.value,
            f"image_depends_{name}": one.depends.value,
            f"image_gap_{name}": one.gap,
        }
    plain = found["sigmoid"].drop.value
    return made | {f"image_drop_{name}_vs_sigmoid": found[name].drop.value - plain for name in ("mdpo", "rdpo")}


IMAGE: Final = Purpose(
    "image",
    {CROWD: {}, KEPT_BACK: {}},
    run,
    {"image_drop_mdpo_vs_sigmoid": (">", 0.0), "image_drop_rdpo_vs_sigmoid": (">", 0.0)},
)
