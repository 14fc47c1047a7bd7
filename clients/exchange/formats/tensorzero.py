"""TensorZero's stored inferences: rows of `ChatInference`, or of `list_inferences`, with their feedback beside them.

`input` is `{"system", "messages"}`, `output` a list of content blocks (both as JSON texts where ClickHouse wrote
them). What was said comes in one of three ways, the first that is there counting:

- `dispreferred_outputs`: the `output` is a demonstration, better than each of them;
- `metric_name` "demonstration" with `value`: the demonstration is better than the `output`;
- another `metric_name` with `value`: true is up, false is down, a number from -1 to 1 is a grade.

Images are file blocks with `data` (base64) and `mime_type`; those that lie in TensorZero's object storage are not in
the rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from clients.exchange.conversations import role_of
from clients.exchange.groups import Better, ImportedGroup, Picture, Rated, Row, Turn, UnreadableRow


def read_tensorzero(row: Row) -> ImportedGroup:
    """One inference and what was said about it."""
    tags = _parsed(row.get("tags"))
    user = tags.get("user_id") if isinstance(tags, Mapping) else None
    user = user if isinstance(user, str) and user else None
    output = _text(row.get("output"), "output")
    answers, opinions = _said(row, output, user)
    return ImportedGroup(_turns(_parsed(row.get("input"))), answers, opinions, user)


def _said(row: Row, output: str, user: str | None) -> tuple[tuple[str, ...], tuple[Better | Rated, ...]]:
    worse = _parsed(row.get("dispreferred_outputs"))
    if isinstance(worse, Sequence) and worse:
        texts = [text for one in worse if (text := _text(one, "dispreferred_outputs")) != output]
        if not texts:
            raise UnreadableRow("the demonstration is what was answered")
        better = tuple(Better(0, place, source="correction", user=user) for place in range(1, len(texts) + 1))
        return (output, *texts), better
    metric, value = row.get("metric_name"), row.get("value")
    if metric == "demonstration":
        demonstration = _text(value, "value")
        if demonstration == output:
            raise UnreadableRow("the demonstration is what was answered")
        return (demonstration, output), (Better(0, 1, source="correction", user=user),)
    if isinstance(value, bool):
        value = 1.0 if value else -1.0
    if not isinstance(metric, str) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise UnreadableRow("no demonstration, and no metric_name with a value from -1 to 1 (or true, false)")
    return (output,), (Rated(0, float(value), labels=(metric[:64],), user=user),)


def _turns(given: object) -> tuple[Turn, ...]:
    if not isinstance(given, Mapping) or not isinstance(given.get("messages"), Sequence):
        raise UnreadableRow("input has no messages")
    system = given.get("system")
    turns = [Turn("system", (system,))] if isinstance(system, str) and system else []
    if system is not None and not isinstance(system, str):
        raise UnreadableRow("the system prompt is a template's arguments; render it first")
    for message in given["messages"]:
        if not isinstance(message, Mapping):
            raise UnreadableRow("a message is not an object")
        content = message.get("content")
        blocks = [content] if isinstance(content, str) else content
        if not isinstance(blocks, Sequence) or not blocks:
            raise UnreadableRow("a message has no content")
        turns.append(Turn(role_of(message), tuple(_block(block) for block in blocks)))
    return tuple(turns)


def _block(block: object) -> str | Picture:
    if isinstance(block, str):
        return block
    if not isinstance(block, Mapping):
        raise UnreadableRow("a content block is not an object")
    kind = str(block.get("type"))
    if kind in {"text", "raw_text"}:
        text = block.get("text", block.get("value"))
        if isinstance(text, str):
            return text
        raise UnreadableRow("a text is a template's arguments; render it first")
    if kind in {"file", "image"}:
        return _file(block)
    raise UnreadableRow(f"a message has a block of the type {kind!r}, which is not supported"[:120])


def _file(block: Row) -> Picture:
    given = block.get("file") or block.get("image") or block
    data = given.get("data") if isinstance(given, Mapping) else None
    if not isinstance(data, str) or not data:
        raise UnreadableRow("an image lies in TensorZero's storage, not in the row")
    return Picture(data if data.startswith("data:") else f"data:{given.get('mime_type', 'image/png')};base64,{data}")


def _text(content: object, name: str) -> str:
    """The text of an output: a JSON text of content blocks, the blocks, or a plain text."""
    found = _parsed(content)
    if isinstance(found, Sequence) and not isinstance(found, str):
        blocks = [_block(one) for one in found]
        found = "".join(block for block in blocks if isinstance(block, str))
    if not isinstance(found, str) or not found.strip():
        raise UnreadableRow(f"{name} holds no text")
    return found


def _parsed(value: object) -> Any:
    """What ClickHouse wrote as a JSON text, as a value; a plain text stays one."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, dict | list) else value
