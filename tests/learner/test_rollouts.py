"""Rounds whose batches hold answers that the policy of that moment gave, against a server in memory."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from learner.batch import Collator
from learner.errors import SettingsError
from learner.examples import Answer, Example, RewardedExample, Wanted
from learner.model import Base, Policy
from learner.objectives import Needs
from learner.prefix import PrefixModel
from learner.references import References
from learner.settings import Settings, read_settings
from learner.vision import Vision
from server.wire.training import Rollout, RolloutRequest, TrainingConfig
from tests.learner.conftest import SETTINGS, MakeLearner
from tests.learner.fake_server import FakeServer, candidate, error
from tests.learner.test_round import Killed, killer, state_of
from tests.learner.tiny import TARGETS

PATH = "/v1/training/rollouts"
OBJECTIVES = {"sigmoid": 1.0, "kto": 0.5, "grpo": 1.0}


@pytest.fixture
def rolling(server: FakeServer) -> FakeServer:
    """Two prompts of each step's batch are answered anew, four times each."""
    changes = {"objectives": OBJECTIVES, "rollout_groups": 2, "rollout_candidates": 4}
    server.config["learner"] = {**SETTINGS, **changes}
    return server


def alive(server: FakeServer) -> list[str]:
    return [name for name, state in server.states.items() if state == "ephemeral"]


def uploaded(server: FakeServer) -> Any:
    (name,) = [name for name, state in server.states.items() if state == "staged"]
    return server.adapters[name][0]


def test_every_step_learns_from_the_policy_of_the_step_before(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """The parent answers for the first step, then an adapter that is published anew for each; none is left, and the
    upload's manifest names groups of the feed only.
    """
    assert make_learner().run() == 0
    (report,) = rolling.reports
    assert report.outcome == "uploaded"
    steps = report.detail["steps"]
    asked = [request.adapter for request in rolling.rollouts]
    assert asked[:2] == ["base", "base"] and len(set(asked)) == len(asked) - 1 == steps - 1, "the first two: one policy"
    assert [len(request.group_ids) for request in rolling.rollouts] == [2] * steps
    assert len({request.seed for request in rolling.rollouts}) == steps
    assert alive(rolling) == [] and len(rolling.deleted) == steps - 2
    assert report.detail["rollouts"] == {"groups": 2 * steps, "answers": 8 * steps, "skipped": {}}
    manifest = uploaded(rolling)
    assert manifest.groups == sorted(rolling.groups) and manifest.sources["rollout"] == 8 * steps
    assert len(report.detail["curve"]["rollout_reward"]) == steps


def test_prompts_are_those_of_the_batches(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """No prompt twice in an epoch."""
    assert make_learner().run() == 0
    half = rolling.reports[0].detail["steps"] // 2
    epoch = [group for request in rolling.rollouts[:half] for group in request.group_ids]
    assert len(set(epoch)) == len(epoch) == 2 * half


def test_answers_are_drawn_while_a_batch_is_trained(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """The next step's answers leave the server only once this step is trained; if that were waited for, none would."""
    trained, waited = threading.Event(), []

    def before(method: str, path: str) -> None:
        if path == PATH and rolling.rollouts:  # the first step's are waited for
            waited.append(trained.wait(10.0))
            trained.clear()

    rolling.before = before
    assert make_learner(at=lambda point: trained.set() if point == "step" else None).run() == 0
    assert waited == [True] * (rolling.reports[0].detail["steps"] - 1)


def test_a_policy_may_answer_for_several_steps(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """`rollout_every` steps each."""
    rolling.config["learner"]["rollout_every"] = 3
    assert make_learner().run() == 0
    asked = [request.adapter for request in rolling.rollouts]
    assert [len(list(run)) for run in _runs(asked)] == [4, 2] and alive(rolling) == []


def _runs(names: list[str]) -> list[list[str]]:
    runs: list[list[str]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1].append(name)
        else:
            runs.append([name])
    return runs


@pytest.mark.parametrize(
    ("path", "reply", "reason"),
    [
        (PATH, error(429, "busy", "queue_full"), "step: the server was busy"),
        (PATH, error(503, "away", "engine_unavailable"), "step: the server was away"),
        (PATH, httpx.Response(200, text="{}"), "step: refused, 200"),
        ("/v1/adapters", error(400, "no", "adapter_rejected"), "step: refused, adapter_rejected"),
    ],
)
def test_a_step_goes_on_without(
    rolling: FakeServer, make_learner: MakeLearner, path: str, reply: httpx.Response, reason: str
) -> None:
    """Whatever the server says, and the round ends well; every step that went without is counted."""
    training = True

    def fault(method: str, where: str) -> httpx.Response | None:
        return reply if training and (method, where) == ("POST", path) else None

    def at(point: str) -> None:
        nonlocal training
        training = training and point != "trained"

    rolling.fault = fault
    assert make_learner(at=at).run() == 0
    (report,) = rolling.reports
    steps = report.detail["steps"]
    answered = 2 if path == "/v1/adapters" else 0
    assert report.detail["rollouts"]["skipped"] == {reason: steps - answered}
    assert report.detail["rollouts"]["groups"] == 2 * answered and alive(rolling) == []


def test_a_server_that_is_away_costs_no_step(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """No reply at all, for two of the requests; the next are answered."""
    left = 2

    def fault(method: str, path: str) -> httpx.Response | None:
        nonlocal left
        if path == PATH and left:
            left -= 1
            raise httpx.ConnectError("away")
        return None

    rolling.fault = fault
    assert make_learner().run() == 0
    (report,) = rolling.reports
    assert report.detail["rollouts"]["skipped"] == {"step: the server was away": 2}
    assert report.detail["rollouts"]["groups"] == 2 * (report.detail["steps"] - 2)


def test_an_adapter_that_had_to_make_room_is_published_again(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """The server keeps few of them; another learner's may push ours out."""
    rolling.config["learner"]["rollout_every"] = 100
    seen = 0

    def fault(method: str, path: str) -> httpx.Response | None:
        nonlocal seen
        seen += path == PATH
        if path == PATH and seen == 2:
            return error(404, "The model does not exist, or is not served.", "model_not_found")
        return None

    rolling.fault = fault
    assert make_learner().run() == 0
    (report,) = rolling.reports
    assert report.detail["rollouts"]["skipped"] == {"step: refused, model_not_found": 1}
    assert len({request.adapter for request in rolling.rollouts} - {"base"}) == 1 and alive(rolling) == []


def test_what_cannot_be_learned_from_is_counted(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """Prompts that were not answered, poisoned answers, rewards alike; a step is never lost to them."""
    bad = [
        {"logprobs": [float("nan")] * 3},
        {"token_ids": [64, 1, 1]},
        {"logprobs": [-1.0]},
        {"token_ids": [], "logprobs": []},
        {"total": float("inf")},
    ]

    def roll_out(asked: RolloutRequest, group: str) -> Rollout:
        made = rolling.answered(asked, group)
        assert made.group is not None
        number = len(rolling.rollouts)
        if number == 1:
            return Rollout(group_id=group, reason="busy")
        if number == 2:
            return Rollout(group_id=group, group=made.group.model_copy(update={"rewarded": False}))
        if number == 3:
            return Rollout(group_id=group, group=made.group.model_copy(update={"base_digest": "1" * 64}))
        if number == 4:
            extra = [
                candidate(f"x{index}", [10, 11, 12], total=1.0).model_copy(update=one) for index, one in enumerate(bad)
            ]
            candidates = [*made.group.candidates, *extra]
            return Rollout(group_id=group, group=made.group.model_copy(update={"candidates": candidates}))
        return made

    rolling.roll_out = roll_out
    assert make_learner().run() == 0
    (report,) = rolling.reports
    assert report.outcome == "uploaded" and report.detail["steps_discarded"] == 0
    assert Counter(report.detail["rollouts"]["skipped"]) == {
        "prompt: busy": 2,
        "no rewards that differ": 2,
        "another base model": 2,
        "log-probability is not finite": 2,
        "token outside the vocabulary": 2,
        "log-probabilities do not match the tokens": 2,
        "empty answer": 2,
        "reward is not a number": 2,
    }


def test_erasure_reaches_what_was_just_answered(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """Answers to a prompt that has left the round meanwhile are dropped unseen."""
    erased: list[str] = []

    def roll_out(asked: RolloutRequest, group: str) -> Rollout:
        made = rolling.answered(asked, group)
        if not erased:
            erased.append(group)
            rolling.erase(group)  # while its answers are on their way
        return made

    rolling.roll_out = roll_out
    assert make_learner().run() == 0
    (report,) = rolling.reports
    assert report.detail["rollouts"]["skipped"] == {"prompt: gone meanwhile": 1}
    assert erased[0] not in uploaded(rolling).groups


@pytest.mark.parametrize(("point", "times"), [("rolled out", 3), ("step", 3), ("checkpoint", 1), ("trained", 1)])
def test_a_kill_leaves_nothing_alive_and_counts_nothing_twice(
    rolling: FakeServer, make_learner: MakeLearner, tmp_path: Path, point: str, times: int
) -> None:
    """The next process deletes what was left, and counts from its checkpoint on."""
    _, at = killer(point, times)
    with pytest.raises(Killed):
        make_learner(at=at).run()
    owner = state_of(tmp_path)["owner"]
    assert make_learner().run() == 0
    (report,) = rolling.reports
    steps = report.detail["steps"]
    assert report.outcome == "uploaded" and report.detail["rollouts"]["groups"] == 2 * steps
    assert uploaded(rolling).sources["rollout"] == 8 * steps
    assert alive(rolling) == [] and state_of(tmp_path)["owner"] == owner


def test_others_ephemeral_adapters_are_left_alone(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """Only this learner's own are swept up."""
    assert make_learner().run() == 0
    ((manifest, files),) = rolling.adapters.values()
    theirs = manifest.model_copy(update={"ephemeral": True, "objective": {"rollouts_of": "learner-other"}})
    rolling.adapters["000900-theirs"], rolling.states["000900-theirs"] = (theirs, files), "ephemeral"
    assert make_learner("second").run() in {0, 1}
    assert alive(rolling) == ["000900-theirs"]


def test_a_stop_in_mid_wait_is_prompt_and_resumes(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """Who is told to stop does not wait for answers."""
    stop = threading.Event()

    def roll_out(asked: RolloutRequest, group: str) -> Rollout:
        stop.set()
        return rolling.answered(asked, group)

    rolling.roll_out = roll_out
    assert make_learner(stop=stop).run() == 0
    assert not rolling.reports and alive(rolling) == []
    rolling.roll_out = rolling.answered
    assert make_learner().run() == 0
    assert rolling.reports[0].outcome == "uploaded"


def test_a_lost_lease_ends_the_round(rolling: FakeServer, make_learner: MakeLearner) -> None:
    """The server tells a fenced-off learner nothing more, and nothing of its is left."""

    def roll_out(asked: RolloutRequest, group: str) -> Rollout:
        if len(rolling.rollouts) == 2:
            rolling.token += 1
        return rolling.answered(asked, group)

    rolling.roll_out = roll_out
    learner = make_learner(lease_ttl_s=1.0)
    assert learner.run() == 1
    assert not any(state == "staged" for state in rolling.states.values())


def test_the_setting_needs_an_objective_on_rewards(rolling: FakeServer) -> None:
    """Else the answers would be paid for and not used."""
    config = TrainingConfig.model_validate(rolling.config)
    assert read_settings(config).rollout_groups == 2
    config.learner["objectives"] = {"sigmoid": 1.0}
    with pytest.raises(SettingsError, match="rollout_groups"):
        read_settings(config)


def test_logged_values_are_the_old_policys(base_dir: Path) -> None:
    """π_old of fresh answers is what the engine logged; that of served ones the policy at the round's beginning."""
    policy = Policy.fresh(Base(base_dir, "cpu"), Settings(rank=4, target_modules=TARGETS), seed=1)
    references = References(policy, "base", begins_at_base=False)
    vision = Vision(policy.base.model, base_dir, lambda sha256: b"", 2**20)
    collator = Collator(references, PrefixModel(policy.model), vision, 4096, others=["previous"])

    def example(group: str, origin: str) -> Example:
        answers = tuple(
            Answer(f"{group}.{number}", (10 + number, 1), "stop", True, False, logprobs=(-0.25, -0.5 - number))
            for number in range(2)
        )
        rewards = (RewardedExample(0, 1.0, 1.0), RewardedExample(1, 0.0, 1.0))
        return Example(group, (5, 6, 7), (), answers, (), (), rewards, origin=origin)

    fresh, served = example("roll-1", "g1"), example("g1", "")
    batch = collator.batch([fresh, served])
    assert torch.equal(batch.references["previous"][:2], torch.tensor([[-0.25, -0.5], [-0.25, -1.5]]))
    assert torch.allclose(batch.references["previous"][2:], batch.logprobs[2:].detach(), atol=1e-6)
    policy.close()


def test_an_adapters_age_is_read_off_its_id() -> None:
    """As the server gives them: what was drawn by an old adapter of the lineage is stale, an ephemeral one's is not."""
    wanted = Wanted(frozenset({Needs.REWARDED}), {}, ("a00012-abc", "a00007-abc", "base"), 1)
    ages = {name: wanted.staleness(name) for name in ("base", "a00007-abc", "a00012-abc", "a00031-abc")}
    assert ages == {"base": 2, "a00007-abc": 1, "a00012-abc": 0, "a00031-abc": 0}
