"""`plumbline erase` and `plumbline set-aside` against a server that is played by a function."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from clients.cli import app
from tests.clients.cli.test_commands import Server

ERASED = {"groups": 3, "signals": 5, "images": 1, "adapters": ["a-2", "a-3"], "undeclared": []}


def run(server: Server, *arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, obj=httpx.MockTransport(server), env={"COLUMNS": "200"}, input=answer)


@pytest.mark.parametrize(("options", "answer"), [(["--yes"], None), ([], "y\n")])
def test_erase_shows_what_went_and_who_learned_from_it(options: list[str], answer: str | None) -> None:
    """After a yes; the user goes into the path as one segment."""
    server = Server({"DELETE /v1/users/ann/1/data": {**ERASED, "undeclared": ["a-9"]}})
    result = run(server, "erase", "ann/1", "--tenant", "shop", *options, answer=answer)
    assert result.exit_code == 0, result.output
    assert server.requests[-1].url.raw_path == b"/v1/users/ann%2F1/data?tenant=shop"
    for shown in ("3 groups, 5 signals, 1 images", "a-2, a-3", "a-9"):
        assert shown in result.stdout


def test_erase_shows_the_remedies_and_asks_for_one() -> None:
    """With their exact effect; the one that was asked for is named as done."""
    remedies = [
        {"action": action, "active": "a-1", "adapters": ["a-2"], "what": f"what {action} does"}
        for action in ("roll_back", "retrain")
    ]
    alias = {"alias": "pets", "remedies": remedies, "taken": None}
    offered = Server({"DELETE /v1/users/ann/data": {**ERASED, "remedies": [alias]}})
    shown = run(offered, "erase", "ann", "--yes").stdout
    assert "--adapters roll_back: what roll_back does" in shown and "--adapters retrain: what retrain does" in shown
    done = Server({"DELETE /v1/users/ann/data": {**ERASED, "remedies": [{**alias, "taken": "retrain"}]}})
    shown = run(done, "erase", "ann", "--yes", "--adapters", "retrain").stdout
    assert done.requests[-1].url.query == b"adapters=retrain"
    assert "done: what retrain does" in shown and "roll_back" not in shown
    assert run(Server({}), "erase", "ann", "--yes", "--adapters", "unlearn").exit_code == 2


def test_erase_asks_first() -> None:
    """Without a yes nobody is called."""
    server = Server({})
    result = run(server, "erase", "ann", answer="n\n")
    assert (result.exit_code, server.requests) == (1, [])


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["--user", "ann", "--tenant", "shop"], {"user": "ann", "tenant": "shop"}),
        (["--annotator", "0123"], {"annotator": "0123"}),
        (["--adapter", "a-2", "--undo"], {"adapter": "a-2", "undo": True}),
        (["--signal", "sig-1", "--signal", "sig-2"], {"signal_ids": ["sig-1", "sig-2"]}),
    ],
)
def test_set_aside_names_signals_in_one_way(arguments: list[str], body: dict[str, Any]) -> None:
    """And says how many it found."""
    server = Server({"POST /v1/signals/quarantine": {"changed": 7}})
    result = run(server, "set-aside", *arguments, "--reason", "bought")
    assert result.exit_code == 0, result.output
    assert server.body == {"undo": False, "reason": "bought", **body}
    assert "7 signals" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["--user", "ann", "--adapter", "a-2"]])
def test_set_aside_wants_exactly_one_way(arguments: list[str]) -> None:
    """Otherwise it is a wrong argument, and nobody is called."""
    server = Server({})
    assert run(server, "set-aside", *arguments).exit_code == 2
    assert server.requests == []
