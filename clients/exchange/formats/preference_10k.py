"""LLaVA-Human-Preference-10K (LLaVA-RLHF): two answers to the last question, `preference` says which people liked.

`conversations` is LLaVA's `[{"from": "human" | "gpt", "value"}]`; where it ends with an answer, that one stands for the
two. `output_1` and `output_2` are `{"from", "value"}`; `preference` is 1 or 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clients.exchange.conversations import role_of
from clients.exchange.groups import (
    ImportedGroup,
    Row,
    Turn,
    UnreadableRow,
    illustrated,
    object_of,
    pair,
    picture_of,
    text_of,
)


def read_preference_10k(row: Row) -> ImportedGroup:
    """One comparison by a person."""
    outputs = [text_of(object_of(row, name), "value") for name in ("output_1", "output_2")]
    preferred = row.get("preference")
    if not isinstance(preferred, int) or preferred not in {1, 2}:
        raise UnreadableRow("preference is neither 1 nor 2")
    chosen, rejected = outputs if preferred == 1 else reversed(outputs)
    return pair(_turns(row), chosen, rejected)


def _turns(row: Row) -> list[Turn]:
    messages = row.get("conversations")
    if not isinstance(messages, Sequence) or not all(isinstance(one, Mapping) for one in messages):
        raise UnreadableRow("conversations is not a list of messages")
    spoken = [(role_of(one, "from"), text_of(one, "value")) for one in messages]
    if spoken and spoken[-1][0] == "assistant":
        spoken.pop()
    if not spoken:
        raise UnreadableRow("there is no question")
    pictures = [picture_of(row["image"])] if row.get("image") else []
    (role, first), *others = spoken
    return [Turn(role, illustrated(first, pictures)), *(Turn(role, (text,)) for role, text in others)]
