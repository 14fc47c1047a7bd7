"""Two processes train the adapter that one trains alone, on a base that each holds whole, or half of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import learner
from learner.team import Team, portions
from tests.learner import team_worker

ROOT = Path(learner.__file__).parent.parent
WHOLE, SHARDED = False, True


def torchrun(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine's CPU."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
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
    """Losses, metrics, gradients, parameters, reliabilities and the pre-check's values, float64, to 1e-9."""
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


def test_examples_are_shared_out_by_their_tokens() -> None:
    """Nobody has much more than another, everything is somebody's, and one process has all in its own order."""
    assert portions([3, 1, 2], 1) == [[0, 1, 2]]
    assert portions([10, 1, 1, 1, 7], 2) == [[0], [1, 2, 3, 4]]
    sizes = [37 * number % 101 + 1 for number in range(50)]
    shares = portions(sizes, 4)
    assert sorted(index for share in shares for index in share) == list(range(50))
    totals = [sum(sizes[index] for index in share) for share in shares]
    assert max(totals) - min(totals) <= min(sizes[share[0]] for share in shares)
    assert portions([5], 3) == [[0], [], []]


def test_alone_nothing_is_exchanged() -> None:
    """The team of one process is no cost and no other code."""
    assert Team().exchange({"a": 1}) == [{"a": 1}]


def flattened(value: Any) -> tuple[list[str], list[float]]:
    """Its names and its numbers, in order."""
    if isinstance(value, str):
        return [value], []
    if isinstance(value, int | float):
        return [], [value]
    parts = [part for key in sorted(value) for part in (key, value[key])] if isinstance(value, dict) else value
    inside = [flattened(part) for part in parts]
    return [name for names, _ in inside for name in names], [number for _, numbers in inside for number in numbers]
