"""A person is erased, set aside, or thinks again, while their words are being learned: what follows at the next batch.

The server is a process of its own. The learner runs here, so that its caches can be looked into: at the point where
everything is prepared and nothing is learned yet the change is made, and at the first batch it has to have arrived.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import torch

from clients.client import PlumblineClient
from learner.batch import Collator
from learner.loop import Learner, Options
from learner.replay import Replay
from learner.vision import Vision
from learner.workplace import Pace
from tests.faults.school import GROUPS, Curriculum, Lesson, hashed, open_school, teach, usual
from tests.faults.service import Service
from tests.learner.tiny import png, save_tiny

T = TypeVar("T")
LEAVER = "leaver"
PICTURE = 40
"""Shown to the leaver alone."""


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_tiny(tmp_path_factory.mktemp("base"))


@dataclass(slots=True)
class School:
    service: Service
    lessons: list[Lesson]
    leaving: Lesson
    directory: Path

    @property
    def state_dir(self) -> Path:
        return self.directory / "default"

    def learn(self, at: Callable[[str], None]) -> int:
        """One round of the real learner in this thread."""
        with PlumblineClient(self.service.url) as client:
            pace = Pace(checkpoint_steps=2)
            return Learner(client, Options("default", self.directory, once=True, device="cpu", pace=pace), at=at).run()

    def call(self, method: str, path: str, **options: Any) -> Any:
        response = httpx.request(method, f"{self.service.url}{path}", timeout=20, **options)
        assert response.status_code == 200, response.text
        return response.json()

    def round(self) -> dict[str, Any]:
        (one,) = self.call("GET", "/v1/rounds", params={"alias": "default"})["data"]
        found: dict[str, Any] = self.call("GET", f"/v1/rounds/{one['id']}")
        return found

    def page(self, number: int) -> str:
        return httpx.get(f"{self.service.url}/v1/rounds/{number}", params={"format": "html"}).text


@pytest.fixture
def school(base_dir: Path, tmp_path: Path) -> Iterator[School]:
    """Twelve usual lessons, and one of somebody who will want to be forgotten."""
    of = Curriculum.of(base_dir)
    leaving = of.lesson(LEAVER, png(PICTURE))
    lessons = [*usual(of), leaving]
    service = open_school(tmp_path / "server", base_dir)
    asyncio.run(teach(service, lessons))
    service.start()
    yield School(service, lessons, leaving, tmp_path / "learner")
    service.kill()


def living(kind: type[T]) -> list[T]:
    """Every object of this class that anybody holds."""
    return [one for one in gc.get_objects() if type(one) is kind]


@dataclass(slots=True)
class Traces:
    """What a learner holds of a group and its image, by where."""

    group: str
    image: str
    state_dir: Path

    def found(self) -> set[str]:
        gc.collect()
        collators = living(Collator)
        texts = [path.read_bytes() for path in self.state_dir.rglob("*.json")]
        places = {
            "file of the group": (self.state_dir / "replay" / f"{self.group}.json").exists(),
            "file of the image": (self.state_dir / "media" / self.image).exists(),
            "replay": any(one.get(self.group) is not None for one in living(Replay)),
            "vision features": any(self.image in one._cache for one in living(Vision)),
            "reference values": any(self._is_in(key) for one in collators for key in one._kept),
            "text of a file": any(self.image.encode() in text for text in texts),
        }
        return {place for place, is_there in places.items() if is_there}

    def _is_in(self, key: tuple[str, ...]) -> bool:
        return any(self.group in part for part in key)


EVERYWHERE = {
    "file of the group",
    "file of the image",
    "replay",
    "vision features",
    "reference values",
    "text of a file",
}


def traces(school: School) -> Traces:
    group = school.leaving.group
    return Traces(group.id, group.media[0].sha256, school.state_dir)


@pytest.mark.parametrize("how", ["erased", "set aside", "taken back"])
def test_who_goes_is_gone_at_the_next_batch(school: School, how: str) -> None:
    """From replay, files, features, references and the rest of the schedule; the round goes on without them."""
    of = traces(school)
    seen: dict[str, set[str]] = {}

    def go() -> None:
        if how == "erased":
            assert school.call("DELETE", f"/v1/users/{LEAVER}/data")["groups"] == 1
        elif how == "set aside":
            assert school.call("POST", "/v1/signals/quarantine", json={"user": LEAVER})["changed"] == 1
        else:
            tie = {"completion_id": of.group, "tie": "good", "user": LEAVER}
            school.call("POST", "/v1/preferences", json=tie)

    def at(point: str) -> None:
        if point not in {"prepared", "batch"} or point in seen:
            return
        seen[point] = of.found()
        if point == "prepared":
            go()

    assert school.learn(at) == 0
    assert seen["prepared"] == EVERYWHERE, "otherwise nothing is shown below"
    assert seen["batch"] == set()
    told = school.round()
    assert (told["outcome"], told["groups"]) == ("uploaded", GROUPS + 1)
    assert told["detail"]["skipped"] == {"gone since the round was planned": 1}
    assert hashed(LEAVER) not in json.dumps(told)

    # Nothing of them is in the adapter, and of everybody else there is.
    assert school.call("DELETE", f"/v1/users/{LEAVER}/data")["adapters"] == []
    assert school.call("DELETE", "/v1/users/user-3/data")["adapters"] == [told["adapter"]]


def test_who_changes_their_mind_is_learned_as_they_think_now(school: School) -> None:
    """A choice that is turned round in mid-round: every batch from then on has the new one."""
    group = school.leaving.group.id
    turned = {"completion_id": group, "chosen": f"{group}.1", "rejected": [f"{group}.0"], "user": LEAVER}
    held: list[str] = []

    def at(point: str) -> None:
        if point == "prepared":
            school.call("POST", "/v1/preferences", json=turned)
        elif point == "batch":
            held.extend(one.get(group).pairs[0].chosen for one in living(Replay) if one.get(group))  # type: ignore[union-attr]

    assert school.learn(at) == 0
    assert held and set(held) == {f"{group}.1"}
    told = school.round()
    assert told["detail"]["skipped"] == {}


def test_a_round_that_learned_from_somebody_who_left_is_refused(school: School) -> None:
    """Erased after the last step: what is in the weights cannot be taken out, so the adapter is not published. The page
    of the round says why, and the next round learns from all the others.
    """
    erased: list[str] = []

    def at(point: str) -> None:
        if point == "written" and not erased:
            erased.append(LEAVER)
            school.call("DELETE", f"/v1/users/{LEAVER}/data")

    assert school.learn(at) == 1
    told = school.round()
    assert told["outcome"] == "discarded" and "was erased since" in told["reason"]
    assert "was erased since" in school.page(told["id"])
    assert school.call("GET", "/v1/adapters")["data"] == []
    assert json.loads((school.state_dir / "state.json").read_text())["new_signals"] == GROUPS, "what the others said"
    assert school.learn(lambda point: None) == 0
    (newest, _) = school.call("GET", "/v1/rounds", params={"alias": "default"})["data"]
    assert (newest["outcome"], newest["groups"], newest["signals"]) == ("uploaded", GROUPS, GROUPS)
    assert traces(school).found() == set()
    assert school.call("DELETE", f"/v1/users/{LEAVER}/data")["adapters"] == []
