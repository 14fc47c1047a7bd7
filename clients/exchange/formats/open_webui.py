"""Open WebUI's feedback export: a list of ratings, each with a snapshot of its chat.

The rated message and those before it are found in `snapshot.chat.chat.history.messages` by `meta.message_id` and
`parentId`. Where other models answered beside it (`data.sibling_model_ids`), a thumb compares: up is better than each
of their answers, down is worse. Elsewhere it is a rating.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clients.exchange.conversations import role_of
from clients.exchange.groups import Better, ImportedGroup, Picture, Rated, Row, Turn, UnreadableRow, object_of, text_of

Messages = Mapping[str, Mapping[str, Any]]


def read_open_webui(row: Row) -> ImportedGroup:
    """One thumb."""
    data, messages = object_of(row, "data"), _messages(row)
    rating = str(data.get("rating"))
    if rating not in {"1", "-1"}:
        raise UnreadableRow("data.rating is neither 1 nor -1")
    rated = messages.get(str(object_of(row, "meta").get("message_id")))
    if rated is None:
        raise UnreadableRow("the rated message is not in the snapshot")
    answers = [text_of(rated, "content"), *_siblings(rated, messages, data.get("sibling_model_ids"))]
    user = row.get("user_id")
    user = user if isinstance(user, str) and user else None
    is_up = rating == "1"
    opinions: tuple[Better | Rated, ...] = tuple(
        Better(0, other, user=user) if is_up else Better(other, 0, user=user) for other in range(1, len(answers))
    ) or (Rated(0, float(rating), comment=_comment(data), labels=_labels(data), user=user),)
    return ImportedGroup(_before(rated, messages), tuple(answers), opinions, user)


def _messages(row: Row) -> Messages:
    found: object = object_of(row, "snapshot")
    for name in ("chat", "chat", "history", "messages"):
        if not isinstance(found, Mapping):
            break
        found = found.get(name, found if name == "chat" else None)
    if not isinstance(found, Mapping) or not all(isinstance(one, Mapping) for one in found.values()):
        raise UnreadableRow("the snapshot holds no messages")
    return found


def _before(message: Row, messages: Messages) -> tuple[Turn, ...]:
    """The conversation that the message answers."""
    turns: list[Turn] = []
    parent = message.get("parentId")
    while parent is not None:
        earlier = messages.get(str(parent))
        if earlier is None or len(turns) > len(messages):
            raise UnreadableRow("the conversation before the rated message is incomplete")
        turns.insert(0, Turn(role_of(earlier), (*_pictures(earlier), text_of(earlier, "content"))))
        parent = earlier.get("parentId")
    if not turns:
        raise UnreadableRow("the rated message answers nothing")
    return tuple(turns)


def _pictures(message: Row) -> list[Picture]:
    images = [one for one in _list(message, "files") if isinstance(one, Mapping) and one.get("type") == "image"]
    urls = [str(one.get("url") or "") for one in images]
    if not all(url.startswith("data:") for url in urls):
        raise UnreadableRow("an image of the chat is not part of the export")
    return [Picture(url) for url in urls]


def _siblings(rated: Row, messages: Messages, models: object) -> list[str]:
    """What the other models answered to the same question."""
    parent = messages.get(str(rated.get("parentId")))
    if not isinstance(models, Sequence) or parent is None:
        return []
    beside = [messages.get(str(one)) for one in _list(parent, "childrenIds")]
    texts = [str(one.get("content") or "") for one in beside if one is not None and one.get("model") in models]
    return [text for text in dict.fromkeys(texts) if text.strip() and text != rated.get("content")]


def _comment(data: Row) -> str | None:
    comment = data.get("comment")
    return comment[:4000] if isinstance(comment, str) and comment else None


def _labels(data: Row) -> tuple[str, ...]:
    given = [data.get("reason"), *_list(data, "tags")]
    return tuple(one[:64] for one in given if isinstance(one, str) and one)[:16]


def _list(row: Row, name: str) -> list[Any]:
    """An optional list."""
    value = row.get(name)
    return value if isinstance(value, list) else []
