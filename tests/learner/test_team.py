"""Two processes train the adapter that one trains alone, on a base that each holds whole, or half of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import learner
from learner.assembly import Job
from learner.batch import Acquaintance
from learner.errors import LearnerError
from learner.follower import Follower
from learner.settings import Settings
from learner.team import Order, Team, portions
from learner.workplace import Pace
from tests.learner import shard_worker, team_worker
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer
from tests.learner.test_round import weights
from tests.learner.tiny_families import TINY

ROOT = Path(learner.__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
WHOLE, SHARDED = False, True


def torchrun(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine's CPU."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def results(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Any]:
    """By (case, sharded): what one process saw, and what two saw. One start for all of them."""
    out = tmp_path_factory.mktemp("team")
    done = torchrun(team_worker.__file__, base_dir, out)
    assert done.returncode == 0, done.stderr[-4000:]
    return {(name, shard): value for (name, shard), value in json.loads((out / "results.json").read_text())}


@pytest.mark.parametrize("shard", [WHOLE, SHARDED], ids=["whole", "sharded"])
@pytest.mark.parametrize("name", list(team_worker.CASES))
def test_two_processes_make_the_steps_of_one(name: str, shard: bool, results: dict[tuple[str, bool], Any]) -> None:
    """Losses, metrics, gradients, parameters, reliabilities and the pre-check's values, float64, to 1e-9.

    Also where a step has fewer groups than processes, and where rank 0 changed its adapter by itself.
    """
    alone, together = results[name, shard]
    for kind in ("steps", "gradients", "parameters", "reliabilities", "standing", "answers"):
        (names, found), (expected_names, expected) = flattened(together[kind]), flattened(alone[kind])
        assert names == expected_names
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9), kind
    assert any(alone["parameters"]) and len(alone["gradients"][0]) == len(alone["parameters"])


@pytest.mark.parametrize("shard", [WHOLE, SHARDED], ids=["whole", "sharded"])
@pytest.mark.parametrize("name", list(team_worker.CASES))
def test_a_step_that_is_poisoned_on_one_process_is_discarded_on_both(
    name: str, shard: bool, results: dict[tuple[str, bool], Any]
) -> None:
    """One rank alone has the NaN; had the other made the step, the next step's gradients would differ."""
    alone, together = results[name, shard]
    assert together["discarded"] == alone["discarded"] == {"the loss is not finite": 1}
    assert together["steps"][team_worker.POISONED] == {} and together["steps"][-1]["loss"] is not None


def test_a_sharded_base_is_half_on_each(results: dict[tuple[str, bool], Any]) -> None:
    """Of the decoder layers; without sharding, everybody holds all of them."""
    assert results["held", WHOLE] == 1.0
    assert results["held", SHARDED] == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_every_family_is_the_same_on_a_sharded_base(tmp_path: Path) -> None:
    """Log-probabilities and gradients of every LoRA matrix, float64, with and without checkpointing."""
    done = torchrun(shard_worker.__file__, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    worst = json.loads((tmp_path / "worst.json").read_text())
    assert len(worst) == 2 * len(TINY)
    assert max(worst.values()) < 1e-12, worst


def test_examples_are_shared_out_by_their_tokens() -> None:
    """Nobody has much more than another, everything is somebody's, and one process has all in its own order."""
    assert portions([3, 1, 2], 1) == [[0, 1, 2]]
    assert portions([10, 1, 1, 1, 7], 2) == [[0], [1, 2, 3, 4]]
    sizes = [37 * number % 101 + 1 for number in range(50)]
    shares = portions(sizes, 4)
    assert sorted(index for share in shares for index in share) == list(range(50))
    totals = [sum(sizes[index] for index in share) for share in shares]
    fullest = shares[totals.index(max(totals))]
    assert max(totals) - min(sizes[index] for index in fullest) <= min(totals)
    assert portions([5], 3) == [[0], [], []]


def test_alone_nothing_is_exchanged() -> None:
    """The team of one process is no cost and no other code."""
    assert Team().exchange({"a": 1}) == [{"a": 1}]


class Told(Team):
    """Its orders are a list."""

    def __init__(self, *orders: Order) -> None:
        self.orders = list(orders)

    def hear(self) -> Order:
        return self.orders.pop(0) if self.orders else ("end", ())


def test_what_is_erased_is_dropped_on_every_rank(base_dir: Path, tmp_path: Path) -> None:
    """Images come from rank 0's files; once dropped, neither their features nor their bytes are to be had."""
    server = FakeServer(str(base_dir), "digest")
    example = team_worker.examples_of(server)[0]
    file = tmp_path / example.images[0]
    file.write_bytes(server.images[file.name])
    job = Job(Settings.model_validate(team_worker.LORA), 1, None, (1.0, 1.0), {}, 1)
    team = Told(("open", (base_dir, "cpu", tmp_path, 2**30, False)), ("begin", (Pace(), job)))
    follower = Follower(team)
    again: list[Order] = [("forget", ({example.group},)), ("prepare", ([example], Acquaintance({}, 1.0, {}, 0)))]
    team.orders += again
    assert follower.run() == 0
    file.unlink()
    team.orders += again
    assert follower.run() == 0, "the features were kept"
    team.orders += [("drop", (file.name,)), *again]
    with pytest.raises(LearnerError, match="the same --state"):
        follower.run()


@contextmanager
def listening(server: FakeServer) -> Iterator[str]:
    """The server in memory on a loopback port, for other processes."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            url = f"http://plumbline{self.path}"
            request = httpx.Request(self.command, url, headers=dict(self.headers), content=self.rfile.read(length))
            response = server.handle(request)
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                self.send_header(name, value)
            if "content-length" not in response.headers:
                self.send_header("content-length", "0")
            self.end_headers()
            self.wfile.write(response.content)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *arguments: object) -> None:
            """Quietly."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


def kill_a_follower(state: Path) -> None:
    """Rank 1 of the learner that has this state directory."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = str(state).encode() in (process / "cmdline").read_bytes()
            if is_ours and b"RANK=1" in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue


@pytest.mark.parametrize(
    "options", [pytest.param((), id="whole"), pytest.param(("--shard-base",), id="sharded", marks=pytest.mark.slow)]
)
def test_a_round_of_two_processes_ends_in_the_adapter_of_one_though_one_is_killed(
    options: tuple[str, ...], server: FakeServer, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """By torchrun and the command line: the second process is killed in mid-round, both start again and resume.

    Images come from the server once, to one process; nothing is learned twice. Weights in float32 to 1e-5.
    """
    assert make_learner("alone").run() == 0
    (alone,) = server.adapters
    server.owner = ""
    looks, fetched = [0], list[str]()

    def fault(method: str, path: str) -> None:
        fetched.extend([path] if path.startswith("/v1/media/") else [])
        looks[0] += path == "/v1/training/feed"
        if looks[0] == 8:  # three looks before the first step
            looks[0] += 1
            kill_a_follower(tmp_path / "team")

    server.fault = fault
    with listening(server) as url:
        command = ("--max-restarts", "1", "-m", "learner", "--server", url, "--state", tmp_path / "team", "--once")
        done = torchrun(*command, "--device", "cpu", "--checkpoint-steps", "2", *options)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "another process of the team is gone" in done.stderr or "Signal 9" in done.stderr, done.stderr[-4000:]
    assert "resumed at step" in done.stderr
    assert len(fetched) == len(set(fetched)) == 5
    (report, again) = server.reports
    assert again.outcome == "uploaded" and again.detail["steps"] == report.detail["steps"] == 6
    assert again.detail["after"] == pytest.approx(report.detail["after"], rel=1e-4, abs=1e-5)
    together = next(name for name in server.adapters if name != alone)
    for name, expected in weights(server, alone).items():
        torch.testing.assert_close(weights(server, together)[name], expected, rtol=0, atol=1e-5)
    assert server.adapters[together][0].groups == server.adapters[alone][0].groups


@pytest.mark.slow
def test_two_processes_learn_from_the_same_fresh_answers_as_one(
    server: FakeServer, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """On-policy answers are asked for once a step, by one process, and shared out; weights in float32 to 1e-5."""
    changes = {"objectives": {"sigmoid": 1.0, "grpo": 1.0}, "rollout_groups": 2, "rollout_candidates": 4}
    server.config["learner"] |= changes
    assert make_learner("alone").run() == 0
    (alone,) = [name for name, state in server.states.items() if state == "staged"]
    asked, server.rollouts, server.owner = server.rollouts, [], ""
    with listening(server) as url:
        state = tmp_path / "team"
        done = torchrun("-m", "learner", "--server", url, "--state", state, "--once", "--device", "cpu")
    assert done.returncode == 0, done.stderr[-4000:]
    assert [one.group_ids for one in server.rollouts] == [one.group_ids for one in asked]
    together = next(name for name, state in server.states.items() if state == "staged" and name != alone)
    for name, expected in weights(server, alone).items():
        torch.testing.assert_close(weights(server, together)[name], expected, rtol=0, atol=1e-5)
    (first, second) = server.reports
    assert second.detail["rollouts"] == first.detail["rollouts"] and first.detail["rollouts"]["groups"]
    assert "ephemeral" not in server.states.values(), "none is left"


@pytest.mark.slow
def test_a_team_that_is_asked_to_stop_keeps_its_state(server: FakeServer, tmp_path: Path) -> None:
    """SIGTERM to torchrun: the step is ended and kept, all processes end by themselves, the next start resumes."""
    looks = [0]
    running: list[subprocess.Popen[str]] = []

    def fault(method: str, path: str) -> None:
        looks[0] += path == "/v1/training/feed"
        if looks[0] == 7:
            looks[0] += 1
            running[0].send_signal(signal.SIGTERM)

    server.fault = fault
    with listening(server) as url:
        options = ("--server", url, "--state", tmp_path / "team", "--device", "cpu", "--once")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["-m", "learner", *map(str, options)]
        running.append(subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True))
        _, said = running[0].communicate(timeout=600)
        assert "stopped; the state is kept" in said and "forcefully" not in said, said[-4000:]
        assert not server.adapters
        looks[0] = 100
        done = torchrun("-m", "learner", *options)
    assert done.returncode == 0 and "resumed at step" in done.stderr, done.stderr[-4000:]
    assert server.reports[-1].detail["steps"] == 6


def flattened(value: Any) -> tuple[list[str], list[float]]:
    """Its names and its numbers, in order."""
    if isinstance(value, str):
        return [value], []
    if isinstance(value, int | float):
        return [], [value]
    parts = [part for key in sorted(value) for part in (key, value[key])] if isinstance(value, dict) else value
    inside = [flattened(part) for part in parts]
    return [name for names, _ in inside for name in names], [number for _, numbers in inside for number in numbers]
