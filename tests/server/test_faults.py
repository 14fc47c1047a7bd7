"""Fault points do what their specification says, and next to nothing while none is armed."""

import os
import subprocess
import sys
import time
import timeit

import pytest

from server import faults
from server.faults import POINTS, VARIABLE, Plan


def acts(specification: str, name: str = "store.sync", hits: int = 6) -> list[int]:
    """At which hits of a point a plan raises."""
    plan = Plan(specification)
    found = []
    for hit in range(1, hits + 1):
        try:
            plan.hit(name)
        except OSError:
            found.append(hit)
    assert plan.acted == len(found)
    return found


@pytest.mark.parametrize(
    ("specification", "expected"),
    [
        ("store.sync=fail", [1, 2, 3, 4, 5, 6]),
        ("store.sync=fail@3", [3]),
        ("store.sync=fail@5+", [5, 6]),
        ("store.*=fail:ENOSPC@2", [2]),
        ("file.*|store.sync=fail@2", [2]),
        ("store.before_commit=fail", []),
        ("store.sync=fail@1,store.sync=fail@4", [1, 4]),
        (" store.sync=fail@1 , ", [1]),
    ],
)
def test_a_rule_acts_when_it_says(specification: str, expected: list[int]) -> None:
    """At one hit, from one on, or always; by name or by pattern."""
    assert acts(specification) == expected


@pytest.mark.parametrize(
    "specification",
    [
        "store.sync",
        "store.sync=explode",
        "no.such=kill",
        "store.sync=fail:ENONSENSE",
        "store.sync=delay",
        "store.sync=kill@0",
    ],
)
def test_a_mistake_is_refused(specification: str) -> None:
    """A drill that does nothing by mistake would prove nothing."""
    with pytest.raises(ValueError, match=VARIABLE):
        Plan(specification)


def test_a_delay_waits() -> None:
    """In milliseconds."""
    started = time.monotonic()
    with faults.armed("store.sync=delay:30@1"):
        faults.point("store.sync")
        faults.point("store.sync")
    assert 0.03 <= time.monotonic() - started < 1


async def test_the_loop_goes_on_during_a_delay() -> None:
    """A point in asynchronous code holds up nobody else."""
    with faults.armed("store.sync=delay:20") as plan:
        await faults.async_point("store.sync")
    assert plan.acted == 1


def test_the_environment_arms_a_process() -> None:
    """And a kill is a kill: nothing after it runs."""
    hit = "faults.point('store.sync')"
    code = f"from server import faults; faults.arm_from_environment(); {hit}; print('first', flush=True); {hit}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={VARIABLE: "store.sync=kill@2"}, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (-9, "first\n")


@pytest.mark.parametrize("specification", ["store.sync", "no.such=kill", "store.sync=fail:ENONSENSE"])
def test_a_mistake_in_the_environment_stops_the_start_with_one_line(specification: str) -> None:
    """Exit status 2 and a reason, like any other bad setting."""
    done = subprocess.run(
        [sys.executable, "-m", "server", "--check-config"],
        env=os.environ | {VARIABLE: specification},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"plumbline: {VARIABLE}: ")


def test_a_point_that_is_off_costs_next_to_nothing() -> None:
    """Below 100 ns on a quiet machine; ten times that is allowed here."""
    calls = 100_000
    assert min(timeit.repeat(lambda: faults.point("store.sync"), number=calls, repeat=5)) / calls < 1e-6


def test_every_point_is_in_the_code() -> None:
    """What is documented can be hit."""
    found = subprocess.run(
        ["grep", "-rhoE", r"point\(\"[a-z_.]+\"", "server"], check=True, capture_output=True, text=True
    ).stdout
    used = {line.split('"')[1] for line in found.splitlines()}
    assert used == set(POINTS)
