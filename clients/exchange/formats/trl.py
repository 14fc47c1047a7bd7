"""TRL's preference and unpaired formats, plain or conversational, with `images`; our own export is one of them.

The prompt may be implicit (`chosen` and `rejected` begin with the same messages). Of our own columns `source`,
`weight` and `annotator` come back as they left; of other trainers' files the opinions are the import's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from clients.exchange.conversations import answer_of, turns_of
from clients.exchange.groups import ImportedGroup, Picture, Rated, Row, Turn, UnreadableRow, pair, picture_of, weight_of
from server.wire.training import PairSource

SOURCES = frozenset(get_args(PairSource))


def read_trl(row: Row) -> ImportedGroup:
    """One pair, or one desirable or undesirable answer."""
    weight = weight_of(row)
    if "label" in row:
        answer = answer_of(row.get("completion"), "completion")
        if not isinstance(row["label"], bool):
            raise UnreadableRow("label is neither true nor false")
        rating = min(1.0, weight) * (1 if row["label"] else -1)
        turns = turns_of(row.get("prompt"), _pictures(row))
        return ImportedGroup(turns, (answer,), (Rated(0, rating, user=_annotator(row)),))
    turns, chosen, rejected = _comparison(row)
    source = row["source"] if isinstance(row.get("source"), str) and row["source"] in SOURCES else "choice"
    return pair(turns, chosen, rejected, source=source, weight=weight, user=_annotator(row))


def _comparison(row: Row) -> tuple[tuple[Turn, ...], str, str]:
    if row.get("prompt") is not None:
        turns = turns_of(row["prompt"], _pictures(row))
        return turns, answer_of(row.get("chosen"), "chosen"), answer_of(row.get("rejected"), "rejected")
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        raise UnreadableRow("there is no prompt")
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1]:
        raise UnreadableRow("there is no prompt, and chosen and rejected do not begin with the same messages")
    return turns_of(chosen[:-1], _pictures(row)), answer_of(chosen[-1:], "chosen"), answer_of(rejected[-1:], "rejected")


def _pictures(row: Row) -> list[Picture]:
    given: Any = row.get("images")
    if given is None:
        given = [row["image"]] if row.get("image") is not None else []
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UnreadableRow("images is not a list")
    return [picture_of(one) for one in given]


def _annotator(row: Row) -> str | None:
    annotator = row.get("annotator")
    return annotator[:128] if isinstance(annotator, str) and annotator else None
