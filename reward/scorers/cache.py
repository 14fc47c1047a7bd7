"""What a scorer found before: bounded, the least recently used goes first. For one event loop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from hashlib import blake2b
from typing import Generic, TypeVar

from reward.types import Prompt

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """At most `capacity` values; 0 keeps nothing."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: Key, value: Value) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def __len__(self) -> int:
        return len(self._values)


def prompt_key(prompt: Prompt) -> bytes:
    """Equal for equal prompts, and small: a cache must not keep the images of its keys alive."""
    turns = [
        (
            message.role,
            [part if isinstance(part, str) else (part.mime, part.sha256) for part in message.parts],
            [(call.id, call.name, call.arguments) for call in message.tool_calls],
            message.tool_call_id,
        )
        for message in prompt.messages
    ]
    tools = [(tool.name, tool.description, tool.parameters) for tool in prompt.tools]
    return blake2b(repr((turns, tools)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
