"""The API reference, from the OpenAPI document that `python -m server --openapi` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from docs.reference.markdown import code, inline, table
from server.api.openapi import document

INTRODUCTION: Final = """# API reference

Written from the OpenAPI document, which `python -m server --openapi` prints. What the routes mean together, and who may
call them, is in [HTTP API](../api.md). Every error has the shape [ErrorReply](#errorreply).
"""
REF: Final = "#/components/schemas/"
BOUNDS: Final = {
    "minimum": "≥ {}", "exclusiveMinimum": "&gt; {}", "maximum": "≤ {}", "exclusiveMaximum": "&lt; {}",
    "minLength": "at least {} characters", "maxLength": "at most {} characters",
    "minItems": "at least {}", "maxItems": "at most {}",
}  # fmt: skip


def page() -> str:
    made = document()
    lines = [INTRODUCTION]
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            lines += _operation(f"{method.upper()} {path}", operation)
    lines += ["## Schemas", ""]
    for name, schema in sorted(made["components"]["schemas"].items()):
        lines += _schema(name, schema)
    return "\n".join(lines)


def _operation(name: str, operation: dict[str, Any]) -> list[str]:
    lines = [f"## `{name}`", "", inline(operation.get("description") or operation.get("summary", "")), ""]
    rows = (
        (code(one["name"]), one["in"], _type(one["schema"]), _default(one["schema"]) or _required(one.get("required")),
         inline(one.get("description", "")))
        for one in operation.get("parameters", [])
    )  # fmt: skip
    lines += table(("parameter", "in", "type", "default", "meaning"), rows)
    body = operation.get("requestBody", {}).get("content", {})
    if body:
        lines += [f"Body: {', '.join(_type(one.get('schema', {})) for one in body.values())}.", ""]
    return [*lines, *table(("status", "reply", "when"), _replies(operation["responses"]))]


def _replies(responses: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for status, reply in sorted(responses.items()):
        schemas = [one.get("schema", {}) for one in reply.get("content", {}).values()]
        yield status, ", ".join(_type(one) for one in schemas if one), inline(reply["description"])


def _schema(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"### {name}", "", inline(schema.get("description", "")), ""]
    if "enum" in schema:
        return [*lines, _type(schema), ""]
    required = set(schema.get("required", ()))
    rows = (
        (code(field), _type(one), _default(one) or _required(field in required), inline(one.get("description", "")))
        for field, one in schema.get("properties", {}).items()
    )
    return [*lines, *table(("field", "type", "default", "meaning"), rows)]


def _required(is_required: object) -> str:
    return "must be given" if is_required else ""


def _default(schema: dict[str, Any]) -> str:
    return code(schema["default"]) if schema.get("default") not in (None, "") else ""


def _type(schema: dict[str, Any]) -> str:
    if ref := schema.get("$ref"):
        name = ref.removeprefix(REF)
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key]))
    if "const" in schema:
        return code(repr(schema["const"]))
    if "enum" in schema:
        return " or ".join(code(repr(one)) for one in schema["enum"])
    said = [template.format(schema[key]) for key, template in BOUNDS.items() if key in schema]
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        kind = f"list of {_type(schema.get('items', {}))}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        kind = f"object of {_type(schema['additionalProperties'])}"
    return ", ".join([kind, *said])
