"""Writes TOML, as much of it as configuration files need: tables, arrays of tables, strings, numbers, booleans, lists.

The standard library only reads TOML. `None` is left out, because TOML has no null; a path becomes its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(tree: Mapping[str, Any]) -> str:
    """The tree as a TOML document; raises `TypeError` for a value that TOML cannot hold."""
    return "\n".join(_lines(tree, ())).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Plain values first: behind a table's header they would belong to that table."""
    lines = [f"{_key(name)} = {_value(value)}" for name, value in table.items() if _is_plain(value)]
    for name, value in table.items():
        place = (*path, name)
        header = ".".join(map(_key, place))
        if isinstance(value, Mapping):
            lines += ["", f"[{header}]", *_lines(value, place)]
        elif _is_tables(value):
            for item in value:
                lines += ["", f"[[{header}]]", *_lines(item, place)]
    return lines


def _is_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _is_plain(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping) and not _is_tables(value)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)  # inf and nan are TOML's words too
    if isinstance(value, str | Path):
        # JSON escapes what TOML escapes, but for DEL and for characters beyond the basic plane, kept as they are.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"TOML cannot hold a {type(value).__name__}")
