"""Rewards for `benchmarks.alignment`'s GRPO: a reward model of the same people's pairs judges every answer offered.

`reward_bt` as it is, asked in the learner's process instead of through an engine of its own.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final

import torch
from transformers import AutoTokenizer

from clients.client import PlumblineClient
from clients.demo.settings import LEARNER, MODEL
from clients.demo.tokenizer import TURN_END
from learner.examples import Wanted, prepare
from learner.material import image_problem
from learner.model import Base, Policy
from learner.objectives import Needs
from learner.reward_model import RewardModel, Schedule, train
from learner.reward_training import KEPT_BACK, usable
from learner.settings import Capacity, Settings
from learner.state import StateDir
from learner.workplace import Pace, Workplace

SCHEDULE: Final = Schedule(epochs=4, peak_learning_rate=1e-3)
EVERYTHING: Final = Capacity(groups=100_000, rewarded=100_000)

logger = logging.getLogger(__name__)


def judged(client: PlumblineClient, alias: str, state: Path) -> dict[str, float]:
    """A reward for every candidate of the alias's groups. How good the model is, is logged."""
    directory = StateDir(state / "reward_bt")
    base = Base(MODEL, "cpu")
    place = Workplace(
        client=client,
        alias=alias,
        directory=directory,
        state=directory.load(),
        base=base,
        base_dir=MODEL,
        base_digest=client.training_config(alias).base_digest,
        pace=Pace(),
        stop=threading.Event(),
    )
    try:
        place.follow_feed(EVERYTHING)
        pairs = usable(place)
        ending = tuple(AutoTokenizer.from_pretrained(MODEL).encode(f"{TURN_END}\n", add_special_tokens=False))
        model = RewardModel(Policy.fresh(base, Settings(**LEARNER), SCHEDULE.seed), place.vision, ending)
        taught, kept_back = [[one for one in pairs if (one.lot < KEPT_BACK) is back] for back in (False, True)]
        train(model, taught, SCHEDULE, lambda step, steps, loss: None)
        logger.info("accuracy on the pairs kept back: %.3f", model.accuracy(kept_back))
        return rewards(model, place)
    finally:
        directory.close()


@torch.no_grad()
def rewards(model: RewardModel, place: Workplace) -> dict[str, float]:
    wanted = Wanted(kinds=frozenset({Needs.REWARDED}))
    found: dict[str, float] = {}
    for group in place.replay.all():
        example = prepare(group, place.limits, wanted).example
        if example is not None and image_problem(place.vision, [example], place.base.image_token_id) is None:
            values = model.rewards([example]).tolist()
            found |= {answer.candidate: value for answer, value in zip(example.answers, values, strict=True)}
    return found
