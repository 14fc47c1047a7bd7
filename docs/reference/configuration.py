"""The configuration reference, from the typed tree: every setting with its type, default, bounds and meaning."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.reference.markdown import code, inline, table
from server.config import Config

INTRODUCTION: Final = """# Configuration

One TOML file, given with `--config`, and variables of the environment that override it: `PLUMBLINE_HTTP__PORT=8500` is
`port` of `[http]`; `PLUMBLINE_LOG_LEVEL=debug` is `log_level`, which stands in no section. Unknown names and values out
of bounds stop the start with one line that names them. `plumbline config FILE` prints every setting as it would be.

Every setting has a default. A double bracket, as `[[aliases]]`, begins one entry of a list.
"""
SECRETS: Final = (SecretStr,)


def page() -> str:
    lines = [INTRODUCTION]
    for path, section in sections(Config, ""):
        lines += [
            f"## `{path}`" if path else "## Outside of any section",
            "",
            inline(inspect.getdoc(section) or ""),
            "",
        ]
        lines += table(("setting", "type", "default", "meaning"), _rows(section))
    return "\n".join(lines)


def sections(section: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The section and all below it, as TOML names them."""
    yield path, section
    bare = path.strip("[]")
    for name, field in section.model_fields.items():
        for inner, is_list, is_table in _sections_of(field.annotation):
            whole = f"{bare}.{name}" if bare else name
            whole = f"{whole}.NAME" if is_table else whole
            yield from sections(inner, f"[[{whole}]]" if is_list else f"[{whole}]")


def _sections_of(kind: Any) -> Iterator[tuple[type[BaseModel], bool, bool]]:
    """Sections in a type: whether they stand in a list, or under names of their own."""
    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        yield kind, False, False
    origin = typing.get_origin(kind)
    for one in typing.get_args(kind):
        for inner, is_list, is_table in _sections_of(one):
            yield inner, is_list or origin in {tuple, list}, is_table or origin is dict


def _rows(section: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        if any(_sections_of(field.annotation)):
            continue
        meaning = inline(field.description or "")
        yield code(name), _type(field.annotation) + _bounds(field.metadata), _default(field), meaning


def _type(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _type(arguments[0]) + _bounds(arguments[1:])
    if origin is typing.Literal:
        return " or ".join(code(json.dumps(one)) for one in arguments)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_type(one) for one in arguments if one is not type(None))
    if origin in {tuple, list, dict}:
        parts = [_type(one) for one in arguments if one is not ...]
        return f"list of {parts[0]}" if len(parts) == 1 else f"table of {' = '.join(parts)}"
    names = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        Path: "path",
        SecretStr: "secret",
    }
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _bounds(metadata: Any) -> str:
    said = []
    for one in metadata:
        if isinstance(one, FieldInfo):
            said.append(_bounds(one.metadata).removeprefix(", "))
        for name, sign in (("ge", "≥"), ("gt", "&gt;"), ("le", "≤"), ("lt", "&lt;")):
            if (bound := getattr(one, name, None)) is not None:
                said.append(f"{sign} {bound}")
        if isinstance(one, annotated_types.MinLen):
            said.append(f"at least {one.min_length}")
        if isinstance(one, annotated_types.MaxLen):
            said.append(f"at most {one.max_length}")
    return "".join(f", {one}" for one in said if one)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
    if value is PydanticUndefined:
        return "must be given"
    if value is None or value == "" or isinstance(value, SECRETS):
        return "none"
    if isinstance(value, bool | int | float | str):
        return code(json.dumps(value, ensure_ascii=False))
    if isinstance(value, tuple | list | dict):
        return code(json.dumps(value, ensure_ascii=False, default=str))
    return code(value)
