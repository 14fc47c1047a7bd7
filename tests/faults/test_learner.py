"""The learner is killed, doubled, and left alone by its server: every signal counts once, and one adapter comes of it.

All processes are real, and so are their deaths. The server runs on the fake engine.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.lives import Death, Person
from tests.faults.school import GROUPS, Curriculum, Outcome, moved_to, open_school, outcome, teach, usual
from tests.faults.service import Service
from tests.learner.tiny import save_tiny

STEPS = 6
"""Of a round: twelve groups, four a step, two epochs."""

DEATHS = {
    "K10 the batch is read": Death("batch", 3),
    "K11 the gradient is there": Death("optimizer.begin", 4),
    "K11 the weights are changed": Death("optimizer.end", 3),
    "K12 a checkpoint is written and has no name": Death("rename:step-00000004.safetensors"),
    "an older checkpoint is still there": Death("remove:step-00000002.safetensors"),
    "K20 the lease is taken": Death("leased"),
    "a page of the feed is applied by half": Death("rename:cmpl-*.json", 7),
    "the page is applied, its cursor is not": Death("rename:state.json", 2),
    "planned": Death("planned"),
    "prepared": Death("prepared"),
    "checkpoint": Death("checkpoint", 2),
    "the adapter is written by half": Death("rename:adapter_model.safetensors"),
    "written": Death("written"),
    "trained": Death("trained"),
    "uploaded": Death("uploaded"),
    "saved": Death("saved"),
    "reported": Death("reported"),
}
QUICK = {"K11 the weights are changed", "K12 a checkpoint is written and has no name", "uploaded"}


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def taught(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A stopped installation whose feed tells of twelve groups; tests work on copies."""
    service = open_school(tmp_path_factory.mktemp("taught"), base_dir)
    asyncio.run(teach(service, usual(Curriculum.of(base_dir))))
    return service


@pytest.fixture(scope="module")
def whole(taught: Service, base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What comes of a round that nothing disturbs."""
    directory = tmp_path_factory.mktemp("whole")
    service = moved_to(taught, directory / "server", base_dir)
    service.start()
    person = Person(directory / "learner")
    assert person.live(service.url) == 0, person.log
    assert service.stop() == 0
    return asyncio.run(outcome(service))


@pytest.fixture
def service(taught: Service, base_dir: Path, tmp_path: Path) -> Iterator[Service]:
    service = moved_to(taught, tmp_path / "server", base_dir)
    service.start()
    yield service
    service.kill()


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    one = Person(tmp_path / "learner")
    yield one
    bury(one)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Person]:
    one = Person(tmp_path / "other")
    yield one
    bury(one)


def bury(person: Person) -> None:
    if person.process is not None and person.process.is_alive():
        person.process.kill()
        person.process.join()


def assert_learned_once(service: Service, whole: Outcome) -> None:
    """The stopped server has the same adapter once, one round, and a report of it that counts each signal once."""
    found = asyncio.run(outcome(service))
    assert [one.partition("-")[2] for one in found.adapters] == [one.partition("-")[2] for one in whole.adapters]
    (told,) = found.rounds
    assert (told.outcome, told.adapter, found.audited) == ("uploaded", found.adapters[0], 1)
    expected = whole.rounds[0].body
    for name in (
        "signals",
        "groups",
        "steps",
        "feed_after",
        "feed_upto",
        "skipped",
        "before",
        "after",
        "reliabilities",
    ):
        assert told.body[name] == expected[name], name
    assert told.body["curve"]["loss"] == expected["curve"]["loss"]
    assert (told.body["signals"], told.body["steps"]) == (GROUPS, STEPS)


def state_of(person: Person) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((person.state_dir / "state.json").read_text())
    return found


def assert_nothing_is_owed(person: Person) -> None:
    """No round in the state, no signal that counts again, no working file."""
    state = state_of(person)
    assert (state["rounds"], state["round"], state["new_signals"], state["cursor"]) == (1, None, 0, GROUPS)
    assert not list(person.state_dir.glob("round-*"))
    assert not [path for path in person.state_dir.rglob("*.tmp") if path.name.startswith(".step-")]


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in DEATHS])
def test_killed_at_a_point(service: Service, person: Person, whole: Outcome, name: str) -> None:
    """The next start goes on: the same bytes of an adapter, uploaded once, reported once, every signal counted once."""
    assert person.live(service.url, DEATHS[name]) == -signal.SIGKILL, person.log
    assert person.live(service.url) == 0, person.log
    assert_nothing_is_owed(person)
    assert service.stop() == 0
    assert_learned_once(service, whole)


@pytest.mark.slow
def test_killed_at_later_and_later_files(service: Service, person: Person, whole: Outcome) -> None:
    """Each life ends at a later file that is made, renamed or removed, on what the last one left; the last one ends."""
    hit, lives = 1, 0
    while (status := person.live(service.url, Death("*:*", hit))) == -signal.SIGKILL:
        lives, hit = lives + 1, hit + max(1, hit // 3)
    assert (status, lives > 6) == (0, True), person.log
    assert_nothing_is_owed(person)
    assert service.stop() == 0
    assert_learned_once(service, whole)


@pytest.mark.slow
def test_killed_again_and_again(service: Service, person: Person, whole: Outcome) -> None:
    """A death in each life, everywhere once: it still comes to the same end."""
    for death in DEATHS.values():
        status = person.live(service.url, death)
        assert status in {0, 1, -signal.SIGKILL}, person.log
        if status != -signal.SIGKILL:
            break
    if not state_of(person)["rounds"]:
        assert person.live(service.url) == 0, person.log
    assert service.stop() == 0
    assert_learned_once(service, whole)


@pytest.mark.parametrize("at", ["upload.write", "adapter.after_rename", "adapter.after_commit"])
@pytest.mark.slow
def test_the_server_is_killed_while_it_takes_the_adapter(
    service: Service, person: Person, whole: Outcome, at: str
) -> None:
    """The learner waits for it, and brings the adapter again or finds that it is there."""
    assert service.stop() == 0
    service.start(at=f"{at}=kill@1")
    person.begin(service.url)
    service.wait_until_killed(60)
    service.start()
    assert person.end() == 0, person.log
    assert service.stop() == 0
    assert_learned_once(service, whole)


# --- two learners -----------------------------------------------------------------------------------------


LEASE_S = 10.0
"""Long enough for a second process to start meanwhile on a busy machine."""


def test_a_second_learner_is_fenced_off_and_then_the_first(service: Service, person: Person, other: Person) -> None:
    """While one holds the lease the other is refused and says so; it takes over by itself once the lease has run out;
    the first, coming back from wherever it was with a whole adapter in its hands, cannot upload it.
    """
    first = person.begin(service.url, Death("trained", by=signal.SIGSTOP), lease_ttl_s=LEASE_S)
    person.wait_for(lambda: "trained" in person.passed)
    other.begin(service.url, once=False, lease_ttl_s=LEASE_S)
    other.wait_for(lambda: "Another learner holds this alias's lease" in other.log)
    group = httpx.get(f"{service.url}/v1/training/feed", params={"alias": "default"}).json()["entries"][0]["group_id"]
    also = {"completion_id": group, "chosen": f"{group}.0", "rejected": [f"{group}.1"], "user": "somebody new"}
    assert httpx.post(f"{service.url}/v1/preferences", json=also).status_code == 200  # so that theirs are two adapters
    other.wait_for(lambda: "reported" in other.passed, 3 * LEASE_S)

    person.signal(signal.SIGCONT)
    first.join(30)
    assert first.exitcode == 1
    assert "This lease was lost" in person.log and "uploaded" not in person.passed
    assert (state_of(person)["round"], state_of(person)["new_signals"]) == (None, GROUPS), "it still owes them"
    other.signal(signal.SIGTERM)
    assert (other.end(), service.stop()) == (0, 0)
    found = asyncio.run(outcome(service))
    (told,) = found.rounds
    assert (found.adapters, told.body["signals"]) == ([told.adapter], GROUPS + 1)


@pytest.mark.slow
def test_a_second_learner_takes_over_from_a_dead_one(
    service: Service, person: Person, other: Person, whole: Outcome
) -> None:
    """K20: the owner of the lease died with it. Nobody has to do anything: the other waits, and learns."""
    assert person.live(service.url, Death("leased"), lease_ttl_s=LEASE_S) == -signal.SIGKILL
    other.begin(service.url, once=False, lease_ttl_s=LEASE_S)
    other.wait_for(lambda: "lease_held" in other.log)
    other.wait_for(lambda: "reported" in other.passed, 3 * LEASE_S)
    other.signal(signal.SIGTERM)
    assert (other.end(), service.stop()) == (0, 0)
    assert_learned_once(service, whole)


# --- a server that is away ----------------------------------------------------------------------------------


def away(service: Service, person: Person, seconds: float, *, lease_ttl_s: float, pause_s: float) -> None:
    """The server is killed at the second step, and comes back after so long."""
    person.begin(service.url, lease_ttl_s=lease_ttl_s, pause_s=pause_s)
    person.wait_for(lambda: person.passed.count("step") >= 2)
    service.kill()
    before = person.passed.count("step")
    time.sleep(seconds)
    during = person.passed.count("step") - before
    assert during >= 2, "training goes on"
    service.start()
    assert person.end(120) == 0, person.log
    assert "heartbeat: no reply" in person.log, "it noticed"
    assert "lease was lost" not in person.log


@pytest.mark.slow
def test_a_server_that_is_away_for_three_leases(service: Service, person: Person, whole: Outcome) -> None:
    """Training goes on, the upload waits, and a lease that ran out meanwhile, with nobody to take it, is no loss."""
    away(service, person, 6.0, lease_ttl_s=2.0, pause_s=0.0)
    assert service.stop() == 0
    assert_learned_once(service, whole)


@pytest.mark.slow
def test_a_server_that_hangs_for_three_leases(service: Service, person: Person, whole: Outcome) -> None:
    """It takes connections and says nothing (SIGSTOP): the learner waits, and nothing is lost or done twice."""
    person.begin(service.url, lease_ttl_s=2.0)
    person.wait_for(lambda: person.passed.count("step") >= 2)
    assert service.process is not None
    service.process.send_signal(signal.SIGSTOP)
    time.sleep(6.0)
    service.process.send_signal(signal.SIGCONT)
    assert person.end() == 0, person.log
    assert service.stop() == 0
    assert_learned_once(service, whole)


@pytest.mark.slow
def test_a_server_that_is_away_for_a_minute(taught: Service, base_dir: Path, tmp_path: Path, person: Person) -> None:
    """The real minute with the usual lease; it returns in the middle of the training."""
    service = moved_to(taught, tmp_path / "server", base_dir, epochs=15)
    service.start()
    try:
        away(service, person, 62.0, lease_ttl_s=60.0, pause_s=0.2)
        assert service.stop() == 0
    finally:
        service.kill()
    found = asyncio.run(outcome(service))
    assert len(found.adapters) == 1
    (told,) = found.rounds
    assert (told.outcome, told.body["signals"], told.body["steps"]) == ("uploaded", GROUPS, 45)
