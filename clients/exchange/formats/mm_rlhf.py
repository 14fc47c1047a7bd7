"""MM-RLHF: what people said of several models' answers, as pairs (`dpo_pairs.jsonl`) or as scores (`data.jsonl`).

A pair has `prompt`, `chosen` and `rejected`. A row of scores (also in the dataset's Parquet files) has `question`,
`models_output` (the answers) and for each aspect (`faithfulness`, `helpfulness`, `ethical`) a list with each answer's
score; an answer is worth the mean of its scores. Both name an `image` or a `video`. The two files tell of the same
answers: import one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

from clients.exchange.groups import (
    ImportedGroup,
    Picture,
    Row,
    UnreadableRow,
    graded,
    pair,
    picture_of,
    question,
    text_of,
)

ASPECTS: Final = ("faithfulness", "helpfulness", "ethical")


def read_mm_rlhf(row: Row) -> ImportedGroup:
    """One pair of a ranking, or one prompt with its scored answers."""
    if row.get("video"):
        raise UnreadableRow("it is about a video; images only")
    pictures = [picture_of(row["image"])] if row.get("image") else []
    if "models_output" in row:
        return _scored(row, pictures)
    turns = question(text_of(row, "prompt"), pictures)
    return pair(turns, text_of(row, "chosen"), text_of(row, "rejected"), source="ranking")


def _scored(row: Row, pictures: Sequence[Picture]) -> ImportedGroup:
    answers = row["models_output"]
    if not isinstance(answers, list) or not all(isinstance(one, str) for one in answers):
        raise UnreadableRow("models_output is not a list of texts")
    worth = {text: _worth(row, place) for place, text in enumerate(answers) if text.strip()}
    known = {text: value for text, value in worth.items() if value is not None}
    return graded(question(text_of(row, "question"), pictures), known, "ranking")


def _worth(row: Row, place: int) -> float | None:
    """The mean score of an answer; None where no aspect was scored."""
    scores: list[Any] = [column[place] for aspect in ASPECTS if (column := _list(row, aspect))[place:]]
    numbers = [float(one) for one in scores if isinstance(one, int | float) and not isinstance(one, bool)]
    return fmean(numbers) if numbers and all(map(math.isfinite, numbers)) else None


def _list(row: Row, name: str) -> list[Any]:
    value = row.get(name)
    return value if isinstance(value, list) else []
