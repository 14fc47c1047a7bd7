"""Calls are read from an answer's text only where they hold to the form."""

from __future__ import annotations

import json

import pytest

from reward.types import Tool
from server.tool_calls import grammar, read, written

NAMES = ["weather", "time"]
CALL = written("weather", '{"city": "Oslo"}')


def test_what_is_written_is_read() -> None:
    """Name and arguments come back; the text beside them too."""
    assert read(CALL, NAMES) == ("", [("weather", '{"city": "Oslo"}')])
    assert read(f"I'll look.\n{CALL}\n{CALL}", NAMES)[0] == "I'll look."
    assert len(read(f"{CALL}\n{CALL}", NAMES)[1]) == 2


def test_arguments_are_json_whatever_the_grammar_lets_through() -> None:
    """A control character in a string is written as JSON writes it; white space around it is as good as any."""
    _, [(_, arguments)] = read(written("weather", '{\t"city":\n"a\x13\tb"}'), NAMES)
    assert arguments == '{"city": "a\\u0013\\tb"}'


@pytest.mark.parametrize(
    "text",
    [
        "No call at all",
        '<tool_call>\n{"name": "weather", "arguments": {"city"',
        '<tool_call>\n{"name": "weather", "arguments": "Oslo"}\n</tool_call>',
        '<tool_call>\n{"name": "delete_all", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "weather", "arguments": {}, "more": 1}\n</tool_call>',
        '<tool_call>\n{"name": "weather"}\n</tool_call>',
        f"{CALL}<tool_call>\n{{nothing}}\n</tool_call>",
        "<tool_call>{" + "[" * 100_000 + "}</tool_call>",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    """Unknown functions, cut or malformed blocks: the text is the answer, whole."""
    assert read(text, NAMES) == (text, [])


def test_the_grammar_allows_the_asked_for_functions_only() -> None:
    """One alternative each, with the function's own schema."""
    tools = [Tool(name, "", '{"type":"object","properties":{}}') for name in NAMES]
    alternatives = json.loads(grammar(tools, ["time"]))["format"]["elements"]
    assert len(alternatives) == 1
    assert '"name": "time"' in alternatives[0]["elements"][0]["value"]
    assert alternatives[0]["elements"][1]["json_schema"] == {"type": "object", "properties": {}}
