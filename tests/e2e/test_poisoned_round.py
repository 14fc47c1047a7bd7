"""A campaign of false thumbs, start to finish, on an installation of its own: refused, forced, taken back, unlearned.

The same story in words is docs/poisoned-round.md.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients.client import PlumblineClient
from clients.demo.chat import ask, connect
from clients.demo.language import Question, absent_objects, description_question
from clients.demo.scenes import USER_SEEDS
from clients.demo.settings import ALIAS, LEARNER, Sizes, server_settings
from clients.demo.suites import write_suites
from clients.stack import Stack
from server.wire.adapters import MoveRequest
from server.wire.base import BASE

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

THUMBS = 640
LIARS = 0.8
"""Share of the poisoned round's thumbs that say the opposite of what is true."""
EAGER = {
    **LEARNER,
    "objectives": {"sft": 0.1, "kto": 4.0},
    "weighting": {},
    "beta": 0.2,
    "learning_rate": 1e-3,
    "epochs": 4,
    "max_kl": 100.0,
}
"""A learner that follows whatever it is told: only the server is left to notice."""


@dataclass(frozen=True, slots=True)
class Thumb:
    """What one user said, and whether it was true."""

    completion: str
    adapter: str
    is_up: bool
    is_true: bool


@dataclass(slots=True)
class Town:
    """The installation, and people who look at pictures and say whether an answer named something that is not there."""

    stack: Stack
    operator: PlumblineClient
    scenes: Iterator[int]

    async def rate(self, names: Sequence[str], *, is_liar: Any = lambda number: False) -> list[Thumb]:
        """One question, one answer and one thumb for each name; eight people at once."""
        client, room = connect(self.stack.url), asyncio.Semaphore(8)

        async def one(number: int, name: str) -> Thumb:
            async with room:
                asked: Question = description_question(next(self.scenes))
                body = {"best_of": 1}
                answer = await ask(client, ALIAS, asked, user=name, temperature=1.0, extra_body=body)
                is_good = not absent_objects(asked.scene, answer.choices[0].text)
                lies = is_liar(number)
                thumb = Thumb(answer.completion, answer.adapter, is_good != lies, not lies)
                rating = {"completion_id": thumb.completion, "rating": "up" if thumb.is_up else "down", "user": name}
                await client.post("/feedback", cast_to=object, body=rating)
                return thumb

        return await asyncio.gather(*(one(number, name) for number, name in enumerate(names)))

    async def learn(self, state: Path) -> str:
        """One round of the real learner; the adapter that it uploaded."""
        known = {one.id for one in self.operator.adapters(ALIAS).data}
        command = [sys.executable, "-m", "learner", "--server", self.stack.url, "--alias", ALIAS, "--once"]
        command += ["--state", str(state), "--threads", "1"]
        run = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True, text=True, timeout=600)
        assert run.returncode == 0, run.stderr[-3000:]
        (new,) = {one.id for one in self.operator.adapters(ALIAS).data} - known
        return new

    async def until(self, adapter: str, *states: str, timeout_s: float = 120.0) -> str:
        deadline = time.monotonic() + timeout_s
        while (state := self.operator.adapter(adapter).state) not in states:
            assert time.monotonic() < deadline, f"{adapter} is {state}: {self.operator.adapter_report(adapter)}"
            await asyncio.sleep(0.2)
        return state

    def doubts(self, adapter: str) -> dict[str, str]:
        """Checks of the gate that did not pass, with what they found."""
        reports = self.operator.adapter_report(adapter).reports
        gate = next(one for one in reports if one["kind"] == "gate")
        return {check["name"]: str(check) for check in gate["body"]["checks"] if check["outcome"] != "passed"}


@contextmanager
def open_town(directory: Path, learner: dict[str, Any], scenes: Iterator[int]) -> Iterator[Town]:
    """The installation in this directory, as it stands there, with these settings of its learner."""
    settings = server_settings(Sizes(best_of=1, round_size=THUMBS // 2), learner, directory / "suites")
    settings["aliases"][0]["signals"] = {"holdout_share": 0.0}
    with Stack(directory, settings) as stack:
        stack.wait_ready()
        with PlumblineClient(stack.url) as operator:
            yield Town(stack, operator, scenes)


async def test_a_poisoned_round_does_not_get_far(tmp_path: Path) -> None:
    """Eight thumbs in ten lie: the gate refuses, the canary takes back what was forced, the next round is good."""
    write_suites(tmp_path / "suites", descriptions=200, skills=80)
    scenes = iter(USER_SEEDS)
    with open_town(tmp_path, EAGER, scenes) as town:
        bad, seen = await the_campaign(town, tmp_path / "learner")
    with open_town(tmp_path, LEARNER, scenes) as town:
        await the_next_round(town, tmp_path / "learner", bad, seen)


async def the_campaign(town: Town, learner: Path) -> tuple[str, list[Thumb]]:
    """The adapter that lies, and what the canary's visitors said."""
    operator = town.operator
    false = await town.rate(people("campaign", THUMBS), is_liar=lambda number: number % 10 < 10 * LIARS)
    assert 0.75 < sum(not thumb.is_true for thumb in false) / len(false) < 0.85
    bad = await town.learn(learner)
    assert await town.until(bad, "rejected", "gated", "canary") == "rejected"
    assert any(name.startswith("suite:") for name in town.doubts(bad)), town.doubts(bad)

    order = MoveRequest(force=True, share=0.5, reason="the operator insists")
    operator.move_adapter(bad, "canary", order)
    seen: list[Thumb] = []
    while operator.adapter(bad).state == "canary":
        seen += await town.rate(people(f"visitor-{len(seen)}", 40))
        assert len(seen) < 2000, operator.adapter_report(bad)
    assert operator.adapter(bad).state == "rolled_back"
    assert operator.routing().data[0].active == BASE
    assert next(one for one in operator.audit(20).data if one.action == "end_canary").actor == "rollout"
    assert shares(seen, bad) < shares(seen, BASE)

    taken = operator.move_adapter(bad, "quarantine", MoveRequest(reason="it was taught to lie"))
    assert taken.signals_set_aside == learned_from(operator, bad) > 0.9 * THUMBS  # a blocked answer teaches nothing
    assert operator.adapter(bad).state == "quarantined"
    return bad, seen


async def the_next_round(town: Town, learner: Path, bad: str, seen: list[Thumb]) -> None:
    operator = town.operator
    assert operator.adapter(bad).state == "quarantined"
    await town.rate(people("honest", THUMBS))
    good = await town.learn(learner)
    # What the visitors said is sound, also of the bad adapter's answers. What was set aside stays away.
    assert 0.9 * THUMBS < learned_from(operator, good) <= THUMBS + len(seen)
    while await town.until(good, "canary", "active", "rejected") == "canary":
        await town.rate(people(f"guest-{next(town.scenes)}", 40))
    assert operator.adapter(good).state == "active", town.doubts(good)
    after = await town.rate(people("later", 100))
    assert {thumb.adapter for thumb in after} == {good}
    assert shares(after, good) > shares(seen, BASE)


def learned_from(operator: PlumblineClient, adapter: str) -> int:
    """Signals behind an adapter, as its manifest counts them."""
    manifest = operator.adapter(adapter).manifest
    assert manifest is not None
    return sum(manifest["sources"].values())


def people(name: str, number: int) -> list[str]:
    return [f"{name}-{index}" for index in range(number)]


def shares(said: Sequence[Thumb], adapter: str) -> float:
    """Share of true thumbs up among what was said of an adapter's answers."""
    judged = [thumb.is_up for thumb in said if thumb.adapter == adapter]
    return sum(judged) / len(judged)
