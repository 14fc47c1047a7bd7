"""From one alias's pairs to a reward model's files, in a state directory of its own."""

from __future__ import annotations

import argparse
import logging
import threading
from collections import Counter
from typing import Final

from clients.client import PlumblineClient
from learner.errors import LearnerError
from learner.examples import Example, Wanted, prepare
from learner.material import image_problem
from learner.model import Base, Policy, check_base, find_base
from learner.objectives import Needs
from learner.reward_model import RewardModel, Schedule, train
from learner.settings import Settings, read_settings
from learner.state import StateDir
from learner.workplace import Pace, Workplace

KEPT_BACK: Final = 0.1
"""Share of the prompts that the model is measured by."""

logger = logging.getLogger("learner.reward_bt")


def build(client: PlumblineClient, given: argparse.Namespace) -> float:
    """Train and save; the accuracy on the pairs that were kept back. Raises `LearnerError`, `PlumblineError`."""
    if given.out.exists():
        raise LearnerError(f"{given.out} is there already")
    directory = StateDir(given.state / given.alias)
    try:
        config = client.training_config(given.alias)
        settings = read_settings(config)
        base_dir = find_base(given.base_model or config.base_model)
        check_base(base_dir, config.base_digest)
        place = Workplace(
            client=client,
            alias=given.alias,
            directory=directory,
            state=directory.load(),
            base=Base(base_dir, given.device),
            base_dir=base_dir,
            base_digest=config.base_digest,
            pace=Pace(),
            stop=threading.Event(),
        )
        place.follow_feed(settings.capacity)
        return _build(place, settings, given)
    finally:
        directory.close()


def _build(place: Workplace, settings: Settings, given: argparse.Namespace) -> float:
    schedule = Schedule(epochs=given.epochs)
    examples = usable(place)
    if not examples:
        raise LearnerError("there are no pairs to learn from")
    kept_back = [example for example in examples if example.lot < KEPT_BACK]
    taught = [example for example in examples if example.lot >= KEPT_BACK]
    policy = Policy.fresh(place.base, settings, schedule.seed)
    model = RewardModel(policy, place.vision, given.ending)
    train(model, taught, schedule, lambda step, steps, loss: logger.info("step %d/%d loss %.4f", step, steps, loss))
    accuracy = model.accuracy(kept_back)
    logger.info("accuracy %.3f on %d groups kept back, %d taught", accuracy, len(kept_back), len(taught))
    model.save(given.out, place.base_dir)
    logger.info("serve it: vllm serve %s --runner pooling --convert classify", given.out)
    return accuracy


def usable(place: Workplace) -> list[Example]:
    """Every group with pairs whose images are there and fit the prompt; what is skipped is logged with its reason."""
    skipped: Counter[str] = Counter()
    kept: list[Example] = []
    for group in place.replay.all():
        prepared = prepare(group, place.limits, Wanted(kinds=frozenset({Needs.PAIRS})))
        skipped.update(prepared.skipped)
        if prepared.example is None:
            continue
        problem = image_problem(place.vision, [prepared.example], place.base.image_token_id)
        if problem is None:
            kept.append(prepared.example)
        else:
            skipped[problem] += 1
    for reason, count in skipped.items():
        logger.warning("skipped %d: %s", count, reason)
    return kept
