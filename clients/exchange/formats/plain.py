"""Our own minimal format, for whatever has none: a prompt, and one way of saying what is good.

    {"prompt": "What is this?", "images": ["cup.png"], "chosen": "A cup.", "rejected": "A car."}
    {"prompt": [{"role": "user", "content": "Hello"}], "ranking": ["best", "middle", "worst"], "user": "ann"}
    {"prompt": "What is this?", "answer": "A cup.", "rating": "up", "comment": "right", "labels": ["short"]}

`prompt` is a text or a conversation of OpenAI's messages; `images` are paths or `data:` URLs; `rejected` may be a list;
`rating` is "up", "down" or a number from -1 to 1; `user`, `weight`, `comment` and `labels` are optional.
"""

from __future__ import annotations

from collections.abc import Sequence

from clients.exchange.conversations import turns_of
from clients.exchange.groups import Better, ImportedGroup, Rated, Row, UnreadableRow, picture_of, text_of, weight_of

KNOWN = frozenset(
    {"prompt", "images", "chosen", "rejected", "ranking", "answer", "rating", "user", "weight", "comment", "labels"}
)
THUMBS = {"up": 1.0, "down": -1.0}


def read_plain(row: Row) -> ImportedGroup:
    """One comparison, ranking or rating."""
    unknown = sorted(row.keys() - KNOWN)
    if unknown:
        raise UnreadableRow(f"the column {unknown[0]!r} is not known"[:120])
    user = text_of(row, "user") if row.get("user") is not None else None
    images = row.get("images") or []
    if not isinstance(images, list):
        raise UnreadableRow("images is not a list")
    turns = turns_of(row.get("prompt"), [picture_of(one) for one in images])
    ways = [name for name in ("chosen", "ranking", "rating") if row.get(name) is not None]
    if len(ways) != 1:
        raise UnreadableRow("say one of: chosen and rejected, ranking, answer and rating")
    if ways == ["rating"]:
        rated = Rated(0, _rating(row), comment=_comment(row), labels=_labels(row), user=user)
        return ImportedGroup(turns, (text_of(row, "answer"),), (rated,), user)
    weight = weight_of(row)
    if ways == ["ranking"]:
        answers = _texts(row["ranking"], "ranking")
        pairs = [(better, worse) for better in range(len(answers)) for worse in range(better + 1, len(answers))]
        opinions = tuple(Better(better, worse, "ranking", weight, user) for better, worse in pairs)
    else:
        answers = [text_of(row, "chosen"), *_texts(row.get("rejected"), "rejected")]
        opinions = tuple(Better(0, place, "choice", weight, user) for place in range(1, len(answers)))
    if not opinions:
        raise UnreadableRow("there is nothing to compare")
    if len(set(answers)) != len(answers):
        raise UnreadableRow("an answer stands twice in the comparison")
    return ImportedGroup(turns, tuple(answers), opinions, user)


def _texts(value: object, name: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(one, str) and one.strip() for one in texts):
        raise UnreadableRow(f"{name} is not a list of texts")
    return list(texts)


def _rating(row: Row) -> float:
    rating = row["rating"]
    value = THUMBS.get(rating) if isinstance(rating, str) else rating
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise UnreadableRow('rating is neither "up", "down" nor a number from -1 to 1')
    return float(value)


def _comment(row: Row) -> str | None:
    return text_of(row, "comment") if row.get("comment") is not None else None


def _labels(row: Row) -> tuple[str, ...]:
    return tuple(_texts(row.get("labels") or [], "labels"))
