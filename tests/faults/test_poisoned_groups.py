"""Groups that nothing can be learned from, on the whole way: store → feed → wire → learner → report.

Each is left out with a count and a reason, and takes nobody with it: the sound groups are learned as ever.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.store.blobs import LocalBlobs
from server.store.opening import MEDIA_NAME
from tests.faults.lives import Person
from tests.faults.school import GROUPS, Curriculum, Lesson, open_school, outcome, teach, usual
from tests.faults.service import Service
from tests.learner.tiny import EOS, image_prompt, png, save_tiny

GOOD = (10, 33, 11, EOS)
BAD = (20, 33, 21)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture
def service(base_dir: Path, tmp_path: Path) -> Iterator[Service]:
    service = open_school(tmp_path / "server", base_dir)
    yield service
    service.kill()


def with_logprobs(lesson: Lesson, *logprobs: float) -> Lesson:
    """The second answer was logged with these."""
    first, second = lesson.group.candidates
    changed = dataclasses.replace(second, logprobs=logprobs)
    return dataclasses.replace(lesson, group=dataclasses.replace(lesson.group, candidates=(first, changed)))


def poison(of: Curriculum) -> list[tuple[str, Lesson]]:
    """(reason, group)."""
    nan, huge = math.nan, math.inf
    broken, other = png(9)[:60], png(8, width=96)
    return [
        ("log-probability is not finite", with_logprobs(of.lesson("mallory"), -1.0, nan, -1.0)),
        ("log-probability is not finite", with_logprobs(of.lesson("mallory"), -1.0, -huge, -1.0)),
        ("log-probabilities do not match the tokens", with_logprobs(of.lesson("mallory"), -1.0)),
        ("longer than the model's context", of.lesson("mallory", answers=(GOOD, (21,) * 4000))),
        ("token outside the vocabulary", of.lesson("mallory", answers=(GOOD, (64,)))),
        ("image unreadable", of.lesson("mallory", broken)),
        ("image tokens differ from the placeholders", of.lesson("mallory", other)),
        ("image tokens differ from the placeholders", of.lesson("mallory", prompt_token_ids=image_prompt(5))),
        ("images and placeholders do not match", of.lesson("mallory", prompt_token_ids=(2, 5, 6, 7))),
        ("another base model", of.lesson("mallory", base_digest="1" * 64)),
        ("empty prompt", of.lesson("mallory", prompt_token_ids=())),
    ]


def test_poisoned_groups_are_left_out_with_a_reason(service: Service, base_dir: Path, tmp_path: Path) -> None:
    """NaN, nothing, 4,000 tokens, no image, another image: each is counted with its reason; the rest is learned.

    An answer of one token is no poison.
    """
    of = Curriculum.of(base_dir)
    poisoned = poison(of)
    lost, wrong = of.lesson("mallory", png(30)), of.lesson("mallory", png(31))
    short = of.lesson("short", answers=((10,), (20,)))
    sound = usual(of)
    empty = of.lesson("mallory", answers=(GOOD, ()))
    lessons = [*sound[:6], *(lesson for _, lesson in poisoned), lost, wrong, short, empty, *sound[6:]]
    asyncio.run(teach(service, lessons))
    media = service.config.store.directory / MEDIA_NAME
    (sha256, damaged) = lost.group.media[0].sha256, wrong.group.media[0].sha256
    asyncio.run(LocalBlobs(media).delete(sha256))
    (file,) = media.rglob(damaged)
    file.write_bytes(b"\0" * 100)
    service.start()
    feed = httpx.get(f"{service.url}/v1/training/feed", params={"alias": "default"}).json()["entries"]
    assert [one["group_id"] for one in feed if one["group"] is None] == [empty.group.id], "the server knows by itself"

    person = Person(tmp_path / "learner")
    assert person.live(service.url) == 0, person.log
    (one,) = httpx.get(f"{service.url}/v1/rounds", params={"alias": "default"}).json()["data"]
    told = httpx.get(f"{service.url}/v1/rounds/{one['id']}").json()
    expected = Counter(reason for reason, _ in poisoned) + Counter({"image missing": 2})
    assert told["detail"]["skipped"] == expected
    assert (told["outcome"], told["groups"]) == ("uploaded", GROUPS + 1)
    page = httpx.get(f"{service.url}/v1/rounds/{one['id']}", params={"format": "html"}).text
    for reason in expected:
        assert reason.replace("'", "&#x27;") in page

    assert service.stop() == 0
    (adapter,) = asyncio.run(outcome(service)).adapters
    assert told["adapter"] == adapter
    assert told["detail"]["after"]["accuracy"] > 0.9


def test_a_long_answer_that_fits_is_learned_in_a_pass_of_its_own(
    service: Service, base_dir: Path, tmp_path: Path
) -> None:
    """Longer than `--max-tokens`, not than the model's context: it costs a larger pass, and teaches like any other."""
    of = Curriculum.of(base_dir)
    long = of.lesson("talker", answers=(GOOD, (20, *(22,) * 400)))
    asyncio.run(teach(service, [*usual(of), long]))
    service.start()
    person = Person(tmp_path / "learner")
    assert person.live(service.url, max_tokens=64) == 0, person.log
    (one,) = httpx.get(f"{service.url}/v1/rounds", params={"alias": "default"}).json()["data"]
    told = httpx.get(f"{service.url}/v1/rounds/{one['id']}").json()
    assert (told["groups"], told["detail"]["skipped"]) == (GROUPS + 1, {})
    lengths = told["detail"]["curve"]["length"]
    assert len(lengths) == told["detail"]["steps"] and max(lengths) > 40 > min(lengths)
    assert told["detail"]["discard_reasons"] == {}


def test_nothing_but_poison_is_a_round_that_says_so(service: Service, base_dir: Path, tmp_path: Path) -> None:
    """No adapter; the round is listed as skipped, with every reason."""
    of = Curriculum.of(base_dir)
    asyncio.run(teach(service, [lesson for _, lesson in poison(of)]))
    service.start()
    person = Person(tmp_path / "learner")
    assert person.live(service.url) == 1
    (one,) = httpx.get(f"{service.url}/v1/rounds", params={"alias": "default"}).json()["data"]
    assert (one["outcome"], one["adapter"], one["groups"]) == ("skipped", None, 0)
    told = httpx.get(f"{service.url}/v1/rounds/{one['id']}").json()
    assert told["detail"]["skipped"] == Counter(reason for reason, _ in poison(Curriculum.of(base_dir)))
    page = httpx.get(f"{service.url}/v1/rounds/{one['id']}", params={"format": "html"})
    assert "there is nothing to learn from" in page.text and page.headers["content-security-policy"]
