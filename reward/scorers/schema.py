"""Whether an answer is JSON that fits a schema: 1 where it fits, ½ where it is other JSON, 0 where it is none.

Bounded: the schema is one that the caller has checked (no regular expressions, no recursion), and an answer that is
longer than `MAX_CHARS` or holds more than `MAX_VALUES` values is not scored. The check runs on a thread, so that a
large answer does not hold up the event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from jsonschema import Draft202012Validator

from reward.types import Candidate, Prompt

MAX_CHARS = 65_536
MAX_VALUES = 5_000


@dataclass(frozen=True, slots=True)
class SchemaScorer:
    schema: Mapping[str, Any]
    name: str = "json_schema"

    @property
    def version(self) -> str:
        return sha256(json.dumps(self.schema, sort_keys=True).encode()).hexdigest()[:12]

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        return await asyncio.to_thread(self._score_all, [one.text for one in candidates])

    def _score_all(self, texts: Sequence[str]) -> list[float | None]:
        validator = Draft202012Validator(dict(self.schema))
        return [_score_one(validator, text) for text in texts]


def _score_one(validator: Draft202012Validator, text: str) -> float | None:
    if len(text) > MAX_CHARS:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return 0.0
    if _count(value) > MAX_VALUES:
        return None
    return 1.0 if validator.is_valid(value) else 0.5


def _count(value: object) -> int:
    """How many values a JSON value holds; counting ends where there are too many."""
    count, waiting = 0, [value]
    while waiting and count <= MAX_VALUES:
        one = waiting.pop()
        count += 1
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return count
