"""Tool calls as models of the Hermes and Qwen families write them, in the answer's text. Pure.

    <tool_call>
    {"name": "weather", "arguments": {"city": "Oslo"}}
    </tool_call>

The text is what is stored and learned from; apps get the calls. A text that does not hold to the form is no call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, Final

from reward.types import Tool

OPENING: Final = '<tool_call>\n{"name": "'
_BEFORE_ARGUMENTS: Final = '", "arguments": '
_CLOSING: Final = "}\n</tool_call>"
_BLOCK: Final = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def grammar(tools: Sequence[Tool], names: Collection[str]) -> str:
    """Xgrammar's structural tag for exactly one call of one of the functions, as JSON."""
    calls = [
        {
            "type": "sequence",
            "elements": [
                {"type": "const_string", "value": f"{OPENING}{tool.name}{_BEFORE_ARGUMENTS}"},
                {"type": "json_schema", "json_schema": json.loads(tool.parameters), "max_whitespace_cnt": 1},
                {"type": "const_string", "value": _CLOSING},
            ],
        }
        for tool in tools
        if tool.name in names
    ]
    return json.dumps({"type": "structural_tag", "format": {"type": "or", "elements": calls}})


def written(name: str, arguments: str) -> str:
    """A call as text."""
    return f"{OPENING}{name}{_BEFORE_ARGUMENTS}{arguments}{_CLOSING}"


def read(text: str, names: Collection[str]) -> tuple[str, list[tuple[str, str]]]:
    """What an answer says beside its calls, and the calls as (name, arguments in JSON). All or nothing: where one
    block is no call of a known function, everything is text.
    """
    calls = [_call(block, names) for block in _BLOCK.findall(text)]
    found = [call for call in calls if call is not None]
    if not found or len(found) != len(calls):
        return text, []
    return _BLOCK.sub("", text).strip(), found


def _call(block: str, names: Collection[str]) -> tuple[str, str] | None:
    try:
        said: Any = json.loads(block, strict=False)  # the grammar lets control characters into bounded strings
    except (ValueError, RecursionError):
        return None
    match said:
        case {"name": str(name), "arguments": dict(arguments)} if name in names and len(said) == 2:
            return name, json.dumps(arguments, ensure_ascii=False)
    return None
