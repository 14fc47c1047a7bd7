"""The export: what an alias's groups teach, as lines of JSON in TRL's preference and unpaired formats.

It promises: the same derivation as the feed's; never more than one page of groups in memory, each page one snapshot
of the store; never a group that is erased, expired, or of a tenant that may not train the alias; hold-out only when
asked for. A row holds `prompt`, `chosen` and `rejected` (or `prompt`, `completion` and `label`) as TRL reads them,
`images` where the alias has any, and columns of ours that TRL's trainers drop.

With images, contents are lists of parts, `{"type": "image"}` standing where an image was; without any, plain texts.
One alias always gives one of the two, because a column of mixed types does not load. Groups with tools are left out:
the rows have no place for them.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection

from server.config import AliasConfig
from server.errors import NotFound
from server.preferences import Examples, derive
from server.prompts import speaks_of_tools
from server.store import exchange, signals
from server.store.blobs import BlobStore
from server.store.database import Database
from server.store.exchange import Position
from server.store.records import GroupRecord, MediaRecord

log = logging.getLogger(__name__)

Kind = Literal["pairs", "unpaired"]
Images = Literal["embed", "reference"]
Split = Literal["train", "holdout", "all"]
Row = dict[str, Any]

PAGE_GROUPS = 50
HOLDOUT = {"train": False, "holdout": True, "all": None}
SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


@dataclass(frozen=True, slots=True)
class Export:
    """What was asked for. `after`: the group behind which to go on."""

    alias: AliasConfig
    kind: Kind = "pairs"
    images: Images = "embed"
    split: Split = "train"
    after: Position | None = None


async def find_position(database: Database, alias: str, group_id: str) -> Position:
    """Where an earlier export ended; raises `NotFound`."""
    position = await database.read(lambda c: exchange.position_of(c, alias, group_id))
    if position is None:
        raise NotFound("The alias has no such group to go on after.", param="after", code="group_not_found")
    return position


async def lines(database: Database, blobs: BlobStore, export: Export) -> AsyncIterator[bytes]:
    """The rows, oldest group first, each a line of JSON. A group whose image cannot be read is left out."""
    with_images = await database.read(lambda c: exchange.holds_images(c, export.alias.name))
    after = export.after
    while True:
        page = await database.read(lambda c, after=after: _read_page(c, export, after))  # type: ignore[misc]
        for group, examples in page:
            if not examples:
                continue
            images = await _images(group, blobs, export.images)
            if images is None:
                log.warning("an image is missing: group left out of the export", extra={"group": group.id})
                continue
            for row in rows(group, examples, export.kind, images=images if with_images else None):
                yield json.dumps(row, separators=(",", ":")).encode() + b"\n"  # ASCII: one line to every reader
        if len(page) < PAGE_GROUPS:
            return
        last = page[-1][0]
        after = (last.created_at, last.id)


def _read_page(connection: Connection, export: Export, after: Position | None) -> list[tuple[GroupRecord, Examples]]:
    alias = export.alias
    found = exchange.completed_after(
        connection,
        alias.name,
        after,
        tenants=alias.train_tenants,
        is_holdout=HOLDOUT[export.split],
        limit=PAGE_GROUPS,
    )
    said = signals.live_signals(connection, [group.id for group in found])
    return [
        (group, Examples() if speaks_of_tools(group.prompt) else derive(group, said[group.id], alias.signals))
        for group in found
    ]


def rows(group: GroupRecord, examples: Examples, kind: Kind, *, images: list[str] | None) -> Iterator[Row]:
    """The group's rows; `images` None: the texts alone. Without pairs of a stepwise answer's sentences: who trains on
    texts would teach the model to end there.
    """
    whole = {one.id for one in group.candidates if one.is_whole}
    texts = {one.id: one.text for one in group.candidates}
    adapters = {one.id: one.adapter for one in group.candidates}

    def answer(candidate_id: str) -> list[Row]:
        text = texts[candidate_id]
        return [{"role": "assistant", "content": text if images is None else [_text_part(text)]}]

    shared: Row = {"prompt": [_message(message, images is not None) for message in group.prompt]}
    if images is not None:
        shared["images"] = images
    origin: Row = {
        "group_id": group.id,
        "generation": group.generation,
        "split": "holdout" if group.is_holdout else "train",
    }
    if kind == "pairs":
        for pair in examples.pairs:
            if not {pair.chosen, pair.rejected} <= whole:
                continue
            yield {
                **shared,
                "chosen": answer(pair.chosen),
                "rejected": answer(pair.rejected),
                "source": pair.source,
                "weight": pair.weight,
                "annotator": pair.annotator,
                "chosen_id": pair.chosen,
                "rejected_id": pair.rejected,
                "chosen_adapter": adapters[pair.chosen],
                "rejected_adapter": adapters[pair.rejected],
                **origin,
            }
        return
    for one in examples.unpaired:
        yield {
            **shared,
            "completion": answer(one.candidate),
            "label": one.desirable,
            "source": "thumbs",
            "weight": one.weight,
            "annotator": one.annotator,
            "candidate_id": one.candidate,
            "adapter": adapters[one.candidate],
            **origin,
        }


def _message(message: Row, in_parts: bool) -> Row:
    """A message of the store as TRL wants it."""
    parts = message["parts"]
    if not in_parts:
        return {"role": message["role"], "content": "".join(part for part in parts if isinstance(part, str))}
    return {
        "role": message["role"],
        "content": [_text_part(part) if isinstance(part, str) else {"type": "image"} for part in parts],
    }


def _text_part(text: str) -> Row:
    return {"type": "text", "text": text}


def file_name(media: MediaRecord) -> str:
    """What `images=reference` calls an image."""
    return f"images/{media.sha256}.{SUFFIXES.get(media.mime, 'bin')}"


async def _images(group: GroupRecord, blobs: BlobStore, form: Images) -> list[str] | None:
    """The group's images in prompt order; None where one cannot be read."""
    if form == "reference":
        return [file_name(media) for media in group.media]
    found = []
    for media in group.media:
        data = await blobs.get(media.sha256)
        if data is None:
            return None
        found.append(f"data:{media.mime};base64,{base64.b64encode(data).decode()}")
    return found
