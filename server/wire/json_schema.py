"""JSON schemas that answers can be held to: checked here, before an engine compiles them.

Promises: what passes is bounded (text, depth, subschemas, listed values), has no reference that leaves the schema or
leads back to itself, and uses only keywords that the engine's grammar enforces exactly, so an answer that ends by
itself fits the schema. Everything else is refused by name. Regular expressions (`pattern`) are: a grammar backend
compiles them without a bound on time (CVE-2025-48944, CVE-2026-55574). Pure, and linear in the schema's size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_CHARS = 32_768
MAX_DEPTH = 32
"""Nested objects and arrays of the schema's own text."""
MAX_SUBSCHEMAS = 500
MAX_VALUES = 500
"""Values listed by `enum`, in all."""
MAX_COUNT = 10_000
"""Largest `minLength`, `maxLength`, `minItems`, `maxItems`."""
MAX_NUMBER = 2**53

ANY_OBJECT = '{"type":"object"}'

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly"}
)
_DEFINITIONS = frozenset({"$defs", "definitions"})
_LIMITS = {
    "string": {"minLength", "maxLength", "format"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set[str](),
    "null": set[str](),
}
"""For each type, the keywords that say more of it."""
_FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "json-pointer", "relative-json-pointer"}
    | {"time", "uri", "uri-reference", "uri-template", "uuid"}
)
_KINDS = ("$ref", "const", "enum", "anyOf", "allOf")
"""Each of these says all there is to say: a grammar takes it and drops what stands beside it."""
_TYPE_OF = {str: "string", bool: "boolean", type(None): "null", list: "array", dict: "object"}


class SchemaError(ValueError):
    """Why a schema is refused, with the place."""


def as_text(schema: Mapping[str, Any]) -> str:
    """Compact JSON, properties in their order; raises `ValueError` where a number is not finite."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises `SchemaError`."""
    _check_depth(schema)
    try:
        text = as_text(schema)
    except ValueError:
        raise SchemaError("the schema holds a number that is not finite") from None
    if len(text) > MAX_CHARS:
        raise SchemaError(f"the schema may have {MAX_CHARS} characters")
    if schema.get("type") != "object":
        raise SchemaError('the schema must say "type": "object" at its root')
    checker = _Checker(schema)
    checker.check(schema, "")
    checker.check_references()


def _check_depth(schema: object) -> None:
    level = [schema]
    for _ in range(MAX_DEPTH):
        level = [
            inner for one in level if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]  # fmt: skip
        if not level:
            return
    raise SchemaError(f"the schema may nest {MAX_DEPTH} levels deep")


class _Checker:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._subschemas = 0
        self._values = 0
        self._references: dict[str, set[str]] = {}
        """From each definition (or "" for the root) to those it names."""

    def check(self, schema: object, place: str, owner: str = "") -> None:
        """`owner`: the definition that the schema is part of."""
        self._subschemas += 1
        if self._subschemas > MAX_SUBSCHEMAS:
            raise SchemaError(f"the schema may have {MAX_SUBSCHEMAS} parts")
        if schema is True:
            return
        if not isinstance(schema, dict):
            raise _refuse(place, "not a schema")
        self._check_definitions(schema, place)
        said = schema.keys() - _ANNOTATIONS - _DEFINITIONS - ({"$schema"} if not place else set())
        kinds = [kind for kind in _KINDS if kind in schema]
        if not kinds:
            self._check_typed(schema, said, place, owner)
            return
        kind = kinds[0]
        beside = {"type"} if kind in {"const", "enum"} else set()
        if alien := sorted(said - {kind} - beside):
            raise _refuse(place, f"{_shown(alien[0])} is not supported beside {kind}")
        match kind:
            case "$ref":
                self._refer(schema["$ref"], place, owner)
            case "const":
                self._check_values(schema, [schema["const"]], place)
            case "enum":
                self._check_values(schema, schema["enum"], place)
            case _:
                self._check_choices(schema[kind], kind, place, owner)

    def check_references(self) -> None:
        """Every name is defined, and none leads back to itself."""
        finished: set[str] = set()
        open_names: set[str] = set()

        def follow(name: str) -> None:
            open_names.add(name)
            for other in self._references.get(name, ()):
                if other in open_names:
                    raise SchemaError("$ref: the schema refers back to itself, which is not supported")
                if other not in finished:
                    follow(other)
            open_names.discard(name)
            finished.add(name)

        if len(self._references) > MAX_DEPTH * 8:
            raise SchemaError(f"the schema may have {MAX_DEPTH * 8} definitions that refer to others")
        for name in list(self._references):
            if name not in finished:
                follow(name)

    def _check_definitions(self, schema: Mapping[str, Any], place: str) -> None:
        for keyword in sorted(schema.keys() & _DEFINITIONS):
            if place:
                raise _refuse(place, f"{keyword} belongs to the root of the schema")
            if not isinstance(schema[keyword], dict):
                raise _refuse(place, f"{keyword} is not an object")
            for name, inner in schema[keyword].items():
                self.check(inner, f"{keyword}.{_shown(name)}", f"#/{keyword}/{name}")

    def _refer(self, target: object, place: str, owner: str) -> None:
        parts = target.split("/", 2) if isinstance(target, str) else []
        if len(parts) != 3 or parts[0] != "#" or parts[1] not in _DEFINITIONS:
            raise _refuse(place, "$ref may only name a definition of this schema, as #/$defs/name")
        if parts[2] not in self._root.get(parts[1], {}):
            raise _refuse(place, "$ref names no definition of this schema")
        self._references.setdefault(owner, set()).add(str(target))

    def _check_values(self, schema: Mapping[str, Any], values: object, place: str) -> None:
        if not isinstance(values, list) or not values:
            raise _refuse(place, "enum is not a list of values")
        self._values += len(values)
        if self._values > MAX_VALUES:
            raise SchemaError(f"the schema may list {MAX_VALUES} values in all")
        types = _types(schema, place)
        if types and not all(_fits(value, types) for value in values):
            raise _refuse(place, "a listed value is not of the type")

    def _check_choices(self, choices: object, kind: str, place: str, owner: str) -> None:
        if not isinstance(choices, list) or not choices:
            raise _refuse(place, f"{kind} is not a list of schemas")
        if kind == "allOf" and len(choices) > 1:
            raise _refuse(place, "allOf of several schemas is not supported")
        for position, choice in enumerate(choices):
            self.check(choice, _at(place, f"{kind}.{position}"), owner)

    def _check_typed(self, schema: Mapping[str, Any], said: set[str], place: str, owner: str) -> None:
        types = _types(schema, place)
        allowed = {"type"}.union(*(_LIMITS[one] for one in types))
        if alien := sorted(said - allowed):
            known = set[str]().union(*_LIMITS.values())
            why = "needs its type beside it" if alien[0] in known else "is not supported"
            raise _refuse(place, f"{_shown(alien[0])} {why}")
        self._check_object(schema, place, owner)
        if "items" in schema:
            self.check(schema["items"], _at(place, "items"), owner)
        for least, most in (("minLength", "maxLength"), ("minItems", "maxItems")):
            _check_count(schema, least, most, place)
        _check_range(schema, types, place)
        if not isinstance(schema.get("format", ""), str) or schema.get("format", "uuid") not in _FORMATS:
            raise _refuse(place, "this format is not supported")
        if "format" in schema and schema.keys() & {"minLength", "maxLength"}:
            raise _refuse(place, "format is not supported beside minLength or maxLength")

    def _check_object(self, schema: Mapping[str, Any], place: str, owner: str) -> None:
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise _refuse(place, "properties is not an object")
        for name, inner in properties.items():
            self.check(inner, _at(place, f"properties.{_shown(name)}"), owner)
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _refuse(place, "required is not a list of names")
        if not set(required) <= properties.keys():
            raise _refuse(place, "required names a property that properties does not describe")
        if not isinstance(schema.get("additionalProperties", False), bool):
            self.check(schema["additionalProperties"], _at(place, "additionalProperties"), owner)


def _types(schema: Mapping[str, Any], place: str) -> list[str]:
    """The types that the schema names; none: any."""
    if "type" not in schema:
        return []
    named = schema["type"]
    types = named if isinstance(named, list) else [named]
    if not types or not all(isinstance(one, str) and one in _LIMITS for one in types):
        raise _refuse(place, "type is none of JSON's types")
    return types


def _fits(value: object, types: list[str]) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return bool({"integer", "number"} & set(types))
    if isinstance(value, float):
        return "number" in types
    return _TYPE_OF[type(value)] in types


def _check_count(schema: Mapping[str, Any], least: str, most: str, place: str) -> None:
    for keyword in (least, most):
        value = schema.get(keyword, 0)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
            raise _refuse(place, f"{keyword} is not a whole number from 0 to {MAX_COUNT}")
    if schema.get(least, 0) > schema.get(most, MAX_COUNT):
        raise _refuse(place, f"{least} is larger than {most}")


def _check_range(schema: Mapping[str, Any], types: list[str], place: str) -> None:
    bounds = {}
    for keyword in sorted(schema.keys() & _LIMITS["number"]):
        value = schema[keyword]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or abs(value) > MAX_NUMBER:
            raise _refuse(place, f"{keyword} is not a number within ±2^53")
        if "integer" in types and value != int(value):
            raise _refuse(place, f"{keyword} of an integer is not a whole number")
        bounds[keyword] = value
    least = max((bounds[keyword] for keyword in ("minimum", "exclusiveMinimum") if keyword in bounds), default=None)
    most = min((bounds[keyword] for keyword in ("maximum", "exclusiveMaximum") if keyword in bounds), default=None)
    if least is not None and most is not None and least > most:
        raise _refuse(place, "no number lies within the range")


def _refuse(place: str, why: str) -> SchemaError:
    return SchemaError(f"{place}: {why}" if place else why)


def _at(place: str, step: str) -> str:
    return f"{place}.{step}" if place else step


def _shown(name: str) -> str:
    return name if len(name) <= 40 else name[:40] + "…"
