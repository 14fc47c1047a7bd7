"""Schemas that answers are held to: what an engine's grammar enforces passes, all else is refused by name."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Any, Literal

import pytest
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field

from server.wire.json_schema import SchemaError, check_schema


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    name: str
    colour: Colour
    size: Literal["small", "large"] | None
    weight_kg: float


class Report(BaseModel):
    """As an app would write it."""

    title: str = Field(description="A short title")
    parts: list[Part]
    count: int
    is_complete: bool


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


GOOD = {
    "what the openai client makes of a pydantic model": to_strict_json_schema(Report),
    "pydantic's own": Report.model_json_schema(),
    "bounds": obj(a={"type": "string", "maxLength": 5}, b={"type": "integer", "minimum": 1, "maximum": 9}),
    "several types": obj(a={"type": ["string", "null"], "minLength": 1}),
    "a known format": obj(a={"type": "string", "format": "date"}),
    "any value": obj(a={}),
    "a property named like a keyword": obj(pattern={"type": "string"}, **{"$ref": {"type": "null"}}),
    "one definition used twice": obj(a={"$ref": "#/$defs/x"}, b={"$ref": "#/$defs/x"})
    | {"$defs": {"x": {"type": "string"}}},
}

BAD = {
    "no object at the root": ({"type": "array"}, "root"),
    "pattern": (obj(a={"type": "string", "pattern": "(a+)+b"}), "properties.a: pattern is not supported"),
    "patternProperties": ({"type": "object", "patternProperties": {"(a+)+": {}}}, "patternProperties"),
    "a reference to elsewhere": (obj(a={"$ref": "http://evil.test/schema.json"}), "$ref"),
    "a reference to a file": (obj(a={"$ref": "file:///etc/passwd"}), "$ref"),
    "a reference to nothing": (obj(a={"$ref": "#/$defs/none"}), "$ref"),
    "a reference to the root": (obj(a={"$ref": "#"}), "$ref"),
    "a definition of itself": (
        obj(a={"$ref": "#/$defs/x"}) | {"$defs": {"x": obj(next={"$ref": "#/$defs/x"})}},
        "back to itself",
    ),
    "a loop of two": (
        obj(a={"$ref": "#/$defs/x"}) | {"$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/x"}}},
        "back to itself",
    ),
    "a reference beside more": (obj(a={"$ref": "#/$defs/x", "minLength": 3}) | {"$defs": {"x": {}}}, "minLength"),
    "unknown keyword": (obj(a={"type": "string", "guided_regex": "x"}), "guided_regex"),
    "keyword of another type": (obj(a={"type": "string", "minimum": 3}), "minimum needs its type"),
    "keyword without a type": (obj(a={"maxLength": 3}), "maxLength needs its type"),
    "not": (obj(a={"not": {"type": "string"}}), "not"),
    "oneOf": (obj(a={"oneOf": [{"type": "string"}]}), "oneOf"),
    "allOf of two": (obj(a={"allOf": [{}, {}]}), "allOf"),
    "uniqueItems": (obj(a={"type": "array", "items": {}, "uniqueItems": True}), "uniqueItems"),
    "multipleOf": (obj(a={"type": "integer", "multipleOf": 7}), "multipleOf"),
    "a value of another type": (obj(a={"type": "string", "enum": ["a", 1]}), "type"),
    "required, not described": ({"type": "object", "properties": {}, "required": ["a"]}, "required"),
    "unknown type": (obj(a={"type": "text"}), "type"),
    "unknown format": (obj(a={"type": "string", "format": "regex"}), "format"),
    "format that is none": (obj(a={"type": "string", "format": {}}), "format"),
    "no schema": (obj(a=7), "not a schema"),
    "false": (obj(a=False), "not a schema"),
    "lengths that cross": (obj(a={"type": "string", "minLength": 5, "maxLength": 4}), "minLength"),
    "a huge count": (obj(a={"type": "array", "minItems": 10**9}), "minItems"),
    "an empty range": (obj(a={"type": "integer", "minimum": 5, "maximum": 4}), "range"),
    "infinity": (obj(a={"type": "number", "minimum": float("inf")}), "finite"),
    "too many values": (obj(a={"enum": list(range(501))}), "500"),
    "too many parts": (obj(**{f"p{i}": {} for i in range(500)}), "500"),
    "too long": (obj(a={"type": "string", "description": "x" * 40_000}), "characters"),
}


@pytest.mark.parametrize("schema", GOOD.values(), ids=GOOD.keys())
def test_what_apps_write_passes(schema: dict[str, Any]) -> None:
    """Models of the stock clients among them."""
    check_schema(schema)


@pytest.mark.parametrize(("schema", "named"), BAD.values(), ids=BAD.keys())
def test_what_a_grammar_would_not_hold_is_refused_by_name(schema: dict[str, Any], named: str) -> None:
    """Never ignored: an answer that ends by itself fits the schema, or the schema is refused."""
    with pytest.raises(SchemaError) as refused:
        check_schema(schema)
    assert named in str(refused.value)
    assert len(str(refused.value)) < 200


def test_depth_is_bounded_before_anything_recurses() -> None:
    """Ten thousand levels are refused at once, without a RecursionError."""
    schema: dict[str, Any] = {}
    for _ in range(10_000):
        schema = {"type": "array", "items": schema}
    started = time.monotonic()
    with pytest.raises(SchemaError, match="deep"):
        check_schema(obj(a=schema))
    assert time.monotonic() - started < 0.5
