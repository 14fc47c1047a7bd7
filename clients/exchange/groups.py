"""What every format is read into: one prompt, its answers, and what was said about them. Pure values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.wire.training import PairSource

Row = Mapping[str, Any]
Role = Literal["system", "user", "assistant"]


class UnreadableRow(Exception):
    """Why a row cannot be imported, in words for the person who has the file."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as the row gives it: its bytes, a `data:` URL, or a path below the directory of images."""

    source: bytes | str


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    parts: tuple[str | Picture, ...]


@dataclass(frozen=True, slots=True)
class Better:
    """The answer `chosen` is better than `rejected`; both by their places."""

    chosen: int
    rejected: int
    source: PairSource = "choice"
    weight: float = 1.0
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Rated:
    """The answer is good (up to 1) or bad (down to -1)."""

    answer: int
    rating: float
    comment: str | None = None
    labels: tuple[str, ...] = ()
    user: str | None = None


@dataclass(frozen=True, slots=True)
class ImportedGroup:
    """`user`: who asked, where the row knows it."""

    turns: tuple[Turn, ...]
    answers: tuple[str, ...]
    opinions: tuple[Better | Rated, ...]
    user: str | None = None


def pair(turns: Sequence[Turn], chosen: str, rejected: str, **about: Any) -> ImportedGroup:
    """The commonest group: two answers and which of them is better."""
    if chosen == rejected:
        raise UnreadableRow("chosen and rejected are the same answer")
    return ImportedGroup(tuple(turns), (chosen, rejected), (Better(0, 1, **about),))


def graded(turns: Sequence[Turn], worth: Mapping[str, float], source: PairSource) -> ImportedGroup:
    """Answers with what each is worth: each that is worth more is better than each that is worth less."""
    answers = tuple(worth)
    opinions = tuple(
        Better(better, worse, source)
        for better in range(len(answers))
        for worse in range(len(answers))
        if worth[answers[better]] > worth[answers[worse]]
    )
    if not opinions:
        raise UnreadableRow("no answer is rated higher than another")
    return ImportedGroup(tuple(turns), answers, opinions)


def text_of(row: Row, name: str) -> str:
    """A column that must hold some text."""
    value = row.get(name)
    if not isinstance(value, str):
        raise UnreadableRow(f"{name} is missing" if value is None else f"{name} is not a text")
    if not value.strip():
        raise UnreadableRow(f"{name} is empty")
    return value


def object_of(row: Row, name: str) -> Row:
    """A column that must hold an object."""
    value = row.get(name)
    if not isinstance(value, Mapping):
        raise UnreadableRow(f"{name} is missing" if value is None else f"{name} is not an object")
    return value


def weight_of(row: Row) -> float:
    """The optional column `weight`."""
    weight = row.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not (math.isfinite(weight) and weight > 0):
        raise UnreadableRow("weight is not a positive number")
    return float(weight)


def picture_of(value: object) -> Picture:
    """An image column: a path, a `data:` URL, or the `datasets` library's `{"bytes", "path"}`."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) or (isinstance(value, str) and value):
        return Picture(value)
    raise UnreadableRow("the image is neither a path, nor a data: URL, nor bytes")


IMAGE_TOKEN = "<image>"  # noqa: S105 - a place in a text, not a secret


def illustrated(text: str, pictures: Sequence[Picture]) -> tuple[str | Picture, ...]:
    """A text with its pictures where it says `<image>`, or, where it says nothing, before it."""
    pieces = text.split(IMAGE_TOKEN)
    if len(pieces) == 1:
        return (*pictures, text)
    if len(pieces) - 1 != len(pictures):
        raise UnreadableRow(f"the text has {len(pieces) - 1} places for {len(pictures)} images")
    parts: list[str | Picture] = [pieces[0].strip()]
    for picture, piece in zip(pictures, pieces[1:], strict=True):
        parts += [picture, piece.strip()]
    return tuple(part for part in parts if part)


def question(text: str, pictures: Sequence[Picture] = ()) -> tuple[Turn, ...]:
    """A conversation of one question."""
    return (Turn("user", illustrated(text, pictures)),)
