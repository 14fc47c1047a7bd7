"""The `plumbline` command against the whole service on a fake engine: a day of a developer and of an operator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from clients.cli import app
from tests.api.served import Served, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("cli")) as one:
        yield one


class Terminal:
    """Commands of one key's holder."""

    def __init__(self, server: Served, who: str) -> None:
        self._environment = {"PLUMBLINE_URL": server.url, "PLUMBLINE_KEY": who, "COLUMNS": "200"}

    def run(self, *arguments: object) -> Result:
        return CliRunner().invoke(app, [str(one) for one in arguments], env=self._environment)

    def says(self, *arguments: object) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: object) -> Any:
        return json.loads(self.says(*arguments, "--json"))


@pytest.fixture
def developer(server: Served) -> Terminal:
    return Terminal(server, "default-app")


@pytest.fixture
def operator(server: Served) -> Terminal:
    return Terminal(server, "default-operator")


def test_asking_and_judging(developer: Terminal, tmp_path: Path) -> None:
    """The answer's text comes first; what is printed below it can be typed as it stands."""
    picture = tmp_path / "cup.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    shown = developer.says("chat", "What?", "-i", picture, "--best-of", 3, "--compare", "--explain", "--max-tokens", 8)
    completion = re.search(r"plumbline feedback (cmpl-\w+) --prefer", shown)
    assert completion is not None, shown
    assert "logprob -" in shown and "secret allow" in shown
    other = re.search(rf"{completion[1]}(\.\d), to compare", shown)
    assert other is not None
    best = next(end for end in (".0", ".1", ".2") if re.search(rf"^\s*\{end} .* 1\.00\s*$", shown, re.M))
    assert "kept as sig-" in developer.says("feedback", completion[1], "--prefer", best, "--over", other[1])
    assert "kept as sig-" in developer.says("feedback", completion[1], "--up", "--comment", "clear")
    assert developer.json("feedback", completion[1], "--correction", "A red cup.")["trainable"] is True


def test_one_answer_as_json(developer: Terminal) -> None:
    """The whole reply, as a script reads it."""
    reply = developer.json("chat", "What?", "--max-tokens", 6, "--user", "ann", "--temperature", 0)
    assert reply["choices"][0]["message"]["content"] and reply["plumbline"]["feedback_token"]


def test_looking_around(operator: Terminal) -> None:
    """Everything that shows something does, as a table and as JSON."""
    assert "base" in operator.says("routing")
    assert operator.json("routing")["data"][0]["generation"] == 0
    assert operator.json("adapters")["data"] == []
    assert "adapter" in operator.says("adapters")
    assert "nothing is wrong" in operator.says("check")
    assert operator.json("check")["data"] == []
    assert "default-operator" in operator.says("keys", "list")


def test_a_key_s_life(operator: Terminal, server: Served) -> None:
    """Made, used, revoked, and in the audit trail."""
    key = operator.says("keys", "create", "--role", "app", "--name", "site", "--expires-in", "1d").strip()
    assert "default" in Terminal(server, key).says("chat", "What?", "--max-tokens", 4, "--json")
    name = next(one["id"] for one in operator.json("keys", "list")["data"] if one["name"] == "site")
    assert "is revoked" in operator.says("keys", "revoke", name)
    refused = Terminal(server, key).run("chat", "What?")
    assert refused.exit_code == 1 and "--key or PLUMBLINE_KEY" in refused.stderr
    assert {"create_key", "revoke_key"} <= {one["action"] for one in operator.json("audit")["data"]}


def test_data_goes_out_and_comes_in(operator: Terminal, developer: Terminal, tmp_path: Path) -> None:
    """And what a person said can be set aside and erased."""
    completion = developer.json("chat", "How many?", "--best-of", 2, "--max-tokens", 6, "--user", "bob")["id"]
    developer.says("feedback", completion, "--correction", "Two.", "--user", "bob")
    file = tmp_path / "pairs.jsonl"
    assert operator.json("export", file)["rows"] >= 1
    assert operator.json("import", file, "--format", "trl", "--dry-run")["problems"] == []
    assert re.match(r"[1-9]\d* signals set aside", operator.says("set-aside", "--user", "bob"))
    assert "taken back in" in operator.says("set-aside", "--user", "bob", "--undo")
    assert "erased: 1 groups" in operator.says("erase", "bob", "--yes")
    assert developer.run("feedback", completion, "--up").exit_code == 1


def test_what_cannot_be_done_is_said(operator: Terminal, developer: Terminal) -> None:
    """In the server's words, one line, status 1."""
    for terminal, arguments, words in (
        (operator, ["rollback"], "nothing to roll back"),
        (operator, ["promote", "nothing"], "no such adapter"),
        (operator, ["lineage", "nothing"], "no such adapter"),
        (developer, ["routing"], "role operator"),
        (developer, ["chat", "What?", "--model", "nobody"], "GET /v1/models"),
        (developer, ["feedback", "cmpl-none", "--up"], "no such completion"),
    ):
        result = terminal.run(*arguments)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1), arguments
        assert words in result.stderr
