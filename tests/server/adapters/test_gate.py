"""Suites, and the gate on a fake engine."""

from __future__ import annotations

import base64
import json
import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reward.ensemble import Ensemble, Member
from reward.policy import SafetyPolicy, Terms
from reward.rules import PatternRule
from reward.types import Action, Candidate, Prompt, Verdict
from server.adapters.gate import rewards
from server.adapters.gate.gate import Gate
from server.adapters.gate.suites import Checks, SuiteError, load_suite, mentions
from server.config import AliasConfig, GateConfig, ScorerConfig, SuiteConfig
from server.engine.port import EngineError
from server.store import signals
from server.store.records import SignalKind, SignalRecord
from server.wire.adapters import CheckReply
from server.wire.base import BASE
from tests.server.adapters.support import World

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def write_suite(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(item) for item in items) + "\n")
    return path


def item(number: int, question: str = "What is there?", **checks: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "messages": [{"role": "user", "content": f"{question} {number}"}], "checks": checks}


# --- suites -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "answer", "score"),
    [
        ({"must_mention": ["red circle", "dog"]}, "A RED  circle.", 0.5),
        ({"must_mention": ["red"]}, "a redder thing", 0.0),
        ({"must_not_mention": ["dog", "cat"]}, "a dog", 0.0),
        ({"must_not_mention": ["dog", "cat"]}, "a dogma", 1.0),
        ({"exact": "yes"}, " yes\n", 1.0),
        ({"exact": "yes"}, "Yes", 0.0),
        ({"regex": "^[0-9]+$"}, "42", 1.0),
        ({"must_mention": ["a", "b"], "exact": "a"}, "a", 0.75),
        ({"must_mention": ["c++"]}, "I like C++, a lot", 1.0),
    ],
)
def test_an_answer_is_scored_by_what_it_says(checks: dict[str, Any], answer: str, score: float) -> None:
    """Whole words without regard to case; several checks count alike."""
    assert Checks.model_validate(checks).score(answer) == score


def test_words_are_whole() -> None:
    """A part of a word is no mention of it."""
    assert mentions("the cat sat", "cat")
    assert not mentions("concatenate", "cat")


def test_images_are_filled_in_order(tmp_path: Path) -> None:
    """From a data: URL or from a file beside the suite; the digest follows their content."""
    (tmp_path / "one.png").write_bytes(PNG)
    content = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]
    data_url = "data:image/png;base64," + base64.b64encode(PNG + b"x").decode()
    line = {
        "id": "a",
        "messages": [{"role": "user", "content": content}],
        "images": ["one.png", data_url],
        "checks": {"exact": "x"},
    }
    config = SuiteConfig(name="s", path=write_suite(tmp_path / "s.jsonl", [line]))
    suite = load_suite(config)
    first, second = suite.items[0].prompt.images
    assert (first.data, second.data, first.mime) == (PNG, PNG + b"x", "image/png")
    (tmp_path / "one.png").write_bytes(PNG + b"y")
    assert load_suite(config).digest != suite.digest


def test_no_pattern_can_hang_the_gate() -> None:
    """What takes a backtracking matcher longer than the universe lasts takes RE2 a moment."""
    checks = Checks.model_validate({"regex": "^(([a-z])+.)+[A-Z]([a-z])+$"})
    started = time.perf_counter()
    assert checks.score("a" * 100_000) == 0.0
    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a", ', "Invalid JSON"),
        (
            {"id": "a", "messages": [{"role": "user", "content": "x"}], "checks": {"regex": "(?=a)"}},
            "checks.regex: RE2",
        ),
        ({"id": "a", "messages": [{"role": "user", "content": "x"}], "checks": {"must_say": "x"}}, "checks.must_say: "),
        ({**item(2, exact="x"), "images": ["../none.png"]}, "images: ../none.png: No such file"),
        ({**item(2, exact="x"), "images": ["suite.jsonl"]}, "images: suite.jsonl: not a PNG"),
        ({**item(2, exact="x"), "images": ["data:image/png;base64,iVBORw0KGgo="]}, "images: data: URL: not a PNG"),
        (item(1, exact="y"), "id: line 1 has the same"),
    ],
)
def test_a_bad_line_is_one_clear_line(line: Any, said: str, tmp_path: Path) -> None:
    """File, line, field and reason, and nothing else."""
    path = tmp_path / "suite.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(json.dumps(item(1, exact="x")) + "\n" + text + "\n")
    with pytest.raises(SuiteError) as refused:
        load_suite(SuiteConfig(name="s", path=path))
    assert str(refused.value).startswith(f"{path}:2: {said}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        {"id": "a", "messages": [], "checks": {"exact": "x"}},
        {"id": "a", "messages": [{"role": "user", "content": "x"}], "checks": {}},
        {"id": "a", "messages": [{"role": "user", "content": "x"}], "checks": {"must_say": "x"}},
        {"id": "a", "messages": [{"role": "user", "content": "x"}], "checks": {"must_mention": [" "]}},
        {"id": "a", "messages": [{"role": "user", "content": "x"}], "checks": {"regex": "("}},
        {"id": "a", "messages": [{"role": "user", "content": "x"}], "images": ["x.png"], "checks": {"exact": "x"}},
        {"id": "a", "messages": [{"role": "user", "content": [{"type": "image"}]}], "checks": {"exact": "x"}},
    ],
)
def test_a_suite_that_cannot_be_read_names_the_line(line: Any, tmp_path: Path) -> None:
    """Operators are told which line is wrong, at the start of the server and not in the middle of a gate."""
    path = tmp_path / "suite.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(json.dumps(item(1, exact="x")) + "\n" + text + "\n")
    with pytest.raises(SuiteError, match=r"suite\.jsonl:2"):
        load_suite(SuiteConfig(name="s", path=path))


def test_an_empty_or_missing_suite_is_an_error(tmp_path: Path) -> None:
    """A gate that checks nothing must not look like one that passed."""
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "missing"):
        with pytest.raises(SuiteError):
            load_suite(SuiteConfig(name="s", path=tmp_path / name))


# --- the gate ---------------------------------------------------------------------------------------------


def alias_with(directory: Path, **settings: Any) -> AliasConfig:
    """Two suites with the same prompts: what must be named, and what must not."""
    coverage = [item(number, must_mention=["red", "green"]) for number in range(30)]
    hallucination = [item(number, must_not_mention=["dog"]) for number in range(30)]
    skills = [item(number, "How many?", exact="2") for number in range(10)]
    return AliasConfig(
        gate=GateConfig(
            suites=(
                SuiteConfig(name="coverage", path=write_suite(directory / "c.jsonl", coverage)),
                SuiteConfig(name="hallucination", path=write_suite(directory / "h.jsonl", hallucination)),
                SuiteConfig(name="skills", path=write_suite(directory / "k.jsonl", skills), greedy=True),
            ),
            **settings,
        )
    )


GOOD, LOSSY, UNSAFE, DULL = "good", "lossy", "unsafe", "dull"


def script(model: str, prompt: Prompt, index: int) -> str:
    """Base invents a dog in a third of its answers; each adapter has a character of its own."""
    text = prompt.messages[0].text
    number = int(text.rpartition(" ")[2])
    if text.startswith("How many"):
        return "3" if model == DULL else "2"
    if model == LOSSY:
        return "there is red to be seen"
    if model == UNSAFE and number % 2:
        return "there is red and green code"
    return "there is red and green" + (" dog" if model == "base" and number % 3 == 0 else "")


POLICY = SafetyPolicy(outputs=(PatternRule("code", "code"),))


def gate_for(world: World, ensemble: Ensemble | None = None, policy: SafetyPolicy = POLICY, **settings: Any) -> Gate:
    world.engine.script = script
    world.engine.token_logprob = lambda model, prompt, piece: -0.5 if model == "base" else -0.4
    for adapter in (GOOD, LOSSY, UNSAFE, DULL):
        world.engine.register(adapter)
    alias = alias_with(world.directory, **settings)
    parts = (world.database, world.blobs, world.engine, alias)
    return Gate.load(*parts, read=policy.judge, ensemble=ensemble or Ensemble())


def outcomes(checks: tuple[CheckReply, ...]) -> dict[str, str]:
    return {check.name: check.outcome for check in checks}


async def test_a_better_adapter_passes_every_check_there_is_data_for(world: World) -> None:
    """Without held-out pairs the preference check says nothing, so the whole is inconclusive."""
    result = await gate_for(world).run(GOOD, BASE)
    assert result.outcome == "inconclusive"
    found = outcomes(result.checks)
    assert found.pop("preference") == found.pop("preference_margin") == "inconclusive"
    assert found.pop("reward") == "skipped", "the default scorer is the policy's own implicit reward"
    assert set(found.values()) == {"passed"}
    assert set(found) == {"suite:coverage", "suite:hallucination", "suite:skills", "safety", "length", "kl"}
    gain = next(check for check in result.checks if check.name == "suite:hallucination")
    assert gain.value == pytest.approx(1 / 3)
    kl = next(check for check in result.checks if check.name == "kl")
    assert kl.value == pytest.approx(0.1)


@pytest.mark.parametrize(("adapter", "check"), [(LOSSY, "suite:coverage"), (UNSAFE, "safety"), (DULL, "suite:skills")])
async def test_what_was_lost_fails_the_gate(adapter: str, check: str, world: World) -> None:
    """Lost coverage, lost safety, lost skills: each is refused by the check that is there for it."""
    result = await gate_for(world).run(adapter, BASE)
    assert result.outcome == "failed"
    assert outcomes(result.checks)[check] == "failed"


async def test_the_ensemble_compares_the_answers_of_both(world: World) -> None:
    """On the same prompts; an answer it likes less everywhere fails, the same answer is a tie and not scored."""
    asked: list[list[str]] = []

    class Likes:
        name, version = "likes", "1"

        async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
            asked.append([one.text for one in candidates])
            if prompt.messages[0].text.endswith(" 7"):
                raise ValueError("a scorer that fails")
            return [float("green" in one.text) for one in candidates]

    gate = gate_for(world, ensemble=Ensemble((Member(Likes()),)))
    worse = (await gate.run(LOSSY, GOOD)).checks
    (reward,) = [check for check in worse if check.name == "reward"]
    assert (reward.outcome, reward.value, reward.count) == ("failed", 0.0, 29)
    assert "1 pairs could not be scored" in reward.detail
    assert len(asked) == 30 and {len(pair) for pair in asked} == {2}
    asked.clear()
    (same,) = [check for check in (await gate.run(UNSAFE, UNSAFE)).checks if check.name == "reward"]
    assert (same.outcome, same.value, asked) == ("passed", 0.5, [])


class LikesDogs:
    """A scorer that likes what nobody asked for."""

    name, version = "likes", "1"

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        return [0.5 if "dog" in one.text else 0.0 for one in candidates]


async def test_penalties_count_as_among_candidates(world: World) -> None:
    """What a rule takes off a total it takes off here: answers that a scorer likes and the rules do not, lose."""
    likes = Ensemble((Member(LikesDogs()),))
    graded = SafetyPolicy(outputs=(PatternRule("dogs", "dog", Action.PENALISE),), terms={"dogs": Terms(penalty=1.0)})
    for policy, value in ((POLICY, 1 / 3), (graded, 2 / 3)):  # 10 of base's 30 have a dog
        (reward,) = [
            one for one in (await gate_for(world, likes, policy).run(GOOD, BASE)).checks if one.name == "reward"
        ]
        assert reward.value == pytest.approx(value)


class Watches:
    """A guard that forbids lossy answers, and is down for some prompts."""

    name, version, action = "watch", "1", Action.BLOCK

    async def check(self, prompt: Prompt, answer: str | None) -> Verdict:
        if prompt.messages[0].text.endswith("7"):
            raise OSError("the guard is down")
        return Verdict(self.name, self.version, Action.ALLOW if "green" in (answer or "") else Action.BLOCK)

    async def close(self) -> None:
        return None


async def test_guards_read_what_they_read_of_users_answers(world: World) -> None:
    """What only a guard forbids fails the safety check; what it could not read is left out, and nobody's fault."""
    result = await gate_for(world, policy=SafetyPolicy(output_guards=(Watches(),))).run(LOSSY, GOOD)
    (safety,) = [one for one in result.checks if one.name == "safety"]
    assert (safety.outcome, safety.value, safety.count) == ("failed", 1.0, 27)
    assert "3 pairs could not be read" in safety.detail


@pytest.mark.parametrize(
    ("kinds", "judges"),
    [
        (["implicit"], []),
        (["logprob", "length"], []),
        (["implicit", "repetition", "length"], ["repetition", "length"]),
        (["self_certainty", "length"], []),
        ([], []),
    ],
)
def test_no_policy_is_judged_by_its_own_likelihood(kinds: list[str], judges: list[str]) -> None:
    """Nor by the length of its answers alone, which has a check of its own."""
    needed = {"length": {"target_tokens": 8}}
    scorers = [ScorerConfig.model_validate({"kind": kind} | needed.get(kind, {})) for kind in kinds]
    assert [one.kind for one in rewards.judging(scorers)] == judges


async def test_a_gate_says_how_far_it_is(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """While it runs and in the log, check by check; afterwards nothing is left."""
    gate = gate_for(world)
    seen: list[str] = []

    def watching(model: str, prompt: Prompt, index: int) -> str:
        seen.append(str(gate.progress))
        return script(model, prompt, index)

    world.engine.script = watching
    with caplog.at_level(logging.INFO):
        await gate.run(GOOD, BASE)
    assert gate.progress is None
    assert seen[0] == "gate: suite coverage, check 1 of 8"
    assert any(re.fullmatch(r"gate: suite coverage, check 1 of 8, [0-9]+ of 30 asked", one) for one in seen)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == f"gate of {GOOD}: suite coverage (1 of 8)"
    assert lines[-1] == f"gate of {GOOD}: preference (8 of 8)"


async def test_an_alias_without_suites_says_what_was_not_checked(world: World) -> None:
    """Its gate is never passed by checks that were not made."""
    gate = Gate.load(world.database, world.blobs, world.engine, AliasConfig(), read=POLICY.judge)
    world.engine.register(GOOD)
    result = await gate.run(GOOD, BASE)
    assert result.outcome == "inconclusive"
    assert [one.name for one in result.checks if one.outcome == "skipped"] == ["reward", "safety", "length", "kl"]


async def test_suites_with_the_same_prompts_are_asked_once(world: World) -> None:
    """30 shared prompts and 10 skills, by two adapters; the second gate asks the candidate alone."""
    gate = gate_for(world)
    await gate.run(GOOD, BASE)

    def asked() -> list[str]:
        return [call.model for call in world.engine.calls if call.method == "generate"]

    assert len(asked()) == 2 * (30 + 10)
    world.engine.calls.clear()
    await gate.run(LOSSY, BASE)
    assert asked() == [LOSSY] * 40
    world.engine.calls.clear()
    await gate.run(LOSSY, GOOD)  # another is active now
    assert asked() == [GOOD] * 40


async def test_both_sides_get_the_same_seeds(world: World) -> None:
    """A paired comparison: one seed for a prompt, whoever answers; skills are greedy."""
    await gate_for(world).run(GOOD, BASE)
    drawn: dict[str, set[Any]] = {}
    for call in world.engine.calls:
        if call.method == "generate":
            drawn.setdefault(call.prompt.messages[0].text, set()).add(call.sampling)
    assert all(len(samplings) == 1 for samplings in drawn.values())
    assert {next(iter(one)).temperature for text, one in drawn.items() if text.startswith("How")} == {0.0}
    assert len({next(iter(one)).seed for one in drawn.values()}) == 40


async def test_held_out_choices_decide_and_ensemble_pairs_do_not(world: World) -> None:
    """Pairs that people made count; an adapter that prefers what they rejected fails."""
    gate = gate_for(world, min_preference_pairs=5)
    for number in range(25):
        group = await world.store_group(f"Which {number}?", ("good words", "bad words", "bad things"), is_holdout=True)
        ids = [candidate.id for candidate in group.candidates]
        for slot, kind, payload in (
            ("choice", SignalKind.CHOICE, {"chosen": ids[0], "rejected": [ids[1]]}),
            ("rating", SignalKind.RATING, {"rating": 1.0, "candidate_id": ids[2]}),
        ):
            signal = SignalRecord(f"s{number}-{slot}", group.id, kind, slot, "somebody", world.clock(), payload)
            await world.database.write(lambda c, signal=signal: signals.insert_signal(c, signal))

    def likes(word: str, adapter: str) -> None:
        world.engine.token_logprob = lambda model, prompt, piece: (
            -0.2 if model == adapter and piece.strip() == word else -0.5
        )

    for word, expected in (("good", "passed"), ("bad", "failed")):
        likes(word, GOOD)
        check = outcomes((await gate.run(GOOD, BASE)).checks)
        assert check["preference"] == expected


async def test_an_engine_that_goes_away_ends_the_run_and_not_the_memory(world: World) -> None:
    """The gate raises, can be run again, and does not ask again what was answered."""
    gate = gate_for(world)
    await gate.run(LOSSY, BASE)
    world.engine.fail_next(EngineError("away"), times=3)
    with pytest.raises(EngineError):
        await gate.run(GOOD, BASE)
    assert (await gate.run(GOOD, BASE)).outcome == "inconclusive"
