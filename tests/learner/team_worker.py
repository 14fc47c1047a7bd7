"""What `test_team` starts by torchrun: rank 0 makes the same steps alone and with the others, and writes both down."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from learner.assembly import Assembly, Job, assemble
from learner.augmentation import reader
from learner.batch import Acquaintance
from learner.branches import find_partners
from learner.evaluation import evaluate
from learner.examples import Example, Limits, Wanted, prepare
from learner.follower import Follower
from learner.model import Base, Policy
from learner.objectives import Needs
from learner.settings import Settings
from learner.team import Team, join
from learner.vision import Vision
from learner.workplace import Pace
from tests.learner.fake_server import FakeServer, candidate, make_group
from tests.learner.tiny import EOS, TARGETS

LORA = {"rank": 4, "alpha": 8, "learning_rate": 1e-2, "target_modules": TARGETS, "max_kl": 50.0}
STEPS = ((0, 1, 2, 3, 4, 5), (11,), (6, 7, 8, 9), (10, 11), (2, 5, 8, 11), (1, 2, 5, 7, 8, 9))
"""Groups of each step; with one group the other process has none."""
POISONED = 3
CHANGED = 4
"""Before this one rank 0 changes the adapter by itself and judges it, as early stop does; the others must follow."""


@dataclass(frozen=True)
class Case:
    settings: dict[str, Any]
    has_parent: bool = False
    max_tokens: int = 8192


CASES = {
    "pairs and thumbs": Case(
        {
            "objectives": {"sigmoid": 1.0, "sft": 0.3, "kto": 0.5},
            "weighting": {"pairs": "lcpo", "unpaired": "lcpo"},
        }
    ),
    "views": Case({"objectives": {"mdpo": 1.0}, "weighting": {"pairs": "lcpo"}}),
    "rewards": Case({"objectives": {"grpo": 1.0, "sigmoid": 0.5}}, has_parent=True, max_tokens=24),
    "whole distributions": Case(
        {"objectives": {"tdpo2": 1.0}, "reference": "ema", "ema_decay": 0.5, "entanglement_every": 2}, max_tokens=40
    ),
    "halves": Case({"objectives": {"mdpo": 1.0, "kto": 0.5}, "normalized_gradients": True}),
    "moving average": Case({"objectives": {"sigmoid": 1.0}, "reference": "ema", "ema_decay": 0.5}, max_tokens=40),
}


class DoubleFollower(Follower):
    """In float64."""

    def open(self, base_dir: Path, *arguments: Any) -> None:
        super().open(base_dir, *arguments)
        assert self._base is not None
        self._base.model.double()


def examples_of(server: FakeServer) -> list[Example]:
    """Pairs or thumbs, by several people, and four answers with rewards, in each of twelve groups."""
    limits = Limits(server.base_digest, 64, 512, 60 + 1)
    wanted = Wanted(kinds=frozenset(Needs))
    made = []
    for number in range(12):
        group = make_group(number, server.base_digest, server)
        drawn = [
            candidate(f"r{place}", [10] * place + [20] * (3 - place) + [EOS], total=float(place), logprobs=[-2.0] * 4)
            for place in range(2 + number % 3)
        ]
        said = [one.model_copy(update={"annotator": f"ann{number % 4}"}) for one in group.pairs]
        thumbs = [one.model_copy(update={"annotator": f"ann{number % 4}"}) for one in group.unpaired]
        update = {"candidates": [*group.candidates, *drawn], "pairs": said, "unpaired": thumbs, "rewarded": True}
        example = prepare(group.model_copy(update=update), limits, wanted).example
        assert example is not None
        made.append(example)
    return made


def poisoned(example: Example) -> Example:
    """With weights that are no numbers."""
    return replace(
        example,
        pairs=tuple(replace(one, weight=math.nan) for one in example.pairs),
        unpaired=tuple(replace(one, weight=math.nan) for one in example.unpaired),
    )


def parent_of(base: Base) -> dict[str, bytes]:
    policy = Policy.fresh(base, Settings.model_validate(LORA), seed=7)
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters.values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    files = policy.files("base")
    policy.close()
    return files


def trained(training: Assembly, examples: Sequence[Example]) -> dict[str, Any]:
    """Everything that a round would see of these steps."""
    policy, collator, trainer = training.policy, training.collator, training.trainer
    collator.acquaint(Acquaintance(find_partners(examples), 3.0, {}, 0))
    collator.prepare_reference(examples[:6])
    result: dict[str, Any] = {"steps": [], "gradients": []}
    for number, step in enumerate(STEPS):
        batch = [examples[index] for index in step]
        if number == POISONED:
            batch[0] = poisoned(batch[0])
        if number == CHANGED:
            next(iter(policy.parameters.values())).data.mul_(1.5)
            evaluate(policy, training.engine, collator, examples, 0.1)
        result["steps"].append(trainer.step(batch))
        gradients = [one.grad for one in policy.parameters.values() if one.grad is not None]
        result["gradients"].append([] if number == POISONED else flat(gradients))
    result["parameters"] = flat(policy.parameters.values())
    result["reliabilities"] = dict(trainer.reliabilities)
    result["discarded"] = trainer.progress.reasons
    evaluation = evaluate(policy, training.engine, collator, examples, 0.1)
    result["standing"] = evaluation.standing.model_dump()
    result["answers"] = sorted((one.group, one.answer.candidate, one.delta) for one in evaluation.answers)
    policy.close()
    return result


def flat(tensors: Any) -> list[float]:
    return [value for one in tensors for value in one.detach().flatten().tolist()]


def held_share(base: Base) -> float:
    """How much of the decoder layers is in this process."""
    layers = list(base.model.model.language_model.layers.parameters())
    mine = sum((one.to_local() if isinstance(one, DTensor) else one).numel() for one in layers)
    return mine / sum(one.numel() for one in layers)


def main(base_dir: Path, out: Path) -> None:
    torch.set_num_threads(1)
    team = join("cpu")
    if team.rank > 0:
        DoubleFollower(team).run()
        team.close()
        return
    server = FakeServer(str(base_dir), "digest")
    examples = examples_of(server)
    media = out / "media"
    media.mkdir()
    for digest, content in server.images.items():
        (media / digest).write_bytes(content)
    alone = Base(base_dir, "cpu")
    alone.model.double()
    parent = parent_of(alone)
    results: dict[str, Any] = {}
    for shard in (False, True):
        team.tell("open", base_dir, "cpu", media, 2**30, shard)
        base = Base(base_dir, "cpu", team if shard else None)
        base.model.double()
        results["held", shard] = held_share(base)
        for name, case in CASES.items():
            job = Job(
                settings=Settings.model_validate(LORA | case.settings),
                seed=5,
                parent=parent if case.has_parent else None,
                thumbs=(4.0, 4.0),
                reliabilities={"ann1": 0.7},
                steps=len(STEPS),
            )
            pace = Pace(max_tokens=case.max_tokens, gradient_checkpointing=shard and name == "rewards")
            sides = []
            for one, by in ((alone, Team()), (base, team)):
                vision = Vision(one.model, base_dir, reader(server.images.__getitem__), 2**30)
                sides.append(trained(assemble(one, vision, pace, by, job), examples))
                by.tell("close")
            results[name, shard] = sides
    team.close()
    told = [[key, value] for key, value in results.items()]
    (out / "results.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
