"""All day: follow the feed, and run a round whenever enough people have said something new.

The lease is taken when a round begins and left to expire after it; a server that is away is waited for; a
round that was cut off is resumed first. Unusable settings or another base model end the process with one line.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from clients.client import PlumblineClient, PlumblineError
from learner.errors import BaseMismatch, LearnerError, LeaseLost, Stopped
from learner.lease import Heart
from learner.model import NO_IMAGES, Base, check_base, find_base
from learner.publish import find_uploaded
from learner.round import run_round
from learner.settings import Settings, check_fit, read_settings
from learner.state import RoundState, StateDir
from learner.team import Team
from learner.workplace import Pace, Workplace, abandon, learn_again
from server.wire.adapters import AdapterManifest
from server.wire.training import LeaseReply, LeaseRequest, TrainingConfig

UNDECIDED: Final = frozenset({"staged", "verified", "gated"})
"""States in which the server has not made up its mind about an adapter."""
MAX_DECISION_POLLS: Final = 60

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    alias: str
    state: Path
    base_model: str | None = None
    once: bool = False
    device: str = "auto"
    poll_s: float = 2.0
    shard_base: bool = False
    """Each process of a team keeps a part of the base only."""
    pace: Pace = field(default_factory=Pace)


class Learner:
    def __init__(
        self,
        client: PlumblineClient,
        options: Options,
        stop: threading.Event | None = None,
        at: Callable[[str], None] = lambda point: None,
        team: Team | None = None,
    ) -> None:
        self._client = client
        self._options = options
        self._stop = stop or threading.Event()
        self._at = at
        self._team = team or Team()
        self._decision_polls = 0

    def run(self) -> int:
        """The process's exit status: 0 after a clean stop, or with `once` after an uploaded adapter; else 1."""
        directory = StateDir(self._options.state / self._options.alias)
        try:
            place = self._open(directory)
            return self._run_once(place) if self._options.once else self._run_forever(place)
        except Stopped:
            logger.info("stopped; the state is kept in %s", directory.path)
            return 0
        except PlumblineError as error:
            logger.error("%s", error)
            return 1
        finally:
            directory.close()

    def _open(self, directory: StateDir) -> Workplace:
        state = directory.load()
        config = self._first_config()
        read_settings(config)
        base_dir = find_base(self._options.base_model or config.base_model)
        check_base(base_dir, config.base_digest)
        options, team = self._options, self._team
        cache_bytes = options.pace.feature_cache_bytes
        team.tell("open", base_dir, options.device, directory.media, cache_bytes, options.shard_base)
        return Workplace(
            client=self._client,
            alias=self._options.alias,
            directory=directory,
            state=state,
            base=Base(base_dir, options.device, team if options.shard_base else None),
            base_dir=base_dir,
            base_digest=config.base_digest,
            pace=self._options.pace,
            stop=self._stop,
            at=self._at,
            team=team,
        )

    def _first_config(self) -> TrainingConfig:
        """Wait for the server, unless it says no."""
        while True:
            try:
                return self._client.training_config(self._options.alias)
            except PlumblineError as error:
                if not error.is_transient:
                    raise
                logger.warning("waiting for the server: %s", error)
            if self._stop.wait(self._options.poll_s):
                raise Stopped

    def _run_once(self, place: Workplace) -> int:
        config = place.patiently(lambda: self._client.training_config(self._options.alias))
        settings = self._settings(place, config)
        if config.retraining is not None:
            learn_again(place, config.retraining)
        place.patiently(lambda: place.follow_feed(settings.capacity))
        try:
            done = self._round(place, config, settings)
        except LeaseLost as error:
            logger.error("%s", error)
            return 1
        return 0 if done is not None and done.outcome == "uploaded" else 1

    def _settings(self, place: Workplace, config: TrainingConfig) -> Settings:
        settings = read_settings(config)
        image_token_id = None if place.base.image_token_id == NO_IMAGES else place.base.image_token_id
        check_fit(settings, place.base.vocabulary, image_token_id)
        return settings

    def _run_forever(self, place: Workplace) -> int:
        while not self._stop.is_set():
            try:
                self._turn(place)
            except LeaseLost as error:
                logger.warning("%s", error)
            except PlumblineError as error:
                if error.status == 401 or self._team.size > 1:  # others may be waiting in the middle of a step
                    raise
                logger.warning("%s", error)
            self._stop.wait(self._options.poll_s)
        raise Stopped

    def _turn(self, place: Workplace) -> None:
        config = place.patiently(lambda: self._client.training_config(self._options.alias))
        if config.base_digest != place.base_digest:
            raise BaseMismatch("the server's base model has changed; start the learner again")
        settings = self._settings(place, config)
        if config.retraining is not None:
            learn_again(place, config.retraining)
        place.patiently(lambda: place.follow_feed(settings.capacity))
        too_few = place.state.new_signals < settings.min_new_signals
        if place.state.round is None and (too_few or self._awaits_decision(place)):
            return
        self._decision_polls = 0
        self._round(place, config, settings)

    def _awaits_decision(self, place: Workplace) -> bool:
        """The last adapter may become the next round's parent: give the server a bounded time to decide."""
        last = place.state.last_adapter
        if last is None or self._decision_polls >= MAX_DECISION_POLLS:
            return False
        self._decision_polls += 1
        try:
            return self._client.adapter(last).state in UNDECIDED
        except PlumblineError as error:
            if error.status == 404:
                return False
            raise

    def _round(self, place: Workplace, config: TrainingConfig, settings: Settings) -> RoundState | None:
        """One round, new or resumed; None when somebody else holds the lease."""
        lease = self._take_lease(place)
        if lease is None:
            return None
        place.at("leased")
        cut_off = place.state.round
        if cut_off is not None and cut_off.parent != lease.active and not self._has_arrived(place, cut_off):
            logger.warning("round %d abandoned: %s is active now", cut_off.number, lease.active)
            abandon(place)
        interval_s = place.pace.lease_ttl_s / 3
        with Heart(self._client, lease, interval_s) as heart:
            place.patiently(lambda: place.follow_feed(settings.capacity), heart.check)
            return run_round(place, lease, config, heart, settings)

    def _has_arrived(self, place: Workplace, cut_off: RoundState) -> bool:
        """Whether the server has the round's adapter, or needs none: then nothing is left but to say so."""
        if cut_off.phase == "upload" and cut_off.manifest is not None:
            manifest = AdapterManifest.model_validate_json(cut_off.manifest)
            return place.patiently(lambda: find_uploaded(self._client, manifest)) is not None
        return cut_off.phase == "report"

    def _take_lease(self, place: Workplace) -> LeaseReply | None:
        request = LeaseRequest(alias=self._options.alias, owner=place.state.owner, ttl_s=self._options.pace.lease_ttl_s)
        try:
            return place.patiently(lambda: self._client.lease(request))
        except PlumblineError as error:
            if error.status == 401:
                raise
            logger.warning("no lease: %s", error)
            return None


__all__ = ["Learner", "LearnerError", "Options"]
