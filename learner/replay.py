"""The groups that the learner may learn from, kept in step with the server's feed.

Each group is one file, so that erasing one erases it from the disk too; images lie beside them by their digest
and go with the last group that shows them. Of the groups that were spoken of, a bounded number is kept: the newest,
and a sample of all the older ones (a reservoir), so that old lessons stay in sight; of those that have nothing but
rewards only the newest, because an old policy's answers are of no use to a policy gradient.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from clients.client import PlumblineClient, PlumblineError, UnreadableEntry
from learner.examples import HUMAN_SOURCES
from learner.files import sync_directory, write_atomic
from learner.settings import Capacity
from learner.state import State, StateDir
from server.wire.training import FeedEntry, TrainingGroup

RESERVOIR_SHARE: Final = 0.25
"""Part of the places that is for a sample of what is older than the newest."""
SAFE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SAFE_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class MissingImage(Exception):
    """The server has no bytes for this digest (any more)."""


class Replay:
    """`on_drop(group, images)` is told of every group whose state is no longer held, and of orphaned images.

    Files newer than `cursor` were written by a page whose cursor was not: they are dropped and come again, so that
    their signals are counted once.
    """

    def __init__(self, directory: StateDir, cursor: int, on_drop: Callable[[str, Iterable[str]], None]) -> None:
        self._groups_dir = directory.replay
        self._media_dir = directory.media
        self._on_drop = on_drop
        self._groups: dict[str, tuple[int, TrainingGroup]] = {}
        self.unreadable: Counter[str] = Counter()
        for file in sorted(self._groups_dir.glob("*.json")):
            self._load(file, cursor)

    def _load(self, file: Path, cursor: int) -> None:
        try:
            stored = json.loads(file.read_bytes())
            group, seq = TrainingGroup.model_validate(stored["group"]), int(stored["seq"])
            if seq <= cursor:
                self._groups[group.id] = (seq, group)
            else:
                file.unlink()
        except (ValueError, KeyError, TypeError, ValidationError):
            self.unreadable["unreadable file"] += 1
            file.unlink()

    def __len__(self) -> int:
        return len(self._groups)

    def get(self, group: str) -> TrainingGroup | None:
        held = self._groups.get(group)
        return held[1] if held else None

    def all(self) -> list[TrainingGroup]:
        """Every group that is kept, the oldest first."""
        ordered = sorted(self._groups.values(), key=lambda held: (held[0], held[1].id))
        return [group for _, group in ordered]

    def apply(self, entry: FeedEntry) -> int:
        """Bring one group to its present state; returns how many human signals that adds. Idempotent."""
        if isinstance(entry, UnreadableEntry):
            self.unreadable["malformed group"] += 1
        group = entry.group
        if group is None or not (_is_spoken_of(group) or group.rewarded) or not SAFE_ID.fullmatch(entry.group_id):
            self.drop(entry.group_id)
            return 0
        old = self.get(entry.group_id)
        if old is not None and old != group:
            self._forget(old, orphans=set(old.images) - set(group.images))
        stored = {"seq": entry.seq, "group": group.model_dump(mode="json")}
        file = self._groups_dir / f"{entry.group_id}.json"
        write_atomic(file, json.dumps(stored).encode(), sync_parent=False)
        self._groups[entry.group_id] = (entry.seq, group)
        return _added_signals(old, group)

    def drop(self, group: str) -> None:
        held = self._groups.pop(group, None)
        if held is not None:
            (self._groups_dir / f"{group}.json").unlink(missing_ok=True)
            self._forget(held[1], orphans=set(held[1].images))

    def _forget(self, group: TrainingGroup, orphans: set[str]) -> None:
        if orphans:
            orphans -= {image for gid, (_, other) in self._groups.items() if gid != group.id for image in other.images}
        for image in orphans:
            if SAFE_SHA256.fullmatch(image):
                (self._media_dir / image).unlink(missing_ok=True)
        self._on_drop(group.id, orphans)

    def trim(self, capacity: Capacity) -> None:
        """Keep no more groups than that."""
        groups = self.all()
        spoken = [group.id for group in groups if _is_spoken_of(group)]
        surplus = len(spoken) - capacity.groups
        if surplus > 0:
            sampled = int(capacity.groups * RESERVOIR_SHARE)
            older = spoken[: surplus + sampled]
            for group in sorted(older, key=_lot)[sampled:]:
                self.drop(group)
        rewarded = [group.id for group in groups if not _is_spoken_of(group)]
        for group in rewarded[: max(0, len(rewarded) - capacity.rewarded)]:
            self.drop(group)

    def rewind(self, cursor: int) -> None:
        """Let go of everything newer than `cursor`: the feed tells it again, as it is now."""
        for group in [group for group, (seq, _) in self._groups.items() if seq > cursor]:
            self.drop(group)

    def clear(self) -> None:
        for group in list(self._groups):
            self.drop(group)


def _is_spoken_of(group: TrainingGroup) -> bool:
    """By people, rules or scorers: it has pairs or thumbs."""
    return bool(group.pairs or group.unpaired)


def _lot(group: str) -> bytes:
    """A group's place in a random order that stays: those with the lowest are a uniform sample, whenever they came."""
    return hashlib.sha256(group.encode()).digest()


def _human_signals(group: TrainingGroup | None) -> dict[str, set[tuple[str, ...]]]:
    """What each annotator said."""
    said: dict[str, set[tuple[str, ...]]] = {}
    if group is not None:
        for pair in group.pairs:
            if pair.source in HUMAN_SOURCES:
                said.setdefault(pair.annotator, set()).add((pair.chosen, pair.rejected))
        for thumb in group.unpaired:
            said.setdefault(thumb.annotator, set()).add((thumb.candidate, str(thumb.desirable)))
    return said


def _added_signals(old: TrainingGroup | None, new: TrainingGroup) -> int:
    """People whose word on this group is new or changed."""
    before = _human_signals(old)
    return sum(before.get(annotator) != said for annotator, said in _human_signals(new).items())


def apply_feed(
    client: PlumblineClient, alias: str, *, state: State, directory: StateDir, replay: Replay, capacity: Capacity
) -> bool:
    """Apply everything that is new, page by page, each made durable with its cursor. True when anything was."""
    changed = False
    while True:
        page = client.training_feed(alias, state.cursor)
        if page.head < state.cursor:  # another store than the one we followed: what we hold is not its
            replay.clear()
            state.cursor, state.new_signals, state.trained_upto = 0, 0, 0
            directory.save(state)
            continue
        for entry in page.entries:
            if entry.seq > state.cursor:
                state.new_signals += replay.apply(entry)
                state.cursor = entry.seq
                changed = True
        if page.next > state.cursor:
            state.cursor = page.next
            changed = True
        replay.trim(capacity)
        if changed:
            sync_directory(directory.replay)
            directory.save(state)
        if state.cursor >= page.head or not page.entries:
            return changed


class Media:
    """Image bytes, fetched once and kept by digest. `read` raises `MissingImage`."""

    def __init__(self, client: PlumblineClient, directory: StateDir) -> None:
        self._client = client
        self._directory = directory.media

    def read(self, sha256: str) -> bytes:
        if not SAFE_SHA256.fullmatch(sha256):
            raise MissingImage(sha256)
        held = kept_image(self._directory, sha256)
        if held is not None:
            return held
        try:
            content = self._client.media(sha256)
        except PlumblineError as error:
            if error.status in {403, 404, 410} or error.type == "integrity_error":
                raise MissingImage(sha256) from error
            raise
        write_atomic(self._directory / sha256, content, sync_parent=False)  # one that is lost is fetched again
        return content


def kept_image(directory: Path, sha256: str) -> bytes | None:
    """What lies in the directory under this digest, if it is whole."""
    file = directory / sha256
    content = file.read_bytes() if file.exists() else b""
    return content if hashlib.sha256(content).hexdigest() == sha256 else None
