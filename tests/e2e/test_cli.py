"""An operator's day at the terminal: `plumbline` against the real service, which serves real adapters on real vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from clients.cli import app
from clients.demo.scenes import scene
from tests.e2e.conftest import Service, make_service, upload_random_adapter
from tests.engine_fixture import EngineSession

pytestmark = pytest.mark.engine

GATE_S = 60.0


@pytest.fixture
def service(engine_session: EngineSession, tmp_path: Path) -> Iterator[Service]:
    """Where the operator decides: nothing moves by itself."""
    one = make_service(engine_session, tmp_path, rollout={"automatic": False})
    one.start()
    yield one
    one.stop()


class Terminal:
    def __init__(self, service: Service, directory: Path) -> None:
        self._service = service
        self._picture = directory / "scene.png"
        self._picture.write_bytes(scene(5).render())

    def run(self, *arguments: object) -> Result:
        typed = [*(str(one) for one in arguments), "--url", self._service.url]
        return CliRunner().invoke(app, typed, env={"COLUMNS": "200"})

    def says(self, *arguments: object) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, (arguments, result.output)
        return result.stdout

    def json(self, *arguments: object) -> Any:
        return json.loads(self.says(*arguments, "--json"))

    def is_refused(self, *arguments: object) -> str:
        """What is said about it, in one line, with status 1."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1), (arguments, result.output)
        return result.stderr

    def answer(self, *options: object) -> dict[str, Any]:
        asked = ("chat", "Describe the image.", "-i", self._picture, "--max-tokens", 12, "--temperature", 0)
        return self.json(*asked, *options)

    def served_by(self) -> str:
        return self.answer()["plumbline"]["adapter"]

    def active(self) -> str:
        return self.json("routing")["data"][0]["active"]

    def gated(self, adapter: str) -> str:
        deadline = time.monotonic() + GATE_S
        while (state := self.json("adapters", adapter)["state"]) != "gated":
            assert state in {"staged", "verified"} and time.monotonic() < deadline, self.says("report", adapter)
            time.sleep(0.1)
        return adapter


def test_an_operator_moves_adapters(service: Service, engine_session: EngineSession, tmp_path: Path) -> None:
    """Each move has its effect on the next answer; what may not be is refused, and says why."""
    terminal = Terminal(service, tmp_path)
    before = terminal.active()  # tests share the state; it need not be base

    first = terminal.gated(upload_random_adapter(service, engine_session, tmp_path, seed=301, parent=before))
    report = terminal.says("report", first)
    assert all(kind in report for kind in ("integrity", "probe", "gate")), report
    generation = terminal.json("routing")["data"][0]["generation"]
    assert "50%" in terminal.says("canary", first, "--share", 0.5, "--expect-generation", generation)
    assert "412" in terminal.is_refused("promote", first, "--expect-generation", generation)
    terminal.says("promote", first, "--reason", "reads well")
    assert terminal.served_by() == first

    second = terminal.gated(upload_random_adapter(service, engine_session, tmp_path, seed=302, parent=first))
    terminal.says("reject", second, "--reason", "not yet")
    assert "`force`" in terminal.is_refused("canary", second, "--share", 0.5)
    assert terminal.json("canary", second, "--share", 1, "--force")["canary"] == second
    assert terminal.served_by() == second
    terminal.says("promote", second)

    terminal.says("rollback", "--reason", "worse on receipts")
    assert terminal.served_by() == first
    terminal.says("rollback", "--undo")
    assert terminal.served_by() == second

    given = terminal.answer("--user", "ann")["id"]
    terminal.says("feedback", given, "--correction", "Nothing but squares.", "--user", "ann")
    pairs = tmp_path / "pairs.jsonl"
    assert terminal.json("export", pairs)["rows"] > 0 and "Nothing but squares." in pairs.read_text()

    assert f"signals behind {second} were set aside" in terminal.says(
        "quarantine", second, "--reason", "copies the prompt"
    )
    assert terminal.served_by() == first
    assert "quarantined cannot become" in terminal.is_refused("promote", second)
    assert "not served" in terminal.is_refused("chat", "What?", "--model", second)
    tree = terminal.says("lineage", first).splitlines()
    places = {name: next(number for number, line in enumerate(tree) if name in line) for name in (first, second)}
    assert places[first] < places[second]
    assert "active" in tree[places[first]] and "this one" in tree[places[first]]
    assert "quarantined" in tree[places[second]]

    assert terminal.json("rollback", "--reason", "as it was")["active"] == before
    assert terminal.served_by() == before
    moves = [one["action"] for one in terminal.json("audit", "--limit", 40)["data"]]
    assert {"canary", "promote", "reject", "rollback", "undo", "quarantine"} <= set(moves), moves
    (told,) = (line for line in terminal.says("audit").splitlines() if "worse on receipts" in line)
    assert f"active {second} → {first}" in told


def test_the_installed_command_speaks_to_the_service(service: Service) -> None:
    """As a process of its own, by `--url`: the table goes to standard output, nothing to standard error."""
    command = [sys.executable, "-m", "clients.cli", "routing", "--url", service.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "generation" in done.stdout and done.stderr == ""
