"""Groups on their way to the server: pictures become `data:` URLs, groups travel in batches.

Sending again what was sent before changes nothing, so an import that was broken off is simply run again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from clients.client import PlumblineClient, PlumblineError
from clients.exchange.formats import Parser
from clients.exchange.groups import Better, ImportedGroup, Picture, Turn, UnreadableRow
from clients.exchange.rows import FileRow
from server.wire.exchange import ImportGroup, ImportPair, ImportReply, ImportRequest
from server.wire.reward import PreferencePair

MAX_BATCH_GROUPS: Final = 32
MAX_BATCH_CHARS: Final = 8 * 1024 * 1024
MAX_IMAGE_BYTES: Final = 24 * 1024 * 1024
MAGIC: Final = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row was not imported."""

    number: int
    reason: str


@dataclass(slots=True)
class Summary:
    """What became of a file's rows."""

    rows: int = 0
    new: int = 0
    changed: int = 0
    known: int = 0
    gone: int = 0
    holdout: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, reply: ImportReply) -> None:
        for name in ("new", "changed", "known", "gone", "holdout"):
            setattr(self, name, getattr(self, name) + getattr(reply, name))


def to_wire(group: ImportedGroup, images: Path) -> ImportGroup:
    """The group as the server takes it, paths of pictures below `images`; raises `UnreadableRow`."""
    try:
        return ImportGroup.model_validate(
            {
                "messages": [_message(turn, images) for turn in group.turns],
                "candidates": list(group.answers),
                "opinions": [_opinion(one) for one in group.opinions],
                "user": group.user,
            }
        )
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnreadableRow(f"{where}: {first['msg']}".removeprefix(": ")) from None


def _message(turn: Turn, images: Path) -> dict[str, Any]:
    if not any(isinstance(part, Picture) for part in turn.parts):
        return {"role": turn.role, "content": "".join(part for part in turn.parts if isinstance(part, str))}
    content = [
        {"type": "image_url", "image_url": {"url": data_url(part, images)}}
        if isinstance(part, Picture)
        else {"type": "text", "text": part}
        for part in turn.parts
    ]
    return {"role": turn.role, "content": content}


def _opinion(opinion: Better | Any) -> dict[str, Any]:
    if isinstance(opinion, Better):
        return {
            "kind": "pair",
            "chosen": opinion.chosen,
            "rejected": opinion.rejected,
            "source": opinion.source,
            "weight": opinion.weight,
            "user": opinion.user,
        }
    return {
        "kind": "rating",
        "candidate": opinion.answer,
        "rating": opinion.rating,
        "comment": opinion.comment,
        "labels": list(opinion.labels),
        "user": opinion.user,
    }


def data_url(picture: Picture, images: Path) -> str:
    """The picture's bytes in the message itself. A path leads nowhere outside `images`."""
    source = picture.source
    if isinstance(source, str):
        if source.startswith("data:"):
            return source
        if "://" in source:
            raise UnreadableRow("the image is a web address; download it and name the file")
        source = _read_image(source, images)
    mime = next((mime for magic, mime in MAGIC.items() if source.startswith(magic)), None)
    if mime is None:
        raise UnreadableRow("the image is neither PNG, JPEG nor WebP")
    return f"data:{mime};base64,{base64.b64encode(source).decode()}"


def _read_image(name: str, images: Path) -> bytes:
    try:
        path = (images / name).resolve()
        if not path.is_relative_to(images.resolve()):
            raise UnreadableRow("the image's path leads out of the directory of images (--images)")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise UnreadableRow(f"the image is larger than {MAX_IMAGE_BYTES} bytes")
        return path.read_bytes()
    except (OSError, ValueError):
        raise UnreadableRow(f"there is no image {name[:200]!r} in the directory of images (--images)") from None


@dataclass(slots=True)
class Reader:
    """Turns rows into groups of the wire and notes those that cannot be turned."""

    parse: Parser
    images: Path
    summary: Summary

    def groups(self, rows: Iterator[FileRow]) -> Iterator[tuple[int, ImportGroup]]:
        for row in rows:
            self.summary.rows += 1
            try:
                if isinstance(row.content, UnreadableRow):
                    raise row.content
                yield row.number, to_wire(self.parse(row.content), self.images)
            except UnreadableRow as problem:
                self.summary.problems.append(Problem(row.number, str(problem)))


def pairs_of(group: ImportGroup) -> Iterator[PreferencePair]:
    """What its opinions put in order."""
    for opinion in group.opinions:
        if isinstance(opinion, ImportPair):
            chosen, rejected = group.candidates[opinion.chosen], group.candidates[opinion.rejected]
            yield PreferencePair(messages=group.messages, chosen=chosen, rejected=rejected)


@dataclass(slots=True)
class Sender:
    """Sends groups in batches; what the server refuses is noted by its row."""

    client: PlumblineClient
    alias: str
    source: str
    summary: Summary
    _batch: list[tuple[int, ImportGroup]] = field(default_factory=list)
    _chars: int = 0

    def send_all(self, groups: Iterator[tuple[int, ImportGroup]]) -> None:
        for number, group in groups:
            chars = len(group.model_dump_json())
            if self._batch and (len(self._batch) == MAX_BATCH_GROUPS or self._chars + chars > MAX_BATCH_CHARS):
                self._flush()
            self._batch.append((number, group))
            self._chars += chars
        if self._batch:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch, self._chars = self._batch, [], 0
        self._send(batch)

    def _send(self, batch: Sequence[tuple[int, ImportGroup]]) -> None:
        request = ImportRequest(alias=self.alias, source=self.source, groups=[group for _, group in batch])
        try:
            reply = self.client.import_groups(request)
        except PlumblineError as error:
            if error.status != 413:
                raise
            self._send_smaller(batch)
            return
        self.summary.add(reply)
        self.summary.problems += [Problem(batch[one.index][0], one.message) for one in reply.refused]

    def _send_smaller(self, batch: Sequence[tuple[int, ImportGroup]]) -> None:
        """The server takes less at once than usual; a single row that it does not take is refused."""
        if len(batch) == 1:
            self.summary.problems.append(Problem(batch[0][0], "the row is larger than the server takes"))
            return
        middle = len(batch) // 2
        self._send(batch[:middle])
        self._send(batch[middle:])
