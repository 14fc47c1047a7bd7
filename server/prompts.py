"""Prompts on their way into the store and back: texts in the row, images in the blob store."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from reward.types import Image, Message, Prompt, Tool, ToolCall
from server.store.blobs import BlobStore
from server.store.records import MediaRecord

PromptRow = list[dict[str, Any]]
"""`[{"role", "parts": ["text" | {"image": sha256, "mime": ...}]}]`

A turn has `tool_calls: [[id, name, arguments]]` and `tool_call_id` where it has any, and the first one the tools of the
whole conversation, `tools: [[name, description, parameters]]`.
"""


def to_row(prompt: Prompt) -> PromptRow:
    row = [_turn(message) for message in prompt.messages]
    if prompt.tools:
        row[0]["tools"] = [[tool.name, tool.description, tool.parameters] for tool in prompt.tools]
    return row


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {
        "role": message.role,
        "parts": [
            part if isinstance(part, str) else {"image": part.sha256, "mime": part.mime} for part in message.parts
        ],
    }
    if message.tool_calls:
        turn["tool_calls"] = [[call.id, call.name, call.arguments] for call in message.tool_calls]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def speaks_of_tools(row: PromptRow) -> bool:
    return any(turn.keys() & {"tools", "tool_calls", "tool_call_id"} for turn in row)


def media_of(prompt: Prompt) -> tuple[MediaRecord, ...]:
    return tuple(MediaRecord(image.sha256, image.mime, len(image.data)) for image in prompt.images)


async def from_row(row: PromptRow, blobs: BlobStore) -> Prompt | None:
    """The prompt with its images' bytes; None when an image is no longer there."""
    messages = []
    for message in row:
        parts: list[str | Image] = []
        for part in message["parts"]:
            if isinstance(part, str):
                parts.append(part)
                continue
            data = await blobs.get(part["image"])
            if data is None:
                return None
            parts.append(Image(part["image"], part["mime"], data))
        calls = tuple(ToolCall(*call) for call in message.get("tool_calls", ()))
        messages.append(Message(message["role"], tuple(parts), calls, message.get("tool_call_id", "")))
    tools = tuple(Tool(*tool) for tool in row[0].get("tools", ())) if row else ()
    return Prompt(tuple(messages), tools)


def digest(prompt: Prompt) -> str:
    """sha256 over roles, texts and image contents: equal prompts, equal digest."""
    canonical = json.dumps(to_row(prompt), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_holdout(prompt_digest: str, share: float) -> bool:
    """Whether the prompt belongs to the share that is kept for the gate; the same prompt always gets the same."""
    return int(prompt_digest[:13], 16) / 16**13 < share
