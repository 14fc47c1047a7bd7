"""`plumbline import` and `plumbline export` as people use them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from clients.cli import app
from tests.exchange.conftest import OpenSite, Site

ROWS = 5_000


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def plain(directory: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    file = directory / name
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def question(number: int) -> dict[str, Any]:
    return {"prompt": f"question {number}", "chosen": "a cup", "rejected": "a car"}


def test_bad_rows_are_named_and_the_others_imported(site: Site, tmp_path: Path) -> None:
    """By line and reason on standard error, whether the client or the server finds them; the exit status is 1."""
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "good.png")
    file = plain(
        tmp_path,
        question(1),
        "{",
        {**question(2), "images": ["missing.png"]},
        {**question(3), "images": ["broken.png"]},
        {**question(4), "images": ["good.png"]},
    )
    done = run("import", file, "--format", "plain", "--url", site.url)
    assert done.exit_code == 1
    assert "5 rows: 2 new" in done.stdout
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["2", "3", "4", "plumbline"]
    assert "not JSON" in lines[0]
    assert "missing.png" in lines[1]
    assert "damaged" in lines[2]
    assert len(site.export()) == 2


def test_a_dry_run_imports_nothing(site: Site, tmp_path: Path) -> None:
    """It shows what would come and what is wrong, and needs no server."""
    file = plain(tmp_path, question(1), {"prompt": "?"}, question(2))
    done = run("import", file, "--format", "plain", "--dry-run", "--show", 1, "--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "1: 2 answers, 1 pairs · question 1" in done.stdout
    assert "3 rows: 2 can be imported, 1 cannot" in done.stdout
    assert "question 2" not in done.stdout
    assert "2: say one of" in done.stderr
    assert site.export() == []


def test_results_as_json(site: Site, tmp_path: Path) -> None:
    """`--json` gives the counts and every problem for scripts."""
    file = plain(tmp_path, question(1), "[]")
    done = run("import", file, "--format", "plain", "--url", site.url, "--json")
    counts = json.loads(done.stdout)
    assert (counts["rows"], counts["new"]) == (2, 1)
    assert counts["problems"] == [{"number": 2, "reason": "it is not a JSON object"}]
    done = run("export", tmp_path / "out.jsonl", "--url", site.url, "--json")
    assert json.loads(done.stdout) == {"file": str(tmp_path / "out.jsonl"), "rows": 1}


def test_no_server_is_said_in_one_line(tmp_path: Path) -> None:
    """Exit status 3, as for every command."""
    file = plain(tmp_path, question(1))
    done = run("import", file, "--format", "plain", "--alias", "default", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 3
    assert "Traceback" not in done.output


def test_a_row_that_is_too_large_is_one_bad_row(open_site: OpenSite, tmp_path: Path) -> None:
    """The server's limit ends no import: the row is named and the others come."""
    site = open_site(http={"max_body_bytes": 20_000})
    rows = [question(1), {**question(2), "chosen": "x" * 30_000}, question(3)]
    done = run("import", plain(tmp_path, *rows), "--format", "plain", "--url", site.url)
    assert "3 rows: 2 new" in done.stdout, done.output
    assert done.stderr.startswith("2: ")


@pytest.mark.slow
def test_a_killed_import_is_run_again(site: Site, tmp_path: Path) -> None:
    """5,000 rows, the command killed in the middle and run again: every row is there once, its feed entry too."""
    file = plain(tmp_path, *(question(number) for number in range(ROWS)))
    command = [sys.executable, "-m", "clients.cli", "import", str(file), "--format", "plain", "--url", site.url]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    head = 0
    deadline = time.monotonic() + 60
    while head < ROWS // 5 and time.monotonic() < deadline:
        time.sleep(0.05)
        head = httpx.get(f"{site.url}/v1/training/feed", params={"alias": "default", "limit": 1}).json()["head"]
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert ROWS // 5 <= head < ROWS
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    feed = site.feed()
    assert len(feed) == len({entry.group_id for entry in feed}) == ROWS
    prompts = [row["prompt"][0]["content"] for row in site.export()]
    assert sorted(prompts) == sorted(question(number)["prompt"] for number in range(ROWS))
