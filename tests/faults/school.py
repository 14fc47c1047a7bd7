"""A real server with something to learn: groups in its store, a model that the learner can train, opinions of users.

The engine is the fake one, so the groups are put into the store as if they had been answered; from there on everything
is real: the store, the feed, the wire, the registry.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, func, select

from server.store import adapters, feed, groups, rounds, schema, signals
from server.store.blobs import LocalBlobs
from server.store.opening import MEDIA_NAME, open_database
from server.store.records import (
    CandidateRecord,
    FeedKind,
    GroupRecord,
    MediaRecord,
    RoundRecord,
    SignalKind,
    SignalRecord,
)
from server.tokens import Signer
from server.wire.identity import directory_digest
from tests.faults.service import Service
from tests.learner.conftest import SETTINGS
from tests.learner.tiny import EOS, image_prompt, png
from tests.server.store import rows

SECRET: Final = "a secret of the tests, long enough to be one"
TENANT: Final = "default"
GROUPS: Final = 12
SIGNER: Final = Signer(SECRET.encode())


def hashed(user: str) -> str:
    return SIGNER.user_hash(TENANT, user)


def open_school(directory: Path, base_dir: Path, **learner: Any) -> Service:
    """The installation of this directory, not started."""
    directory.mkdir(exist_ok=True)
    return Service(
        directory,
        settings={"secret": SECRET, "engine": {"model": str(base_dir)}},
        alias={
            "learner": {**SETTINGS, **learner},
            "signals": {"holdout_share": 0.0},
            "rollout": {"automatic": False},
        },
    )


@dataclass(slots=True)
class Lesson:
    """One group with its images and what was said of it."""

    group: GroupRecord
    images: list[bytes]
    said: list[SignalRecord]


@dataclass(slots=True)
class Curriculum:
    """Makes lessons. People like answers that hold token 10 and dislike those that hold token 20."""

    base_digest: str
    made: int = 0
    now: float = field(default_factory=time.time)

    @classmethod
    def of(cls, base_dir: Path) -> Curriculum:
        return cls(directory_digest(base_dir))

    def lesson(self, user: str, picture: int | bytes = 0, **changes: Any) -> Lesson:
        """A choice of `user`, who also asked. `changes`: of the group; `answers`: tokens of the two answers."""
        number = self.made
        self.made += 1
        word = 30 + number % 20
        answers = changes.pop("answers", ((10, word, 10 + number % 4, EOS), (20, word, 21)))
        image = picture if isinstance(picture, bytes) else png(picture)
        name = SIGNER.completion_id(TENANT)
        media = MediaRecord(hashlib.sha256(image).hexdigest(), "image/png", len(image))
        values = {
            "base_digest": self.base_digest,
            "user_hash": hashed(user),
            "created_at": self.now,
            "prompt_token_ids": image_prompt(4, words=(5, 6, word)),
            "media": (media,),
        }
        candidates = tuple(answer(name, place, tokens) for place, tokens in enumerate(answers))
        group = replace(rows.group(name, candidates=0, **{**values, **changes}), candidates=candidates)
        chosen = {"chosen": f"{name}.0", "rejected": [f"{name}.1"]}
        said = SignalRecord(
            f"sig-{name}", name, SignalKind.CHOICE, "comparison", hashed(user), self.now + number, chosen
        )
        return Lesson(group, [image], [said])


def answer(group: str, place: int, tokens: Sequence[int], **changes: Any) -> CandidateRecord:
    values = {
        "text": f"answer {place}",
        "token_ids": tuple(tokens),
        "logprobs": (-1.0,) * len(tokens),
        "finish_reason": "stop" if tokens and tokens[-1] == EOS else "length",
        "total": None,
    }
    return rows.candidate(group, place, **{**values, **changes})


def usual(curriculum: Curriculum, count: int = GROUPS) -> list[Lesson]:
    """Groups of as many users, five pictures between them."""
    return [curriculum.lesson(f"user-{number}", number % 5) for number in range(count)]


async def teach(service: Service, lessons: Sequence[Lesson]) -> None:
    """Put them into the store of a server that does not run."""
    state = service.config.store.directory
    state.mkdir(exist_ok=True)
    database = open_database(service.config.store)
    blobs = LocalBlobs(state / MEDIA_NAME)

    def write(connection: Connection) -> None:
        for one in lessons:
            groups.insert_group(connection, one.group)
            for signal in one.said:
                signals.insert_signal(connection, signal)
            feed.append(connection, "default", one.group.id, FeedKind.SIGNAL, one.group.created_at)

    try:
        await database.start()
        for one in lessons:
            for media, image in zip(one.group.media, one.images, strict=True):
                await blobs.put(media.sha256, image)
        await database.write(write)
    finally:
        await database.close()


def moved_to(service: Service, directory: Path, base_dir: Path, **learner: Any) -> Service:
    """A copy of a stopped installation, with its own port."""
    moved = open_school(directory, base_dir, **learner)
    shutil.copytree(service.directory / "state", directory / "state")
    return moved


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the store holds of the learning."""

    adapters: list[str]
    rounds: list[RoundRecord]
    audited: int
    """Entries of the audit trail about rounds."""


async def outcome(service: Service) -> Outcome:
    """Of a server that does not run."""
    database = open_database(service.config.store)

    def read(connection: Connection) -> Outcome:
        table = schema.audit
        audited = select(func.count()).where(table.c.action.like("round.%"))
        return Outcome(
            [one.id for one in adapters.list_adapters(connection)],
            rounds.newest(connection, "default", 100)[::-1],
            connection.execute(audited).scalar_one(),
        )

    try:
        await database.start()
        return await database.read(read)
    finally:
        await database.close()
