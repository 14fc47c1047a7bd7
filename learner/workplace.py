"""What lives longer than a round: the model, the groups, the caches, the state, and patience with the server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from clients.client import PlumblineClient, PlumblineError
from learner.augmentation import every_change, reader
from learner.errors import Stopped
from learner.examples import Limits
from learner.model import Base
from learner.replay import Media, Replay, apply_feed
from learner.settings import Capacity
from learner.state import State, StateDir
from learner.team import Team
from learner.vision import Vision
from server.wire.training import Retraining

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds of a process, not of a method."""

    max_tokens: int = 8192
    """Tokens in one forward pass."""
    gradient_checkpointing: bool = False
    """Layers run again in the backward pass: more time, less memory."""
    checkpoint_steps: int = 20
    lease_ttl_s: float = 60.0
    feature_cache_bytes: int = 2 * 1024**3


@dataclass(slots=True)
class Workplace:
    """What lives longer than a round. `at` is told the name of every point that a crash could fall on."""

    client: PlumblineClient
    alias: str
    directory: StateDir
    state: State
    base: Base
    base_dir: Path
    base_digest: str
    pace: Pace
    stop: threading.Event
    at: Callable[[str], None] = lambda point: None
    team: Team = field(default_factory=Team)
    replay: Replay = field(init=False)
    vision: Vision = field(init=False)
    dirty: set[str] = field(init=False, default_factory=set)
    """Groups that were dropped or changed since the round last looked."""

    def __post_init__(self) -> None:
        media = Media(self.client, self.directory)
        self.vision = Vision(self.base.model, self.base_dir, reader(media.read), self.pace.feature_cache_bytes)
        self.replay = Replay(self.directory, self.state.cursor, self._dropped)

    def _dropped(self, group: str, images: Iterable[str]) -> None:
        self.dirty.add(group)
        for image in images:
            self.team.tell("drop", image)
            drop_image(self.vision, image)

    @property
    def limits(self) -> Limits:
        return Limits(self.base_digest, self.base.vocabulary, self.base.max_positions, self.base.image_token_id)

    def follow_feed(self, capacity: Capacity) -> bool:
        return apply_feed(
            self.client,
            self.alias,
            state=self.state,
            directory=self.directory,
            replay=self.replay,
            capacity=capacity,
        )

    def save(self) -> None:
        self.directory.save(self.state)

    def patiently(self, call: Callable[[], T], check: Callable[[], None] = lambda: None) -> T:
        """Repeat a call while the server is away or busy. Raises `Stopped`, or what `check` raises."""
        delay_s = FIRST_WAIT_S
        while True:
            try:
                return call()
            except PlumblineError as error:
                if not error.is_transient:
                    raise
                logger.warning("waiting for the server: %s", error)
            if self.stop.wait(delay_s):
                raise Stopped
            check()
            delay_s = min(LONGEST_WAIT_S, delay_s * 2)


def drop_image(vision: Vision, image: str) -> None:
    """Forget its features, as it is and changed."""
    vision.drop(image)
    for name in every_change(image):
        vision.drop(name)


def learn_again(place: Workplace, order: Retraining) -> None:
    """Obey an order to read the feed again: what is still told behind its seq counts as new for the next round."""
    state = place.state
    if order.number <= state.retraining:
        return
    logger.warning("learning again what came behind %d of the feed", order.feed_after)
    if state.round is not None and state.round.phase != "report":
        abandon(place)
    state.retraining = order.number
    if order.feed_after < state.cursor:
        state.cursor = state.trained_upto = order.feed_after
        state.new_signals = 0
    place.save()  # first: a start after a crash drops what is newer than the cursor
    place.replay.rewind(state.cursor)


def abandon(place: Workplace) -> None:
    """Forget the round in the state; its signals count again for the next one."""
    state = place.state
    if state.round is not None:
        state.new_signals += state.round.signals
        state.trained_upto = state.round.feed_after
        state.round = None
        place.save()
        place.directory.clear_rounds()
