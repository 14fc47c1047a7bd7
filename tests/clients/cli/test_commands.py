"""The `plumbline` command against a server that is played by a function."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from clients.cli import app

ROUTING = {
    "alias": "pets", "active": "a-2", "previous": "a-1", "canary": None, "canary_share": 0.0,
    "generation": 7, "updated_at": 1_800_000_000.0,
}  # fmt: skip
ADAPTER = {
    "id": "a-2", "alias": "pets", "state": "active", "parent": "a-1", "created_at": 1.0, "updated_at": 2.0,
}  # fmt: skip
REPORT = {
    "kind": "gate",
    "outcome": "failed",
    "body": {
        "checks": [{"name": "coverage", "outcome": "failed", "value": -0.5, "low": -0.6, "high": -0.4, "count": 60}]
    },
}
AUDIT = {"id": 1, "at": 1.0, "actor": "local", "action": "rollback", "subject": "pets", "detail": {
    "reason": "worse", "force": False, "before": ROUTING, "after": {**ROUTING, "active": "a-1", "generation": 8},
}}  # fmt: skip


class Server:
    """Answers from a table and keeps what it was asked."""

    def __init__(self, answers: dict[str, Any], status: int = 200) -> None:
        self.answers = answers
        self.status = status
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(self.status, json=self.answers[f"{request.method} {request.url.path}"])

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, obj=httpx.MockTransport(self), env={"COLUMNS": "200"})

    @property
    def body(self) -> Any:
        return json.loads(self.requests[-1].content)


@pytest.mark.parametrize(
    ("arguments", "call", "answer", "shown"),
    [
        (["routing"], "GET /v1/routing", {"data": [ROUTING]}, ["pets", "a-2", "7"]),
        (["adapters"], "GET /v1/adapters", {"data": [ADAPTER]}, ["a-2", "active"]),
        (["adapters", "a-2"], "GET /v1/adapters/a-2", ADAPTER, ["a-2", "active"]),
        (
            ["report", "a-2"],
            "GET /v1/adapters/a-2/report",
            {"adapter": "a-2", "reports": [REPORT]},
            ["coverage", "failed"],
        ),
        (["audit"], "GET /v1/audit", {"data": [AUDIT]}, ["rollback", "worse", "active a-2 → a-1"]),
        (["check"], "GET /v1/check", {"data": []}, ["nothing is wrong"]),
        (["rollback"], "POST /v1/rollback", ROUTING, ["a-2"]),
        (["rollback", "--undo"], "POST /v1/rollback/undo", ROUTING, ["a-2"]),
        (["promote", "a-2"], "POST /v1/adapters/a-2/promote", ROUTING, ["a-2"]),
        (["reject", "a-2"], "POST /v1/adapters/a-2/reject", ROUTING, ["a-2"]),
        (["quarantine", "a-2"], "POST /v1/adapters/a-2/quarantine", ROUTING, ["a-2"]),
    ],
)
def test_a_command_calls_its_route_and_shows_the_reply(
    arguments: list[str], call: str, answer: dict[str, Any], shown: list[str]
) -> None:
    """As a table, and with --json as the reply itself."""
    server = Server({call: answer})
    result = server.run(*arguments)
    assert result.exit_code == 0, result.output
    assert all(word in result.stdout for word in shown), result.stdout
    as_json = json.loads(server.run(*arguments, "--json").stdout)
    assert answer.items() <= as_json.items() or "data" in as_json or "reports" in as_json


def test_lineage_is_a_tree() -> None:
    """Ancestors above, branches below, each with its state; with --json the reply."""
    family = [
        {**ADAPTER, "id": name, "parent": parent, "state": state}
        for name, parent, state in (
            ("a-1", "base", "retired"),
            ("a-2", "a-1", "active"),
            ("a-3", "a-2", "canary"),
            ("a-4", "a-2", "rejected"),
            ("a-5", "a-3", "staged"),
        )
    ]
    reply = {"adapter": "a-2", "ancestors": ["a-1", "base"], "descendants": ["a-3", "a-4", "a-5"]}
    server = Server(
        {"GET /v1/adapters/a-2/lineage": reply, "GET /v1/adapters/a-2": ADAPTER, "GET /v1/adapters": {"data": family}}
    )
    result = server.run("lineage", "a-2")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert [re.sub(r", [0-9-]+ [0-9:]+", "", line) for line in lines] == [
        "base",
        "└── a-1  retired",
        "    └── a-2  active  ← this one",
        "        ├── a-3  canary",
        "        │   └── a-5  staged",
        "        └── a-4  rejected",
    ]
    assert json.loads(server.run("lineage", "a-2", "--json").stdout) == reply


@pytest.mark.parametrize(("name", "query"), [("page.html", b"format=html"), ("page.md", b"format=markdown")])
def test_a_report_is_written_as_a_page(name: str, query: bytes, tmp_path: Path) -> None:
    """In the form that the file's name asks for, as the server made it."""
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.query)
        return httpx.Response(200, text="<p>péople</p>")

    arguments = ["report", "a-2", "--out", str(tmp_path / name)]
    result = CliRunner().invoke(app, arguments, obj=httpx.MockTransport(answer))
    assert (result.exit_code, seen) == (0, [query]), result.output
    assert (tmp_path / name).read_text(encoding="utf-8") == "<p>péople</p>"
    assert CliRunner().invoke(app, ["report", "a-2", "--out", "page.pdf"]).exit_code == 2
    nowhere = ["report", "a-2", "--out", str(tmp_path / "none" / name)]
    result = CliRunner().invoke(app, nowhere, obj=httpx.MockTransport(answer))
    assert result.exit_code == 1 and "No such file" in result.stderr


def test_quarantine_says_how_much_was_set_aside() -> None:
    """As a line beside routing; with --json in the reply."""
    server = Server({"POST /v1/adapters/a-2/quarantine": {**ROUTING, "signals_set_aside": 41}})
    assert "41 signals behind a-2" in server.run("quarantine", "a-2").stdout
    assert json.loads(server.run("quarantine", "a-2", "--json").stdout)["signals_set_aside"] == 41


def test_a_gate_that_runs_shows_how_far_it_is() -> None:
    """Beside the state."""
    running = {**ADAPTER, "state": "verified", "progress": "gate: kl, check 4 of 9, 3 of 40 asked"}
    assert (
        "verified (gate: kl, check 4 of 9" in Server({"GET /v1/adapters": {"data": [running]}}).run("adapters").stdout
    )


def test_a_move_carries_its_options() -> None:
    """Only what was said goes over the wire, with the key."""
    server = Server({"POST /v1/adapters/a-3/canary": ROUTING})
    result = server.run("canary", "a-3", "--share", "0.1", "--force", "--expect-generation", "7", "--key", "secret")
    assert result.exit_code == 0, result.output
    assert server.body == {"share": 0.1, "force": True, "expect_generation": 7, "reason": ""}
    assert server.requests[-1].headers["authorization"] == "Bearer secret"


def test_a_shadow_is_set_and_compared() -> None:
    """With its share, which may be 0; the report says what came of it, also where so few answers say little."""
    routing = {**ROUTING, "shadow": "a-3", "shadow_share": 0.1, "waiting": "max_moves_per_hour is reached"}
    server = Server({"POST /v1/adapters/a-3/shadow": routing})
    result = server.run("shadow", "a-3", "--share", "0")
    assert result.exit_code == 0, result.output
    assert server.body == {"share": 0.0, "expect_generation": None, "reason": ""}
    assert "10%" in result.stdout

    difference = {"value": 0.25, "low": None, "high": None, "count": 1}
    shadow = {
        "active": "a-2", "answers": 1, "users": 1, "reward_difference": difference, "blocked_share": 0.0,
        "active_blocked_share": 0.0, "blocked_difference": None, "failed_share": None, "mean_duration_s": 1.5,
        "active_mean_duration_s": None,
    }  # fmt: skip
    answer = {"adapter": "a-3", "reports": [REPORT], "shadow": shadow}
    shown = " ".join(Server({"GET /v1/adapters/a-3/report": answer}).run("report", "a-3").stdout.split())
    assert "As a shadow of a-2: 1 answers to 1 users." in shown
    assert "0.250 (? to ?)" in shown and "nothing known" in shown


def test_feedback_is_sent_as_the_wire_has_it() -> None:
    """A thumb with its user; the reply says whether it can be trained on."""
    server = Server({"POST /v1/feedback": {"id": "sig-1", "completion_id": "cmpl-1", "trainable": False}})
    result = server.run("feedback", "cmpl-1", "--down", "--user", "ann")
    assert "sig-1 (not for training)" in result.stdout
    assert server.body == {"completion_id": "cmpl-1", "rating": "down", "user": "ann"}
    assert server.requests[-1].headers["idempotency-key"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["feedback", "cmpl-1"], "needs a rating"),
        (["feedback", "cmpl-1", "--up", "--down"], "exclude each other"),
        (["canary", "a-2", "--share", "2"], "--share"),
        (["chat", "what?", "--image", "/no/such/file.png"], "/no/such/file.png"),
    ],
)
def test_wrong_arguments_end_with_two(arguments: list[str], said: str) -> None:
    """Before anything is sent."""
    server = Server({})
    result = server.run(*arguments)
    assert (result.exit_code, server.requests) == (2, [])
    assert said in result.output


def test_a_refusal_ends_with_one_and_the_servers_words() -> None:
    """412 of a stale generation, for instance."""
    error = {"error": {"message": "Routing moved meanwhile.", "type": "stale", "code": "stale_generation"}}
    result = Server({"POST /v1/adapters/a-2/promote": error}, status=412).run("promote", "a-2")
    assert result.exit_code == 1
    assert "Routing moved meanwhile" in result.stderr


def test_no_connection_ends_with_three() -> None:
    """A server that is not there is another thing than one that refuses."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    result = CliRunner().invoke(app, ["promote", "a-2"], obj=httpx.MockTransport(refuse))
    assert result.exit_code == 3


def test_a_check_that_finds_something_fails() -> None:
    """Scripts see it by the exit status, people by what is said and what to do."""
    problem = {"check": "images", "what": "image 12 is missing", "remedy": "restore it"}
    result = Server({"GET /v1/check": {"data": [problem]}}).run("check")
    assert result.exit_code == 1
    assert all(text in result.stdout for text in problem.values())


COMMANDS = [
    "up",
    "check",
    "routing",
    "adapters",
    "report",
    "lineage",
    "promote",
    "reject",
    "canary",
    "shadow",
    "quarantine",
    "rollback",
    "audit",
]


@pytest.mark.parametrize("name", [*COMMANDS, "feedback", "chat"])
def test_every_command_explains_itself(name: str) -> None:
    """--help works and has more than the options' names."""
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert "." in result.stdout.partition("Usage")[2]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["canary", "a-2", "--share", "2"], 2, "--share"),
        (["feedbak"], 2, "feedbak"),
        (["routing", "--url", "127.0.0.1:9"], 3, "plumbline up"),
        (["config", "{directory}/bad.toml"], 2, "unknown: there is no such setting"),
        (["config", "{directory}/single.toml"], 2, "aliases: there may be several of these: write [[aliases]]"),
        (["chat", "what?", "--url", "http://127.0.0.1:9"], 3, "plumbline up"),
    ],
)
def test_a_failure_is_one_line_that_says_how_to_mend(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    """Through the script's own entry point, whatever failed: the arguments, the network, a configuration."""
    (tmp_path / "bad.toml").write_text("unknown = 1\n")
    (tmp_path / "single.toml").write_text('[aliases]\nname = "default"\n')
    command = [one.format(directory=tmp_path) for one in arguments]
    done = subprocess.run([sys.executable, "-m", "clients.cli", *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(("status", "remedy"), [(401, "--key or PLUMBLINE_KEY"), (403, "keys create --role operator")])
def test_a_key_that_is_missing_is_asked_for(status: int, remedy: str) -> None:
    """In the server's words, with what mends it here."""
    error = {"error": {"message": "No.", "type": "t", "param": None, "code": "c"}}
    result = Server({"GET /v1/routing": error}, status=status).run("routing")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "No." in result.stderr and remedy in result.stderr


def test_a_choice_names_answers_by_their_end() -> None:
    """`.1` is the completion's own."""
    server = Server({"POST /v1/preferences": {"id": "sig-1", "completion_id": "cmpl-1", "trainable": True}})
    result = server.run("feedback", "cmpl-1", "--prefer", ".1", "--over", ".0", "--over", "cmpl-1.2")
    assert result.exit_code == 0, result.output
    assert server.body == {
        "completion_id": "cmpl-1", "chosen": "cmpl-1.1", "rejected": ["cmpl-1.0", "cmpl-1.2"],
    }  # fmt: skip
    assert server.run("feedback", "cmpl-1", "--prefer", ".1").exit_code == 2
    assert server.run("feedback", "cmpl-1", "--up", "--tie", "good").exit_code == 2


def test_a_configuration_is_shown_as_it_would_be(tmp_path: Path) -> None:
    """As TOML that says every setting, environment included and secrets masked; or as JSON."""
    file = tmp_path / "plumbline.toml"
    file.write_text("[http]\nport = 8500\n[store]\nurl = 'postgresql://me:hidden@db/plumbline'\n")
    env = {"PLUMBLINE_HTTP__MAX_QUEUED_REQUESTS": "7"}
    shown = CliRunner().invoke(app, ["config", str(file)], env=env).stdout
    tree = tomllib.loads(shown)
    assert (tree["http"]["port"], tree["http"]["max_queued_requests"]) == (8500, 7)
    assert "hidden" not in shown
    assert json.loads(CliRunner().invoke(app, ["config", str(file), "--json"], env=env).stdout)["http"]["port"] == 8500


def test_the_shell_completes_commands_and_options() -> None:
    """As `plumbline --install-completion` sets it up."""
    environment = {
        **os.environ,
        "_PLUMBLINE_COMPLETE": "complete_bash",
        "COMP_WORDS": "plumbline ro",
        "COMP_CWORD": "1",
    }
    program = "import sys; sys.argv = ['plumbline']; from clients.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["routing", "rollback", "rounds"], done.stderr


def test_the_shell_completes_adapters() -> None:
    """Those of the server that the environment names; nothing, quickly, where there is none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [ADAPTER, {**ADAPTER, "id": "b-1"}]}).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    def completed(url: str) -> list[str]:
        words = {"COMP_WORDS": "plumbline promote a", "COMP_CWORD": "2", "PLUMBLINE_URL": url}
        environment = {**os.environ, **words, "_PLUMBLINE_COMPLETE": "complete_bash"}
        program = "import sys; sys.argv = ['plumbline']; from clients.cli import main; main()"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.stdout.split()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        assert completed(f"http://127.0.0.1:{http.server_port}") == ["a-2"]
        http.shutdown()
        thread.join()
    assert completed("http://127.0.0.1:9") == []


def test_an_id_is_never_cut_in_two() -> None:
    """On a narrow terminal the line gets longer, not the id shorter; columns that say nothing are left out."""
    adapter, before = "a-000007-3f9c2b1d44aa55", "a-000006-9d1e0c77aabb66"
    routing = {**ROUTING, "active": adapter, "previous": before}
    server = Server({"GET /v1/routing": {"data": [routing]}})
    shown = CliRunner().invoke(app, ["routing"], obj=httpx.MockTransport(server), env={"COLUMNS": "60"}).stdout
    assert adapter in shown and before in shown
    assert "canary" not in shown
