"""JSON that fits a schema, drawn by whoever asks: what the fake engine answers where an answer has a schema.

Understands what `server.wire.json_schema` lets through, but for formats. Leaves optional properties out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Draw = Callable[[int], int]
"""A number from 0 up to the given one, which is left out."""


def drawn_json(schema_text: str, draw: Draw) -> str:
    root = json.loads(schema_text)
    return json.dumps(_drawn(root, root, draw), ensure_ascii=False)


def _drawn(schema: Any, root: dict[str, Any], draw: Draw) -> Any:
    if schema is True:
        return draw(10)
    match schema:
        case {"$ref": str(target)}:
            _, keyword, name = target.split("/", 2)
            return _drawn(root[keyword][name], root, draw)
        case {"const": value}:
            return value
        case {"enum": list(values)}:
            return values[draw(len(values))]
        case {"anyOf": list(choices)} | {"allOf": list(choices)}:
            return _drawn(choices[draw(len(choices))], root, draw)
    types = schema.get("type", "integer")
    return _of_type(types if isinstance(types, str) else types[draw(len(types))], schema, root, draw)


def _of_type(kind: str, schema: dict[str, Any], root: dict[str, Any], draw: Draw) -> Any:
    match kind:
        case "object":
            return {name: _drawn(schema["properties"][name], root, draw) for name in schema.get("required", ())}
        case "array":
            least = schema.get("minItems", 0)
            count = least + draw(min(3, schema.get("maxItems", least + 3) - least + 1))
            return [_drawn(schema.get("items", True), root, draw) for _ in range(count)]
        case "string":
            least = schema.get("minLength", 0)
            letters = least + draw(min(6, schema.get("maxLength", least + 6) - least + 1))
            return "".join("abc {}"[draw(6)] for _ in range(letters))
        case "integer" | "number":
            return _number(schema, draw)
        case "boolean":
            return bool(draw(2))
    return None


def _number(schema: dict[str, Any], draw: Draw) -> float:
    match schema:
        case {"minimum": float() | int() as bound} | {"maximum": float() | int() as bound}:
            return bound
        case {"exclusiveMinimum": float() | int() as bound}:
            return bound + 1
        case {"exclusiveMaximum": float() | int() as bound}:
            return bound - 1
    return draw(100)
