"""The process starter: nothing outlives it, failures say why, what it writes is what the server accepts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.cli import app
from clients.cli.up import configuration, sample_image, welcome
from clients.stack import Command, Stack, StackError, free_port

IGNORES_SIGTERM = (
    "import signal, subprocess, sys, time;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "print(child.pid, flush=True); time.sleep(60)"
)


def is_alive(pid: int) -> bool:
    """A zombie counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def wait_until(holds: object, timeout_s: float = 10.0) -> None:
    assert callable(holds)
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_stop_ends_a_stubborn_process_and_its_children(tmp_path: Path) -> None:
    """What ignores SIGTERM is killed with its group."""
    command = Command("stubborn", [sys.executable, "-c", IGNORES_SIGTERM], tmp_path / "log")
    command.start()
    wait_until(lambda: (tmp_path / "log").read_text().strip())
    leader, child = command.pid, int((tmp_path / "log").read_text())
    assert leader is not None
    command.stop(timeout_s=0.3)
    command.stop()
    wait_until(lambda: not is_alive(leader) and not is_alive(child))


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_processes_go_when_the_starter_is_killed(tmp_path: Path) -> None:
    """Kill -9 of the stack leaves nothing behind."""
    starter = (
        "import sys, time; from pathlib import Path; from clients.stack import Command;"
        "command = [sys.executable, '-c', 'import time; time.sleep(60)'];"
        f"c = Command('sleeper', command, Path({str(tmp_path / 'log')!r}));"
        "c.start(); print(c.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    sleeper = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until(lambda: not is_alive(sleeper))


def test_a_death_is_reported_with_the_end_of_the_log(tmp_path: Path) -> None:
    """The message alone says why a process has ended."""
    command = Command("server", [sys.executable, "-c", "import sys; sys.exit('no such model')"], tmp_path / "log")
    command.start()
    wait_until(lambda: command.exit_code is not None)
    with pytest.raises(StackError, match=r"(?s)the server ended with status 1.*no such model"):
        command.require_running()


def test_a_server_that_cannot_start_is_an_error_at_once(tmp_path: Path) -> None:
    """A configuration that the server refuses ends the wait with the server's own line."""
    with Stack(tmp_path, {"nonsense": 1}) as stack, pytest.raises(StackError, match="nonsense"):
        stack.wait_ready(timeout_s=60)


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    """Before anything is started."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StackError, match="in use"), Stack(tmp_path, {}, port=taken.getsockname()[1]):
            pass


def test_the_server_accepts_what_up_writes(tmp_path: Path) -> None:
    """`plumbline up`'s configuration passes `--check-config`."""
    settings = configuration("some/model", "pets", best_of=3, dtype="auto", max_model_len=4096)
    assert check_config(tmp_path, settings).returncode == 0


def test_what_is_written_stands_and_what_is_named_wins(tmp_path: Path) -> None:
    """A file's settings go to the server as they are, but for model, port and directory, which are options."""
    written = {
        "http": {"port": 1, "keep_alive_s": 5.0},
        "store": {"directory": "elsewhere"},
        "engine": {"model": "one/model", "dtype": "auto", "max_model_len": 0, "max_loras": 3},
        "aliases": [{"name": "pets", "best_of": 2}, {"name": "cars"}],
    }
    given = {"best_of": 3, "dtype": "auto", "max_model_len": 4096}
    found = configuration(None, "default", **given, written=written)
    assert found["engine"] == {"model": "one/model", "dtype": "auto", "max_model_len": 4096, "max_loras": 3}
    assert found["aliases"] == [{"name": "pets", "best_of": 2}, {"name": "cars", "best_of": 3}]
    assert (found["http"], found["store"]) == ({"keep_alive_s": 5.0}, {})
    assert configuration("other/model", "default", **given, written=written)["engine"]["model"] == "other/model"
    shipped = configuration(None, "default", **given, written={"engine": {"dtype": "auto"}})
    assert (shipped["engine"]["dtype"], shipped["engine"]["max_model_len"]) == ("float32", 512)
    assert check_config(tmp_path, found).returncode == 0


def test_a_wrong_setting_ends_up_before_anything_is_started(tmp_path: Path) -> None:
    """Status 2, the reader's own file and the setting; no state is begun."""
    (tmp_path / "mine.toml").write_text('[[aliases]]\nname = "default"\nbestof = 4\n')
    arguments = ["up", "--config", str(tmp_path / "mine.toml"), "--state", str(tmp_path / "state")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "aliases.0.bestof" in result.stderr, result.output
    assert not (tmp_path / "state").exists()


def check_config(directory: Path, settings: dict[str, object]) -> subprocess.CompletedProcess[str]:
    from clients.toml import to_toml

    stack = Stack(directory, settings, port=free_port())
    stack.config_file.write_text(to_toml(stack.configuration()))
    arguments = [sys.executable, "-m", "server", "--config", str(stack.config_file), "--check-config"]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


def test_the_sample_image_is_a_png() -> None:
    """An image library reads it."""
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(sample_image())) as image:
        image.load()
        assert (image.format, image.size, image.mode) == ("PNG", (64, 64), "RGB")


def test_the_pasted_curl_call_is_whole() -> None:
    """The shell and JSON both read it: no wrapped line, no unbalanced quote."""
    import json
    import shlex

    said = welcome("http://127.0.0.1:1", "pets", Path("sample.png"))
    line = next(one for one in said.splitlines() if one.startswith("curl"))
    assert json.loads(shlex.split(line)[-1])["model"] == "pets"
