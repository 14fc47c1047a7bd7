"""`plumbline reward criteria`, with a real server's store, the real mining process and a scripted critic."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from clients.cli import app
from server.config import load_config
from tests.exchange.conftest import ALIAS, OpenSite, Site
from tests.server.mining.critics import BACKWARDS, PLANTED, Critic, choice
from tests.server.scorers.endpoint import Endpoint, endpoint_that


@pytest.fixture
def site(open_site: OpenSite) -> Site:
    return open_site()


@pytest.fixture
def critic() -> Critic:
    return Critic()


@pytest.fixture
def endpoint(site: Site, critic: Critic) -> Iterator[Endpoint]:
    opening = endpoint_that(critic.reply)
    yield site.run(opening.__aenter__())
    site.run(opening.__aexit__(None, None, None))


def teach(site: Site, directory: Path, count: int) -> None:
    """People's choices, each about an image of its own."""
    rows = []
    for number in range(count):
        one = choice(number)
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), (number, 0, 0)).save(buffer, "PNG")
        image = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        rows.append({"prompt": f"What is {number}?", "images": [image], "chosen": one.preferred, "rejected": one.other})
    file = directory / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = CliRunner().invoke(app, ["import", str(file), "--format", "plain", "--url", site.url])
    assert done.exit_code == 0, done.output


def mine(site: Site, endpoint: str, *arguments: str) -> Result:
    command = ["reward", "criteria", "--url", site.url, "--alias", ALIAS, "--endpoint", endpoint, "--model", "big"]
    return CliRunner().invoke(app, [*command, *arguments], env={"COLUMNS": "160"})


def test_the_settings_of_a_judge_come_out(site: Site, endpoint: Endpoint, tmp_path: Path) -> None:
    """Such as a server starts with; what was found is told beside it."""
    teach(site, tmp_path, 60)
    out = tmp_path / "judge.toml"
    done = mine(site, endpoint.url, "--pairs", "20", "--held", "30", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "1.00 (" in done.stderr
    assert "20 pairs read, 30 held apart, 0 could not be used" in done.stderr
    (alias,) = load_config(out).aliases
    judge = alias.scorers[0].judge
    assert judge is not None
    assert (alias.name, judge.url, judge.model, judge.mode) == (ALIAS, endpoint.url, "big", "pairwise")
    assert judge.criteria == PLANTED
    writing = [
        body for body in endpoint.bodies if "criteria" in body["response_format"]["json_schema"]["schema"]["required"]
    ]
    assert [len(body["messages"][1]["content"]) for body in writing] == [11, 11], "ten pairs with an image each"


def test_as_json_it_is_the_report(site: Site, endpoint: Endpoint, tmp_path: Path) -> None:
    """Of every criterion, kept or not; the newest pairs are taken, and no more than asked for."""
    teach(site, tmp_path, 60)
    done = mine(site, endpoint.url, "--json", "--held", "10", "--pairs", "10", "--no-images")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert {one["text"]: one["is_kept"] for one in report["criteria"]}[PLANTED]
    assert not {one["text"]: one["is_kept"] for one in report["criteria"]}[BACKWARDS]
    assert (report["read"], report["held"]) == (10, 10)
    assert all(isinstance(body["messages"][1]["content"], str) for body in endpoint.bodies)


def test_what_explains_nothing_is_not_written(site: Site, endpoint: Endpoint, critic: Critic, tmp_path: Path) -> None:
    critic.writes = [BACKWARDS]
    teach(site, tmp_path, 60)
    out = tmp_path / "judge.toml"
    done = mine(site, endpoint.url, "--out", str(out), "--rounds", "0")
    assert done.exit_code == 1
    assert "no criterion agrees with people more than chance would" in done.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("count", "url", "arguments", "status", "said"),
    [
        (5, None, (), 1, "pairs that people chose, of 20 needed; let people compare answers"),
        (40, "http://127.0.0.1:9", (), 2, "the critic wrote no criteria: the endpoint cannot be reached"),
        (40, "ftp://there", (), 2, "url: "),
        (40, None, ("--key-env", "NOT_SET_ANYWHERE"), 2, "NOT_SET_ANYWHERE (key_env) is not set"),
    ],
)
def test_what_is_wrong_is_said(
    *,
    count: int,
    url: str | None,
    arguments: tuple[str, ...],
    status: int,
    said: str,
    site: Site,
    endpoint: Endpoint,
    tmp_path: Path,
) -> None:
    """Too few choices, no endpoint, a bad address, no key."""
    teach(site, tmp_path, count)
    done: Any = mine(site, url or endpoint.url, *arguments)
    assert done.exit_code == status, done.output
    assert said in done.output
