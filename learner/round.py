"""One round: plan → prepare → train → pre-check → upload → report, resumable at every point.

The plan (which groups, in which order, from which parent, with which settings) is fixed when the round begins
and stands in the state file; everything after it follows from the plan, so a resumed round repeats what an
uninterrupted one does. The feed is applied before every batch all the same: what is erased, quarantined or
changed leaves replay, caches and the rest of the round at once.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from clients.client import PlumblineError
from learner.batch import Collator, find_partners, mean_length
from learner.early_stop import BestEpoch, kept_back
from learner.errors import LeaseLost, RoundAborted, Stopped
from learner.evaluation import Evaluation, evaluate, fingerprint, objection
from learner.examples import Example
from learner.lease import LOST_STATUSES, Heart
from learner.material import Material
from learner.metrics import Bar, Board, Clock, curve, finite
from learner.model import Policy, check_modules
from learner.prefix import PrefixModel
from learner.publish import FILES, describe_files, fetch, keep, read_kept, upload_once
from learner.rollouts import Rollouts, answered_anew
from learner.settings import Settings
from learner.state import Outcome, RoundState
from learner.trainer import Trainer
from learner.training import Job, assemble
from learner.workplace import Workplace, abandon
from server.wire.adapters import AdapterManifest
from server.wire.base import BASE
from server.wire.training import LeaseReply, RoundReport, TrainingConfig

MAX_EVALUATED: Final = 64
"""Groups that the pre-check looks at."""
GONE: Final = "gone since the round was planned"
"""Why a group was left out in mid-round: erased, set aside, taken back, expired, or pushed out by newer ones."""
KEPT_ADAPTERS: Final = 4
"""Adapters whose files are kept for continuing them."""

logger = logging.getLogger(__name__)


class Round:
    """One round under one lease. `run` ends with a report, or raises `LeaseLost` or `Stopped`."""

    def __init__(self, place: Workplace, lease: LeaseReply, config: TrainingConfig, heart: Heart) -> None:
        self._place = place
        self._lease = lease
        self._config = config
        self._heart = heart
        self._material = Material(place, self._pause_point)
        self._policy: Policy | None = None
        self._clock = Clock({})

    def run(self, settings: Settings) -> RoundState:
        """Plan a new round, or resume the one in the state; returns it as reported."""
        place = self._place
        seconds: dict[str, float] = place.state.round.seconds if place.state.round is not None else {}
        self._clock = Clock(seconds)
        try:
            if place.state.round is None:
                place.state.round = self._plan(settings)
                place.state.round.seconds = seconds
                place.save()
                place.at("planned")
            state = place.state.round
            counts = {"signals": state.signals, "groups": len(state.plan), "skipped": sum(state.skipped.values())}
            self._tell(state.phase, {name: float(count) for name, count in counts.items()})
            if state.phase == "training":
                self._train(state)
                place.save()
                place.at("trained")
            if state.phase == "upload":
                self._upload(state)
                place.save()
                place.at("saved")
        except LeaseLost as error:
            logger.warning("round abandoned: %s", error)
            abandon(place)
            raise
        finally:
            if self._policy is not None:
                place.team.tell("close")
                self._policy.close()
        self._report(state)
        return state

    # --- plan ---------------------------------------------------------------------------------------------

    def _plan(self, settings: Settings) -> RoundState:
        place = self._place
        state = place.state
        self._tell("plan")
        material = self._material
        material.gather(place.replay.all(), settings, self._lease.active)
        place.dirty.clear()
        number = state.rounds + 1
        planned = RoundState(
            number=number,
            parent=self._lease.active,
            settings=settings,
            seed=_random(f"{place.alias} {number} {self._lease.active}").getrandbits(32),
            plan=list(material.examples),
            kept_back=sorted(kept_back(list(material.examples.values()), settings)),
            signals=state.new_signals,
            feed_after=state.trained_upto,
            feed_upto=state.cursor,
            skipped=dict(material.skipped + place.replay.unreadable),
            reliabilities={name: eta for name, eta in state.reliabilities.items() if name in material.annotators},
        )
        state.new_signals = 0
        state.trained_upto = state.cursor
        material.skipped.clear()
        place.replay.unreadable.clear()
        place.directory.clear_rounds()
        logger.info(
            "round %d: %d groups, %d new signals, from %s", number, len(planned.plan), planned.signals, planned.parent
        )
        for reason, count in planned.skipped.items():
            logger.warning("skipped %d: %s", count, reason)
        return planned

    # --- training -----------------------------------------------------------------------------------------

    def _train(self, state: RoundState) -> None:
        place = self._place
        self._prepare_examples(state)
        if not self._material.examples:
            _close(state, "skipped", "there is nothing to learn from")
            return
        made = assemble(place.base, place.vision, place.pace, place.team, self._job(state))
        engine, collator, trainer = made.engine, made.collator, made.trainer
        policy = self._policy = made.policy
        check_modules(policy, self._config.lora_modules)
        start = policy.tensors()
        self._acquaint(state, collator)
        self._tell("reference")
        self._prepare_reference(state, collator)
        place.at("prepared")
        if state.before is None:
            state.before = self._evaluate(state.plan, state, engine, collator).standing
            place.save()
        self._tell("train")
        try:
            self._steps(state, trainer, engine, collator)
        except RoundAborted as error:
            if isinstance(error, LeaseLost):
                raise
            _close(state, "discarded", str(error))
        state.detail = {**self._detail(trainer), **state.detail}
        if state.outcome is None:
            self._finish(state, trainer, start, self._evaluate(state.plan, state, engine, collator))

    def _prepare_examples(self, state: RoundState) -> None:
        """The plan's examples as they stand now, in the plan's order (after a restart: from the replay's files)."""
        if not self._material.examples:
            groups = [self._place.replay.get(group) for group in state.plan]
            self._material.gather([group for group in groups if group is not None], state.settings, state.parent)
            self._place.dirty.clear()
            self._material.skipped.clear()  # counted when the round was planned

    def _job(self, state: RoundState) -> Job:
        thumbs = self._material.thumbs
        return Job(
            settings=state.settings,
            seed=state.seed,
            parent=None if state.parent == BASE else self._parent_files(state.parent),
            thumbs=(thumbs(desirable=True), thumbs(desirable=False)),
            reliabilities=state.reliabilities,
            steps=sum(map(len, _schedule(state))),
        )

    def _parent_files(self, parent: str) -> dict[str, bytes]:
        files = read_kept(self._place.directory.adapters / parent)
        if files is None:
            files = self._place.patiently(lambda: fetch(self._place.client, parent), self._heart.check)
            keep(files, self._place.directory.adapters / parent)
        return files

    def _prepare_reference(self, state: RoundState, collator: Collator) -> None:
        for part in collator.split(self._taught(state), self._place.team.size):
            self._pause_point()
            collator.prepare_reference(part)

    def _taught(self, state: RoundState) -> list[Example]:
        """The examples that the round learns from, as they stand now."""
        kept = set(state.kept_back)
        return [example for group, example in self._material.examples.items() if group not in kept]

    def _acquaint(self, state: RoundState, collator: Collator) -> None:
        """Tell the collator what it must know of the round as a whole."""
        examples = self._taught(state)
        collator.partners = find_partners(examples)
        collator.round_length = mean_length(examples)

    def _evaluate(self, groups: list[str], state: RoundState, engine: PrefixModel, collator: Collator) -> Evaluation:
        assert self._policy is not None
        self._tell("evaluate")
        sample = sorted(_random(str(state.seed)).sample(groups, min(MAX_EVALUATED, len(groups))))
        held = self._material.examples
        examples = [held[group] for group in sample if group in held]
        return evaluate(self._policy, engine, collator, examples, state.settings.beta)

    def _steps(self, state: RoundState, trainer: Trainer, engine: PrefixModel, collator: Collator) -> None:
        place = self._place
        directory = place.directory.round_dir(state.number)
        if trainer.restore(directory):
            logger.info("round %d: resumed at step %d", state.number, trainer.progress.step)
        epochs = _schedule(state)
        per_epoch, schedule = len(epochs[0]), [batch for epoch in epochs for batch in epoch]
        best = BestEpoch(directory, trainer.policy.parameters, state.settings.patience)
        del state.epochs[trainer.progress.step // per_epoch :]
        board = Board(place.directory.tensorboard, state.number, trainer.progress.step)
        try:
            with (
                Bar(f"round {state.number}", len(schedule), trainer.progress.step) as bar,
                Rollouts(place, self._lease, self._config, state, material=self._material, trainer=trainer) as rollouts,
            ):
                rollouts.ask(schedule)
                for index in range(trainer.progress.step, len(schedule)):
                    if place.stop.is_set():
                        trainer.save(directory)
                        raise Stopped
                    self._heart.check()
                    if index % per_epoch == 0 and self._is_enough(index // per_epoch, best, state, engine, collator):
                        break
                    rollouts.wait(self._heart.check)
                    self._follow_feed(state, collator)
                    held = self._material.examples
                    batch = [held[group] for group in schedule[index] if group in held]
                    place.at("batch")
                    fresh = rollouts.take()
                    rollouts.ask(schedule)
                    if fresh:
                        collator.round_length = mean_length([*self._taught(state), *fresh])
                    metrics = trainer.step([*batch, *fresh]) if batch else trainer.skip()
                    collator.forget(example.group for example in fresh)
                    board.add(index, metrics)
                    bar.advance(metrics)
                    done = {"progress": (index + 1) / len(schedule), "steps_discarded": trainer.progress.discarded}
                    self._tell("train", {**metrics, **done})
                    place.at("step")
                    if (index + 1) % place.pace.checkpoint_steps == 0:
                        trainer.save(directory)
                        place.at("checkpoint")
        finally:
            board.close()
        if state.kept_back:
            self._is_enough(trainer.progress.step // per_epoch, best, state, engine, collator)
            best.restore()

    def _is_enough(
        self, epochs: int, best: BestEpoch, state: RoundState, engine: PrefixModel, collator: Collator
    ) -> bool:
        """Whether early stop wants no more after so many epochs. Measures the last one where that was not done yet."""
        if not state.kept_back or not epochs:
            return False
        if len(state.epochs) < epochs:
            standing = self._evaluate(state.kept_back, state, engine, collator).standing
            state.epochs.append(standing)
            self._tell("evaluate", {"validation_loss": standing.loss, "validation_accuracy": standing.accuracy})
            self._tell("train")
        enough = best.note(state.epochs)
        self._place.save()
        return enough

    def _follow_feed(self, state: RoundState, collator: Collator) -> None:
        """Apply what has changed. While the server is away nothing can have been erased there, so training goes on."""
        place = self._place
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
        collator.forget(material.refresh(changed, state.settings, state.plan))
        self._acquaint(state, collator)
        state.skipped = dict(Counter(state.skipped) + material.skipped)
        material.skipped.clear()
        place.save()

    def _detail(self, trainer: Trainer) -> dict[str, object]:
        progress = trainer.progress
        return {
            "steps": progress.step,
            "steps_discarded": progress.discarded,
            "discard_reasons": progress.reasons,
            "curve": curve(progress.history),
            "reliabilities": self._of_the_heard(trainer.reliabilities),
            **({"rollouts": {**progress.rollouts, "skipped": progress.rollouts_skipped}} if progress.rollouts else {}),
        }

    def _of_the_heard(self, reliabilities: Mapping[str, float]) -> dict[str, float]:
        """Without those whose last word was erased or set aside meanwhile."""
        heard = self._material.annotators
        return {name: value for name, value in reliabilities.items() if name in heard}

    def _finish(
        self, state: RoundState, trainer: Trainer, start: dict[str, torch.Tensor], evaluation: Evaluation
    ) -> None:
        """Pre-check; then the adapter's files and manifest are made durable, and the phase moves on."""
        policy = trainer.policy
        standing = state.after = evaluation.standing
        self._tell("evaluate", {"kl": standing.kl, "accuracy": standing.accuracy, "margin": standing.margin})
        tensors = policy.tensors()
        before = state.before
        assert before is not None
        problem = objection(before, standing, state.settings.max_kl)
        if problem is None and all(torch.equal(tensors[name], start[name]) for name in tensors):
            problem = "the adapter does not differ from its parent"
        if problem is not None:
            _close(state, "discarded", problem)
            return
        state.reliabilities = self._of_the_heard(trainer.progress.reliabilities)
        files = policy.files(self._config.base_model)
        keep(files, self._place.directory.round_dir(state.number))
        self._place.at("written")
        state.manifest = AdapterManifest(
            alias=self._place.alias,
            base_digest=self._config.base_digest,
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

    # --- upload and report --------------------------------------------------------------------------------

    def _upload(self, state: RoundState) -> None:
        self._tell("upload")
        place = self._place
        assert state.manifest is not None
        manifest = AdapterManifest.model_validate_json(state.manifest)
        manifest = manifest.model_copy(update={"lease_token": self._lease.token})
        files = read_kept(place.directory.round_dir(state.number))
        if files is None:
            _close(state, "discarded", "the adapter's files are gone")
            return

        try:
            adapter = place.patiently(lambda: upload_once(place.client, manifest, files), self._heart.check)
        except PlumblineError as error:
            self._heart.beat()  # a refusal may be the lost lease's
            self._heart.check()
            if error.status in LOST_STATUSES and error.status != 404:
                raise LeaseLost(f"the upload was refused: {error}") from error
            _close(state, "discarded", f"the server refused the upload: {error}")
            place.patiently(lambda: place.follow_feed(state.settings.capacity))
            state.owes_its_signals = any(place.replay.get(group) is None for group in manifest.groups)
            return
        place.at("uploaded")
        keep(files, place.directory.adapters / adapter)
        _trim_adapters(place.directory.adapters, keep={adapter, state.parent})
        state.adapter = adapter
        place.state.last_adapter = adapter
        place.state.reliabilities = state.reliabilities
        _close(state, "uploaded", "")

    def _report(self, state: RoundState) -> None:
        place = self._place
        assert state.outcome is not None
        self._tell("report")
        gone = sum(place.replay.get(group) is None for group in state.plan)
        detail = {
            **state.detail,
            "round": state.number,
            "parent": state.parent,
            "groups": len(state.plan),
            "signals": state.signals,
            "feed_after": state.feed_after,
            "feed_upto": state.feed_upto,
            "skipped": state.skipped | ({GONE: gone} if gone else {}),
            "kept_back": len(state.kept_back),
            "epochs": [one.model_dump() for one in state.epochs],
            "seconds": round(sum(state.seconds.values()), 3),
            "phase_seconds": {phase: round(value, 3) for phase, value in state.seconds.items()},
            "before": state.before.model_dump() if state.before else None,
            "after": state.after.model_dump() if state.after else None,
        }
        report = RoundReport(
            alias=place.alias,
            token=self._lease.token,
            outcome=state.outcome,
            round=f"{place.state.owner}-{state.number}",
            adapter=state.adapter,
            reason=state.reason[:4000],
            detail=finite(detail),
        )
        try:
            place.patiently(lambda: place.client.report_round(report))
        except PlumblineError as error:
            logger.warning("the round's report was refused: %s", error)
        place.at("reported")
        logger.info("round %d %s %s%s", state.number, state.outcome, state.adapter or "", state.reason)
        place.state.rounds = state.number
        if state.owes_its_signals:  # what it learned was erased meanwhile: the next one learns the rest, at once
            place.state.new_signals += state.signals - gone
            place.state.trained_upto = state.feed_after
        place.state.round = None
        place.save()
        place.directory.clear_rounds()

    # --- small things -------------------------------------------------------------------------------------

    def _pause_point(self) -> None:
        if self._place.stop.is_set():
            raise Stopped
        self._heart.check()

    def _tell(self, phase: str, metrics: dict[str, float] | None = None) -> None:
        self._clock.enter(phase)
        self._heart.tell(phase, metrics)


def _close(state: RoundState, outcome: Outcome, reason: str) -> None:
    state.outcome = outcome
    state.reason = reason
    state.phase = "report"


def _schedule(state: RoundState) -> list[list[list[str]]]:
    """The groups of every epoch's steps: each group once an epoch, in an order that only the round's seed decides."""
    kept, size = set(state.kept_back), state.settings.batch_groups
    epochs = []
    for epoch in range(state.settings.epochs):
        order = [group for group in state.plan if group not in kept]
        _random(f"{state.seed} {epoch}").shuffle(order)
        epochs.append([order[first : first + size] for first in range(0, len(order), size)])
    return epochs


def _random(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - an order that can be repeated, not a secret


def _trim_adapters(directory: Path, keep: set[str]) -> None:
    """Remove the files of the oldest adapters; they can be fetched again."""
    others = sorted((path for path in directory.iterdir() if path.name not in keep), key=lambda p: p.stat().st_mtime)
    for path in others[: max(0, len(others) + len(keep) - KEPT_ADAPTERS)]:
        for file in FILES:
            (path / file).unlink(missing_ok=True)
        path.rmdir()
