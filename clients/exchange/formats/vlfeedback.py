"""VLFeedback (MMInstruction): four answers, each rated by GPT-4V from 1 to 5 for three aspects.

`completions` is a list of `{"model", "response", "annotations": {aspect: {"Rating", "Rationale"}}}`, or, as the
`datasets` library writes sequences, an object of three lists. An answer is worth the mean of its ratings; each that is
worth more is better than each that is worth less. The rater is a model, so the pairs count as AI feedback.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from clients.exchange.groups import ImportedGroup, Row, UnreadableRow, graded, picture_of, question, text_of


def read_vlfeedback(row: Row) -> ImportedGroup:
    """One prompt with its rated answers."""
    image = row.get("image") or row.get("img_path")
    if image is None:
        raise UnreadableRow("img_path is missing")
    worth = {text_of(one, "response"): _worth(one.get("annotations")) for one in _completions(row)}
    rated = {text: value for text, value in worth.items() if value is not None}
    return graded(question(text_of(row, "prompt"), [picture_of(image)]), rated, "ai")


def _completions(row: Row) -> list[Row]:
    given = row.get("completions")
    if isinstance(given, Mapping):
        columns = {name: values for name, values in given.items() if isinstance(values, Sequence)}
        given = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=False)]
    if not isinstance(given, Sequence) or not all(isinstance(one, Mapping) for one in given):
        raise UnreadableRow("completions is not a list of answers")
    return list(given)


def _worth(annotations: object) -> float | None:
    """The mean rating; None where no aspect was rated (`N/A`)."""
    if not isinstance(annotations, Mapping):
        return None
    ratings = [str(aspect.get("Rating")) for aspect in annotations.values() if isinstance(aspect, Mapping)]
    numbers = [float(rating) for rating in ratings if rating.replace(".", "", 1).isdecimal()]
    return fmean(numbers) if numbers else None
