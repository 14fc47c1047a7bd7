"""`plumbline reward check`, with the real checking process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from clients.cli import app
from clients.toml import to_toml

REFUSES, ANSWERS = "I can't help with that.", "A red cup."
ROWS: list[dict[str, Any]] = [
    {"prompt": "What is it?", "chosen": ANSWERS, "rejected": REFUSES},
    {
        "prompt": [{"role": "user", "content": "What is it?"}],
        "chosen": [{"role": "assistant", "content": ANSWERS}],
        "rejected": [{"role": "assistant", "content": REFUSES}],
    },
    {
        "chosen": [{"role": "user", "content": "Else?"}, {"role": "assistant", "content": REFUSES}],
        "rejected": [{"role": "user", "content": "Else?"}, {"role": "assistant", "content": ANSWERS}],
    },
    {"prompt": "Same", "chosen": "It is a cup.", "rejected": "It is a plate."},
    {"prompt": "no answers"},
    {"prompt": "an image", "images": ["none.png"], "chosen": "a", "rejected": "b"},
]
SIZED = "import json,sys; print([float(len(c['text'])) for c in json.load(sys.stdin)['candidates']])"


def run(directory: Path, scorers: list[dict[str, Any]], rows: list[dict[str, Any]], *arguments: str) -> Result:
    config, file = directory / "plumbline.toml", directory / "pairs.jsonl"
    config.write_text(to_toml({"aliases": [{"name": "pets", "scorers": scorers}]}))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["reward", "check", str(file), "--config", str(config), *arguments]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"})


def test_a_report_of_every_scorer(tmp_path: Path) -> None:
    """Accuracy, ties, agreement, cost and failures; what cannot be asked and what cannot be read is named."""
    scorers = [
        {"kind": "refusal"},
        {"kind": "program", "name": "size", "program": {"command": [sys.executable, "-c", SIZED]}},
        {"kind": "program", "name": "broken", "program": {"command": [sys.executable, "-c", "raise SystemExit(4)"]}},
        {"kind": "implicit"},
        {"kind": "self_certainty"},
    ]
    result = run(tmp_path, scorers, ROWS, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["alias"], report["pairs"], report["unusable"]) == ("pets", 4, 0)
    refusal, size, broken, implicit, certainty = report["scorers"]
    assert (refusal["pairs"], refusal["ties"], refusal["accuracy"]["value"]) == (4, 1, 0.625)
    assert 0 < refusal["accuracy"]["low"] < 0.625 < refusal["accuracy"]["high"] < 1
    assert refusal["auc"] == 0.5
    together = report["ensemble"]
    assert (together["pairs"], together["kind"], together["failures"]) == (4, "sum", 0)
    assert together["reason"] == "without implicit, self_certainty"
    assert size["accuracy"]["value"] == 0.25
    assert size["ms_per_answer"] > 0
    assert (broken["pairs"], broken["failures"], broken["accuracy"]) == (0, 4, None)
    assert broken["reason"] == "the program ended with status 4"
    assert "--adapter" in implicit["skipped"]
    assert "generation" in certainty["skipped"]
    alike = {(one["first"], one["second"]): (one["pairs"], one["share"]) for one in report["agreement"]}
    assert alike["refusal", "size"] == (3, 0.0)
    assert alike["refusal", "broken"] == (0, None)
    assert "5: " in result.stderr
    assert "none.png" in result.stderr


def test_a_table_for_people(tmp_path: Path) -> None:
    """With the interval, and the reason of what failed."""
    result = run(tmp_path, [{"kind": "refusal"}, {"kind": "repetition"}, {"kind": "logprob"}], ROWS[:4])
    assert result.exit_code == 0, result.output
    for text in ("0.625 (0.", "agreement", "logprob: not applicable; it needs", "4 pairs of pets"):
        assert text in result.stdout


@pytest.mark.parametrize(
    ("scorers", "rows", "arguments", "status", "reason"),
    [
        ([{"kind": "refusal"}], ROWS[:1], ["--alias", "nobody"], 2, "no alias nobody"),
        ([], ROWS[:1], [], 2, "has no scorers"),
        ([{"kind": "language", "language": "xx"}], ROWS[:1], [], 2, "scorer language: language 'xx'"),
        ([{"kind": "length"}], ROWS[:1], [], 2, "set target_tokens"),
        ([{"kind": "refusal"}], ROWS[4:], [], 1, "no pair that can be used"),
    ],
    ids=["alias", "no scorers", "setting", "missing setting", "no pairs"],
)
def test_what_cannot_be_checked(
    tmp_path: Path, *, scorers: Any, rows: Any, arguments: list[str], status: int, reason: str
) -> None:
    """One line that says what to mend."""
    result = run(tmp_path, scorers, rows, *arguments)
    assert result.exit_code == status, result.output
    assert reason in result.stderr
