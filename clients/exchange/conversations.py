"""Conversations as OpenAI's, Hugging Face's and LLaVA's formats write them, as turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from clients.exchange.groups import Picture, Role, Row, Turn, UnreadableRow, illustrated, picture_of

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


def role_of(message: Row, name: str = "role") -> Role:
    role = message.get(name)
    if not isinstance(role, str) or role not in ROLES:
        raise UnreadableRow(f"a message has the unknown role {role!r}"[:120])
    return ROLES[role]


def turns_of(messages: object, pictures: Sequence[Picture] = ()) -> tuple[Turn, ...]:
    """`[{"role", "content"}]`; the pictures fill the places that contents leave open, or lead the first question."""
    if isinstance(messages, str):
        return (Turn("user", illustrated(messages, pictures)),)
    if not isinstance(messages, Sequence) or not messages:
        raise UnreadableRow("there is no conversation")
    left = iter(pictures)
    turns = [_turn(message, left) for message in messages]
    over = list(left)
    if over:
        first = next((place for place, turn in enumerate(turns) if turn.role == "user"), None)
        if first is None or any(isinstance(part, Picture) for turn in turns for part in turn.parts):
            raise UnreadableRow(f"{len(over)} images have no place in the conversation")
        turns[first] = Turn("user", (*over, *turns[first].parts))
    return tuple(turns)


def _turn(message: object, pictures: Iterator[Picture]) -> Turn:
    if not isinstance(message, Mapping):
        raise UnreadableRow("a message is not an object")
    content = message.get("content")
    if isinstance(content, str):
        return Turn(role_of(message), (content,))
    if not isinstance(content, Sequence) or not content:
        raise UnreadableRow("a message has no content")
    return Turn(role_of(message), tuple(_part(part, pictures) for part in content))


def _part(part: object, pictures: Iterator[Picture]) -> str | Picture:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise UnreadableRow("a part of a message is not an object")
    match part.get("type"):
        case "text" if isinstance(part.get("text"), str):
            return str(part["text"])
        case "image_url" if isinstance(part.get("image_url"), Mapping):
            return picture_of(part["image_url"].get("url"))
        case "image":
            given = part.get("image")
            if given is not None:
                return picture_of(given)
            found = next(pictures, None)
            if found is None:
                raise UnreadableRow("the conversation has more places for images than there are images")
            return found
        case kind:
            raise UnreadableRow(f"a message has a part of the unknown type {kind!r}"[:120])


def answer_of(content: object, name: str) -> str:
    """A plain answer, or a conversation that holds nothing but one."""
    if content is None:
        raise UnreadableRow(f"{name} is missing")
    if isinstance(content, str):
        text = content
    else:
        turns = turns_of(content)
        if len(turns) != 1 or turns[0].role != "assistant":
            raise UnreadableRow(f"{name} is not one answer of the assistant")
        if any(isinstance(part, Picture) for part in turns[0].parts):
            raise UnreadableRow(f"{name} holds an image")
        text = "".join(part for part in turns[0].parts if isinstance(part, str))
    if not text.strip():
        raise UnreadableRow(f"{name} is empty")
    return text
