"""The training of a round: prepare → steps → pre-check, until an adapter's files are durable or the round is over.

The feed is applied before every batch: what is erased, quarantined or changed leaves replay, caches and the rest of
the round at once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from clients.client import PlumblineError
from learner.assembly import Assembly, Job, assemble
from learner.branches import find_partners
from learner.context import Context
from learner.curriculum import level
from learner.early_stop import BestEpoch
from learner.errors import LeaseLost, RoundAborted, Stopped
from learner.evaluation import Evaluation, evaluate, fingerprint, objection
from learner.examples import Example
from learner.labels import mean_length
from learner.metrics import Bar, Board, curve
from learner.missing import explained, idle
from learner.model import check_modules
from learner.plan import schedule, seeded
from learner.publish import describe_files, fetch, keep, read_kept
from learner.rollouts import Rollouts, answered_anew
from learner.state import RoundState
from learner.views import RETRIEVE, find_similar
from server.wire.adapters import AdapterManifest
from server.wire.base import BASE

MAX_EVALUATED: Final = 64
"""Groups that the pre-check looks at."""

logger = logging.getLogger(__name__)


def train(context: Context, state: RoundState) -> None:
    """Ends with the round's phase `upload` or `report`; raises `LeaseLost` or `Stopped`."""
    _prepare_examples(context, state)
    place = context.place
    without = idle(state.settings.objectives, context.material.examples.values())
    lacking = explained(without, place.replay.all()) if without else ""
    if len(without) == sum(weight > 0 for weight in state.settings.objectives.values()):
        state.end("skipped", f"there is nothing to learn from: {lacking or 'no objective has a weight'}")
        return
    if lacking:
        logger.warning("round %d goes without some objectives: %s", state.number, lacking)
        state.detail = {**state.detail, "without_examples": lacking}
    made = assemble(place.base, place.vision, place.pace, place.team, _job(context, state))
    try:
        check_modules(made.policy, context.config.lora_modules)
        _Training(context, state, made).run()
    finally:
        place.team.tell("close")
        made.policy.close()


def _prepare_examples(context: Context, state: RoundState) -> None:
    """The plan's examples as they stand now, in the plan's order (after a restart: from the replay's files)."""
    place, material = context.place, context.material
    if not material.examples:
        groups = [place.replay.get(group) for group in state.plan]
        material.gather([group for group in groups if group is not None], state.settings, state.parent)
        place.dirty.clear()
        material.skipped.clear()  # counted when the round was planned


def _job(context: Context, state: RoundState) -> Job:
    thumbs = context.material.thumbs
    return Job(
        settings=state.settings,
        seed=state.seed,
        parent=None if state.parent == BASE else _parent_files(context, state.parent),
        thumbs=(thumbs(desirable=True), thumbs(desirable=False)),
        reliabilities=state.reliabilities,
        steps=sum(map(len, schedule(state))),
    )


def _parent_files(context: Context, parent: str) -> dict[str, bytes]:
    place = context.place
    files = read_kept(place.directory.adapters / parent)
    if files is None:
        files = place.patiently(lambda: fetch(place.client, parent), context.heart.check)
        keep(files, place.directory.adapters / parent)
    return files


class _Training:
    """Of one round, with the policy, its engine, collator and trainer at hand."""

    def __init__(self, context: Context, state: RoundState, made: Assembly) -> None:
        self._context = context
        self._place = context.place
        self._material = context.material
        self._state = state
        self._policy = made.policy
        self._engine = made.engine
        self._collator = made.collator
        self._trainer = made.trainer

    def run(self) -> None:
        place, state = self._place, self._state
        start = self._policy.tensors()
        self._acquaint()
        self._context.tell("reference")
        self._prepare_reference()
        place.at("prepared")
        if state.before is None:
            state.before = self._evaluate(state.plan).standing
            place.save()
        self._context.tell("train")
        try:
            self._steps()
        except RoundAborted as error:
            if isinstance(error, LeaseLost):
                raise
            state.end("discarded", str(error))
        state.detail = {**self._detail(), **state.detail}
        if state.outcome is None:
            self._finish(start, self._evaluate(state.plan))

    def _prepare_reference(self) -> None:
        for part in self._collator.split(self._taught(), self._place.team.size):
            self._context.pause_point()
            self._collator.prepare_reference(part)

    def _taught(self) -> list[Example]:
        """The examples that the round learns from, as they stand now."""
        kept = set(self._state.kept_back)
        return [example for group, example in self._material.examples.items() if group not in kept]

    def _acquaint(self) -> None:
        """Tell the collator what it must know of the round as a whole."""
        examples = self._taught()
        self._collator.branches.partners = find_partners(examples)
        self._collator.round_length = mean_length(examples)
        if RETRIEVE in self._state.settings.recipe().views:
            self._collator.similar = find_similar(examples, self._place.vision.sketches)

    def _evaluate(self, groups: list[str]) -> Evaluation:
        self._context.tell("evaluate")
        sample = sorted(seeded(str(self._state.seed)).sample(groups, min(MAX_EVALUATED, len(groups))))
        held = self._material.examples
        examples = [held[group] for group in sample if group in held]
        return evaluate(self._policy, self._engine, self._collator, examples, self._state.settings.beta)

    def _steps(self) -> None:
        place, state, trainer = self._place, self._state, self._trainer
        context = self._context
        directory = place.directory.round_dir(state.number)
        if trainer.restore(directory):
            logger.info("round %d: resumed at step %d", state.number, trainer.progress.step)
        epochs = schedule(state)
        per_epoch, steps = len(epochs[0]), [batch for epoch in epochs for batch in epoch]
        best = BestEpoch(directory, trainer.policy.parameters, state.settings.patience)
        del state.epochs[trainer.progress.step // per_epoch :]
        board = Board(place.directory.tensorboard, state.number, trainer.progress.step)
        try:
            with (
                Bar(f"round {state.number}", len(steps), trainer.progress.step) as bar,
                Rollouts(
                    place, context.lease, context.config, state, material=self._material, trainer=trainer
                ) as rollouts,
            ):
                rollouts.ask(steps)
                for index in range(trainer.progress.step, len(steps)):
                    if place.stop.is_set():
                        trainer.save(directory)
                        raise Stopped
                    context.heart.check()
                    if index % per_epoch == 0 and self._is_enough(index // per_epoch, best):
                        break
                    rollouts.wait(context.heart.check)
                    self._follow_feed()
                    held = self._material.examples
                    batch = [held[group] for group in steps[index] if group in held]
                    place.at("batch")
                    fresh = rollouts.take()
                    rollouts.ask(steps)
                    if fresh:
                        self._collator.round_length = mean_length([*self._taught(), *fresh])
                    if state.settings.curriculum == "perturbation":
                        self._collator.level = level(index, len(steps))
                    metrics = trainer.step([*batch, *fresh]) if batch else trainer.skip()
                    self._collator.forget(example.group for example in fresh)
                    board.add(index, metrics)
                    bar.advance(metrics)
                    done = {"progress": (index + 1) / len(steps), "steps_discarded": trainer.progress.discarded}
                    self._context.tell("train", {**metrics, **done})
                    place.at("step")
                    if (index + 1) % place.pace.checkpoint_steps == 0:
                        trainer.save(directory)
                        place.at("checkpoint")
        finally:
            board.close()
        if state.kept_back:
            self._is_enough(trainer.progress.step // per_epoch, best)
            best.restore()

    def _is_enough(self, epochs: int, best: BestEpoch) -> bool:
        """Whether early stop wants no more after so many epochs. Measures the last one where that was not done yet."""
        state = self._state
        if not state.kept_back or not epochs:
            return False
        if len(state.epochs) < epochs:
            standing = self._evaluate(state.kept_back).standing
            state.epochs.append(standing)
            self._context.tell("evaluate", {"validation_loss": standing.loss, "validation_accuracy": standing.accuracy})
            self._context.tell("train")
        enough = best.note(state.epochs)
        self._place.save()
        return enough

    def _follow_feed(self) -> None:
        """Apply what has changed. While the server is away nothing can have been erased there, so training goes on."""
        place, state = self._place, self._state
        try:
            place.follow_feed(state.settings.capacity)
        except PlumblineError as error:
            if not error.is_transient:
                raise
        changed = place.dirty & set(state.plan)
        place.dirty.clear()
        if not changed:
            return
        material = self._material
        self._collator.forget(material.refresh(changed, state.settings, state.plan))
        self._acquaint()
        state.skipped = dict(Counter(state.skipped) + material.skipped)
        material.skipped.clear()
        place.save()

    def _detail(self) -> dict[str, object]:
        progress = self._trainer.progress
        return {
            "steps": progress.step,
            "steps_discarded": progress.discarded,
            **({"steps_imitating": steps} if (steps := min(progress.step, self._trainer.imitated_steps)) else {}),
            "discard_reasons": progress.reasons,
            "curve": curve(progress.history),
            "reliabilities": self._of_the_heard(self._trainer.reliabilities),
            **({"rollouts": {**progress.rollouts, "skipped": progress.rollouts_skipped}} if progress.rollouts else {}),
        }

    def _of_the_heard(self, reliabilities: Mapping[str, float]) -> dict[str, float]:
        """Without those whose last word was erased or set aside meanwhile."""
        heard = self._material.annotators
        return {name: value for name, value in reliabilities.items() if name in heard}

    def _finish(self, start: dict[str, Tensor], evaluation: Evaluation) -> None:
        """Pre-check; then the adapter's files and manifest are made durable, and the phase moves on."""
        state, policy, trainer = self._state, self._policy, self._trainer
        standing = state.after = evaluation.standing
        self._context.tell("evaluate", {"kl": standing.kl, "accuracy": standing.accuracy, "margin": standing.margin})
        tensors = policy.tensors()
        before = state.before
        assert before is not None
        problem = objection(before, standing, state.settings.max_kl)
        if problem is None and all(torch.equal(tensors[name], start[name]) for name in tensors):
            problem = "the adapter does not differ from its parent"
        if problem is not None:
            state.end("discarded", problem)
            return
        state.reliabilities = self._of_the_heard(trainer.progress.reliabilities)
        files = policy.files(self._context.config.base_model)
        keep(files, self._place.directory.round_dir(state.number))
        self._place.at("written")
        state.manifest = AdapterManifest(
            alias=self._place.alias,
            base_digest=self._context.config.base_digest,
            parent=state.parent,
            objective=state.settings.model_dump(),
            feed_after=state.feed_after,
            feed_upto=state.feed_upto,
            sources={**self._material.sources, **answered_anew(trainer)},
            groups=trainer.progress.groups,
            annotators=trainer.progress.annotators,
            fingerprint=fingerprint(evaluation.answers, policy.base.eos_ids),
            files=describe_files(files),
        ).model_dump_json()
        state.phase = "upload"
