"""On-policy rollouts: while a batch is trained, the server has the next one's prompts answered by the policy itself.

Each step: take what was answered for it, publish the policy as it is now (an ephemeral adapter), have the next step's
prompts answered by it in the background, train. So what a step learns from was drawn by the policy one step ago, or
`rollout_every` steps where it is published more rarely; objectives on rewards correct for that by the log-probabilities
that the engine logged, which are π_old of these answers. The first step of a round is answered by its parent, and
waited for.

Answers come from the server's production way with its rewards, and are examples like any other
(`Material.renewed`): the same limits, refused for the same reasons. They are of one step, never kept. What does not
come (the server is away or busy, the adapter refused, a prompt gone) is counted with its reason, and the step goes on
without.

At most two ephemeral adapters are alive at a time, none after the round. What a killed process left is deleted by its
next one; the server drops the oldest of more than a few by itself. A resumed round goes on from its checkpoint with
answers drawn anew, and with the checkpoint's counts.

One request at a time runs in a thread of its own. Only that thread waits for the server, and it touches neither model
nor state.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from clients.client import PlumblineError
from learner.examples import Example
from learner.material import Material
from learner.publish import describe_files
from learner.state import RoundState
from learner.trainer import Trainer
from learner.workplace import Workplace
from server.wire.adapters import AdapterManifest
from server.wire.training import LeaseReply, RolloutReply, RolloutRequest, TrainingConfig

ANSWER_TIMEOUT_S: Final = 600.0
"""Of one step's answers. The server has its own, smaller one for each prompt."""
LOOK_S: Final = 0.2
"""Pause between two looks at the lease while answers are waited for."""
CLOSING_S: Final = 10.0
"""How long the end of a round waits for a request that runs."""
OWNER: Final = "rollouts_of"
"""In an ephemeral adapter's manifest: the learner that made it."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Request:
    """One step's prompts; `reply` or `problem` once it is `done`."""

    ask: Callable[[str], RolloutReply]
    manifest: AdapterManifest | None
    files: Mapping[str, bytes]
    """The policy, where it has to be published first."""
    done: threading.Event = field(default_factory=threading.Event)
    reply: RolloutReply | None = None
    problem: str = "step: broken off"


class Rollouts:
    """Of one round. Enter it for its training; without `rollout_groups` it does nothing."""

    def __init__(
        self,
        place: Workplace,
        lease: LeaseReply,
        config: TrainingConfig,
        state: RoundState,
        *,
        material: Material,
        trainer: Trainer,
    ) -> None:
        self._place = place
        self._lease = lease
        self._config = config
        self._state = state
        self._material = material
        self._trainer = trainer
        self._settings = state.settings
        at_start = trainer.progress.step == 0
        self._adapter = state.parent if at_start else ""
        """Who answers; empty: the policy is to be published first."""
        self._published_at = 0
        """Steps that the policy had done which answers."""
        self._ephemeral = ""
        """The adapter that is alive."""
        self._asked_upto = trainer.progress.step
        """Steps before this one were asked for, or begin without answers."""
        self._request: _Request | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    @property
    def is_on(self) -> bool:
        return self._settings.rollout_groups > 0

    def __enter__(self) -> Self:
        if self.is_on:
            self._sweep()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            return  # the process is being ended: its next one clears up
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSING_S)
        if self._ephemeral:
            self._delete(self._ephemeral)

    # --- the round's side: its own thread -----------------------------------------------------------------

    def ask(self, schedule: Sequence[Sequence[str]]) -> None:
        """Have the prompts of the next step that was not asked for answered, by the policy as it is now."""
        step = self._asked_upto
        if not self.is_on or step >= len(schedule) or self._request is not None:
            return
        self._asked_upto += 1
        held = self._material.examples
        prompts = [group for group in schedule[step] if group in held][: self._settings.rollout_groups]
        if not prompts:
            return
        seed = f"{self._state.seed} rollouts {step}".encode()
        request = RolloutRequest(
            alias=self._place.alias,
            token=self._lease.token,
            adapter=self._adapter or "base",
            group_ids=prompts,
            candidates=self._settings.rollout_candidates,
            seed=int.from_bytes(hashlib.sha256(seed).digest()[:7]),
        )

        def ask(adapter: str) -> RolloutReply:
            asked = request.model_copy(update={"adapter": adapter})
            return self._place.client.rollouts(asked, timeout_s=ANSWER_TIMEOUT_S)

        is_due = not self._adapter or self._trainer.progress.step - self._published_at >= self._settings.rollout_every
        files = self._trainer.policy.files(self._config.base_model) if is_due else {}
        self._published_at = self._trainer.progress.step if is_due else self._published_at
        self._request = _Request(ask, self._manifest(files) if files else None, files)
        self._thread = threading.Thread(target=self._run, args=(self._request,), name="rollouts", daemon=True)
        self._thread.start()

    def wait(self, check: Callable[[], None]) -> None:
        """Until this step's answers are there or will not come, or the process is to stop. Raises what `check` does."""
        while self._request is not None and not self._request.done.wait(LOOK_S):
            check()
            if self._place.stop.is_set():
                return

    def take(self) -> list[Example]:
        """Examples for the step. Prompts that have left the round meanwhile take theirs along."""
        request = self._request
        if request is None or not request.done.is_set():
            return []
        self._request = None
        found = []
        if request.reply is None:
            self._skip(request.problem)
        for one in request.reply.data if request.reply else ():
            if one.group is None:
                self._skip(f"prompt: {one.reason}")
            elif one.group_id not in self._material.examples:
                self._skip("prompt: gone meanwhile")
            else:
                prepared = self._material.renewed(one.group_id, one.group)
                for reason in prepared.skipped:
                    self._skip(reason if one.group.rewarded else "no rewards that differ")
                if prepared.example is not None:
                    found.append(prepared.example)
        counts = self._trainer.progress.rollouts
        counts["groups"] = counts.get("groups", 0) + len(found)
        counts["answers"] = counts.get("answers", 0) + sum(len(example.answers) for example in found)
        self._place.at("rolled out")
        return found

    def _skip(self, reason: str) -> None:
        skipped = self._trainer.progress.rollouts_skipped
        skipped[reason] = skipped.get(reason, 0) + 1

    def _manifest(self, files: Mapping[str, bytes]) -> AdapterManifest:
        state, progress = self._state, self._trainer.progress
        return AdapterManifest(
            alias=self._place.alias,
            base_digest=self._config.base_digest,
            parent=state.parent,
            lease_token=self._lease.token,
            ephemeral=True,
            objective={OWNER: self._place.state.owner, "steps": progress.step},
            feed_after=state.feed_after,
            feed_upto=state.feed_upto,
            groups=list(progress.groups),
            annotators=list(progress.annotators),
            files=describe_files(files),
        )

    # --- the request's side: a thread of its own ----------------------------------------------------------

    def _run(self, request: _Request) -> None:
        try:
            if request.manifest is not None:
                self._publish(request.manifest, request.files)
            if not self._closing.is_set():
                request.reply = request.ask(self._adapter)
        except PlumblineError as error:
            logger.warning("a step goes without rollouts: %s", error)
            request.problem = _reason(error)
            if error.code == "model_not_found":
                self._adapter = ""  # it had to make room, or was taken out: publish it anew
        finally:
            request.done.set()

    def _publish(self, manifest: AdapterManifest, files: Mapping[str, bytes]) -> None:
        self._adapter = ""
        old, self._ephemeral = self._ephemeral, self._place.client.upload_adapter(manifest, files).id
        self._adapter = self._ephemeral
        for adapter in (old, self._ephemeral if self._closing.is_set() else ""):
            if adapter:
                self._delete(adapter)

    def _sweep(self) -> None:
        """Delete what an earlier process of this learner left."""
        client = self._place.client
        try:
            alive = [one.id for one in client.adapters(self._place.alias).data if one.state == "ephemeral"]
            for adapter in alive:
                manifest = client.adapter(adapter).manifest or {}
                if manifest.get("objective", {}).get(OWNER) == self._place.state.owner:
                    self._delete(adapter)
        except PlumblineError as error:
            logger.warning("ephemeral adapters may be left: %s", error)

    def _delete(self, adapter: str) -> None:
        """Whatever comes of it: the server keeps few of them."""
        with contextlib.suppress(PlumblineError):
            self._place.client.delete_adapter(adapter)


def _reason(error: PlumblineError) -> str:
    """Few and short, for the round's report."""
    if error.status == 429:
        return "step: the server was busy"
    if error.is_transient:
        return "step: the server was away"
    return f"step: refused, {error.code or error.status}"


def answered_anew(trainer: Trainer) -> dict[str, int]:
    """Answers that a round learned from and nobody was given, for its manifest."""
    answers = trainer.progress.rollouts.get("answers", 0)
    return {"rollout": answers} if answers else {}
