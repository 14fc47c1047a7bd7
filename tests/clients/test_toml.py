"""Configuration files that the clients write: read back by the standard library as what was meant."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from clients.toml import to_toml

TREE = {
    "log_level": "info",
    "http": {"port": 8400, "require_keys": False},
    "aliases": [
        {
            "name": "default",
            "rules": [
                {"name": "code", "pattern": r"\bcode\b\D{0,24}\d"},
                {"name": "quote", "pattern": 'a "b"\n\t\x7fé😀'},
            ],
            "learner": {"objectives": {"sigmoid": 1.0, "sft": 0.5}, "learning_rate": 5e-4},
        },
        {"name": "other", "best_of": 2},
    ],
    "odd key": {"a.b": [1, 2.5, True, ["x"]], "empty": []},
}


def test_reads_back_as_the_same_tree() -> None:
    """Nested tables, arrays of tables, escapes and odd keys survive."""
    assert tomllib.loads(to_toml(TREE)) == TREE


def test_plain_values_stand_before_tables() -> None:
    """A value behind a table's header would belong to that table."""
    assert tomllib.loads(to_toml({"table": {"a": 1}, "plain": 2})) == {"table": {"a": 1}, "plain": 2}


def test_paths_become_text_and_none_is_left_out() -> None:
    """TOML has neither."""
    assert tomllib.loads(to_toml({"path": Path("/a/b"), "absent": None})) == {"path": "/a/b"}


def test_refuses_what_toml_cannot_hold() -> None:
    """A wrong type is an error, not a wrong file."""
    with pytest.raises(TypeError, match="object"):
        to_toml({"value": object()})
