"""Whole rounds against a server in memory: what is learned, resumed, skipped, erased and refused."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load

from learner.model import Base, Policy
from learner.prefix import PrefixModel, Row
from learner.state import StateDir
from learner.vision import Vision
from server.wire.training import TrainingGroup
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import ALIAS, FakeServer, candidate, error, make_group, pair, thumb
from tests.learner.tiny import EOS, IMAGE, image_prompt, png


class Killed(BaseException):
    """Stands for kill -9: nothing in the learner catches it."""


def killer(point: str, times: int = 1) -> tuple[list[str], object]:
    """A trace that raises when `point` is passed for the `times`-th time."""
    seen: list[str] = []

    def at(name: str) -> None:
        seen.append(name)
        if seen.count(point) == times and name == point:
            raise Killed(point)

    return seen, at


def weights(server: FakeServer, adapter: str) -> dict[str, torch.Tensor]:
    return load(server.adapters[adapter][1]["adapter_model.safetensors"])


def state_of(tmp_path: Path, name: str = "state") -> dict[str, object]:
    return json.loads((tmp_path / name / ALIAS / "state.json").read_text())


def test_a_round_learns_what_people_like(server: FakeServer, make_learner: MakeLearner, tmp_path: Path) -> None:
    """The loss falls, the margin between chosen and rejected grows, and the adapter is uploaded with its origin."""
    assert make_learner().run() == 0
    (report,) = server.reports
    assert report.outcome == "uploaded"
    ((name, (manifest, files)),) = server.adapters.items()
    assert report.adapter == name
    before, after = report.detail["before"], report.detail["after"]
    assert before["accuracy"] == 0 and before["margin"] == 0 and before["kl"] == pytest.approx(0, abs=1e-6)
    assert after["accuracy"] > 0.9 and after["margin"] > 0.2 and after["kl"] > 0.01
    loss, margin = report.detail["curve"]["loss"], report.detail["curve"]["margin"]
    assert len(loss) == 6 and loss[-1] < loss[0] and margin[-1] > margin[0]
    assert (manifest.parent, manifest.feed_after, manifest.feed_upto) == ("base", 0, 12)
    assert manifest.sources == {"choice": 8, "thumb_up": 4, "thumb_down": 4}
    assert manifest.groups == sorted(server.groups)
    said = [one for group in server.groups.values() if group for one in (*group.pairs, *group.unpaired)]
    assert manifest.annotators == sorted({one.annotator for one in said})
    assert manifest.objective["beta"] == 0.1 and manifest.lease_token == server.token
    config = json.loads(files["adapter_config.json"])
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    assert {tensor.dtype for tensor in weights(server, name).values()} == {torch.float32}
    last = server.heartbeats[-1] if server.heartbeats else None
    assert last is not None
    assert list((tmp_path / "state" / ALIAS / "tensorboard").rglob("events.out.*"))
    assert not list((tmp_path / "state" / ALIAS).glob("round-*"))


def test_the_fingerprint_is_what_a_fresh_process_computes(
    server: FakeServer, make_learner: MakeLearner, base_dir: Path
) -> None:
    """From the uploaded files alone: text tokens only, sampled answers only, one for each group, and not the base's."""
    group = make_group(50, server.base_digest, server)
    typed = candidate("typed", [40, 41, EOS], adapter="human", logprobs=[])
    correction = pair("typed", group.candidates[1].id, source="correction")
    server.tell(group.model_copy(update={"candidates": [*group.candidates, typed], "pairs": [correction]}))
    assert make_learner().run() == 0
    ((manifest, files),) = server.adapters.values()
    assert manifest.sources["correction"] == 1
    assert len(manifest.fingerprint) == 8 == len({item.group_id for item in manifest.fingerprint})
    base = Base(base_dir, "cpu")
    vision = Vision(base.model, base_dir, server.images.__getitem__, 2**30)
    policy = Policy.from_files(base, files)
    engine = PrefixModel(policy.model)
    for item in manifest.fingerprint:
        told = server.groups[item.group_id]
        answer = next(one for one in told.candidates if one.id == item.candidate_id)
        assert answer.id != "typed"
        text = [token for token in answer.token_ids if token != EOS]
        row = Row(tuple(told.prompt_token_ids), tuple(map(vision.features, told.images)), (tuple(text),))
        (values,) = engine.logprobs([row])
        with policy.reference():
            (base_values,) = engine.logprobs([row])
        assert values.sum().item() == pytest.approx(item.logprob, abs=1e-4)
        assert base_values.sum().item() == pytest.approx(item.base_logprob, abs=1e-4)
        assert abs(item.logprob - item.base_logprob) > 0.01


POINTS = ["planned", "prepared", "step", "checkpoint", "written", "trained", "uploaded", "saved", "reported"]


@pytest.mark.parametrize("point", POINTS)
def test_a_round_that_is_killed_anywhere_is_resumed_to_the_same_adapter(
    point: str, server: FakeServer, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """The adapter's bytes are those of an uninterrupted round, it is uploaded once, and nothing is learned twice."""
    assert make_learner("whole").run() == 0
    (expected,) = server.adapters
    server.owner = ""
    digest = server.adapters[expected][0].files
    server.adapters.clear()
    server.reports.clear()
    seen, at = killer(point, times=3 if point == "step" else 1)
    with pytest.raises(Killed):
        make_learner("killed", at=at).run()
    assert make_learner("killed", at=seen.append).run() == 0
    ((_, (manifest, _)),) = server.adapters.items()
    assert manifest.files == digest
    assert manifest.groups == sorted(server.groups)
    assert seen.count("step") == (7 if point == "step" else 6), "only the steps behind the checkpoint are repeated"
    state = state_of(tmp_path, "killed")
    assert (state["rounds"], state["round"], state["new_signals"], state["cursor"]) == (1, None, 0, 12)
    assert {report.outcome for report in server.reports} == {"uploaded"}


def test_sigterm_leaves_a_checkpoint_and_the_next_start_continues(
    server: FakeServer, make_learner: MakeLearner
) -> None:
    """A clean stop loses no step."""
    stop = threading.Event()
    seen: list[str] = []

    def at(point: str) -> None:
        seen.append(point)
        if seen.count("step") == 3:
            stop.set()

    assert make_learner(stop=stop, at=at).run() == 0
    assert not server.adapters
    assert make_learner(at=seen.append).run() == 0
    assert seen.count("step") == 6 and len(server.adapters) == 1


def test_rounds_build_on_the_active_adapter(server: FakeServer, make_learner: MakeLearner, tmp_path: Path) -> None:
    """The second round starts from the active adapter, fetched from the server when it is not at hand."""
    assert make_learner("first").run() == 0
    (first,) = server.adapters
    server.active, server.states[first] = first, "active"
    server.owner = ""
    server.tell(make_group(20, server.base_digest, server))
    assert make_learner("second").run() == 0
    second = server.adapters[list(server.adapters)[1]][0]
    assert second.parent == first
    before = server.reports[1].detail["before"]
    assert before["accuracy"] > 0.9, "the parent's weights were there from the start"


def test_the_loop_runs_a_round_when_enough_people_spoke(server: FakeServer, make_learner: MakeLearner) -> None:
    """Five new signals start a round, four do not; the same groups told again are no new signals."""
    stop = threading.Event()
    rounds: list[str] = []

    def at(point: str) -> None:
        if point == "reported":
            rounds.append(point)
            (first, *_) = server.adapters
            server.active, server.states[first] = first, "active"
            if len(rounds) == 1:
                for number in range(12):
                    server.tell(make_group(number, server.base_digest, server))
                for number in range(20, 24):
                    server.tell(make_group(number, server.base_digest, server))
                threading.Timer(0.3, lambda: server.tell(make_group(30, server.base_digest, server))).start()
            else:
                stop.set()

    assert make_learner(once=False, at=at, stop=stop).run() == 0
    assert [report.detail["signals"] for report in server.reports] == [12, 5]
    assert [report.detail["feed_after"] for report in server.reports] == [0, 12]


def test_an_order_to_retrain_makes_a_round_without_what_was_erased(
    server: FakeServer, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """From the clean ancestor, behind its place in the feed, at once, without a new signal; and only once."""
    stop = threading.Event()
    ids: list[str] = []

    def at(point: str) -> None:
        if point == "reported" and len(server.reports) == 1:
            (tainted,) = server.adapters
            server.states[tainted] = "active"
            server.active = tainted
            ids.append(tainted)
            for number in range(20, 26):
                server.tell(make_group(number, server.base_digest, server))
        elif point == "reported" and len(server.reports) == 2:  # what the server does for `adapters=retrain`
            server.states |= dict.fromkeys(server.adapters, "quarantined")
            server.active = "base"
            server.erase("g021")
            server.erase("g001")
            server.config["retraining"] = {"number": 7, "feed_after": 12}
        elif point == "reported":
            threading.Timer(0.3, stop.set).start()

    assert make_learner(once=False, at=at, stop=stop).run() == 0
    _, second, third = server.reports
    assert (second.detail["parent"], second.detail["feed_after"]) == (ids[0], 12)
    assert (third.detail["parent"], third.detail["feed_after"], third.detail["feed_upto"]) == ("base", 12, 20)
    assert third.detail["signals"] == 5, "what is left of the six that came behind 12"
    manifest, _ = server.adapters[third.adapter or ""]
    assert set(manifest.groups) == set(server.groups) - {"g001", "g021"}
    assert len(server.reports) == 3
    replay = tmp_path / "state" / ALIAS / "replay"
    assert {file.stem for file in replay.iterdir()} == set(server.groups) - {"g001", "g021"}
    assert state_of(tmp_path)["retraining"] == 7


def test_an_order_that_comes_in_mid_round_ends_that_round(server: FakeServer, make_learner: MakeLearner) -> None:
    """A killed round of before the order is not resumed: its signals are counted once."""
    _, at = killer("step")
    with pytest.raises(Killed):
        make_learner(at=at).run()
    server.erase("g003")
    server.config["retraining"] = {"number": 1, "feed_after": 0}
    assert make_learner().run() == 0
    (report,) = server.reports
    assert (report.detail["signals"], report.detail["groups"]) == (11, 11)
    ((manifest, _),) = server.adapters.values()
    assert "g003" not in manifest.groups


def test_erased_groups_leave_replay_and_caches_in_mid_round(
    server: FakeServer, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """An erasure during training: gone from memory, disk and every later batch; a change of mind is taken over."""
    learner = make_learner()
    images = server.groups["g001"].images

    def at(point: str) -> None:
        if point == "step" and len(server.entries) == 12:
            server.erase("g001")
            server.erase("g006")  # the only other group with the same image
            server.erase("g011")
            changed = server.groups["g000"]
            flipped = pair(changed.candidates[1].id, changed.candidates[0].id)
            server.tell(changed.model_copy(update={"pairs": [flipped]}))

    learner._at = at
    assert learner.run() == 0
    directory = tmp_path / "state" / ALIAS
    assert {file.stem for file in (directory / "replay").iterdir()}.isdisjoint({"g001", "g006", "g011"})
    assert not (directory / "media" / images[0]).exists()
    ((manifest, _),) = server.adapters.values()
    assert manifest.sources == {"choice": 6, "thumb_up": 3, "thumb_down": 3}
    assert set(manifest.groups) <= set(server.groups) and {"g000", "g002"} <= set(manifest.groups)
    assert {item.group_id for item in manifest.fingerprint}.isdisjoint({"g001", "g006", "g011"})


def poisoned(server: FakeServer) -> dict[str, list[TrainingGroup]]:
    """Groups that cannot be learned from, by the reason that is counted."""

    def made(number: int, **changes: object) -> TrainingGroup:
        return make_group(number, server.base_digest, server, **changes)

    good = candidate("a", [10, 11])
    broken = io.BytesIO(png(9)[:60]).getvalue()
    return {
        "empty answer": [made(60, candidates=[good, candidate("b", [])], pairs=[pair("a", "b")])],
        "log-probability is not finite": [
            made(63, candidates=[good, candidate("b", [1], logprobs=[float("nan")])], pairs=[pair("a", "b")])
        ],
        "image missing": [made(66, images=["0" * 64])],
        "image unreadable": [made(69, images=[server.add_image(broken)])],
        "image tokens differ from the placeholders": [made(72, prompt_token_ids=list(image_prompt(5)))],
        "images and placeholders do not match": [made(75, images=[])],
        "chosen may not be a positive": [
            made(78, candidates=[candidate("a", [10], may_be_positive=False)], pairs=[], unpaired=[thumb("a", True)]),
            made(81, candidates=[candidate("a", [10], blocked=True), candidate("b", [9])], pairs=[pair("a", "b")]),
        ],
        "another base model": [made(84, base_digest="1" * 64)],
        "token outside the vocabulary": [made(87, candidates=[good, candidate("b", [64])], pairs=[pair("a", "b")])],
        "image placeholder in an answer": [
            made(90, candidates=[good, candidate("b", [IMAGE])], pairs=[pair("a", "b")])
        ],
        "longer than the model's context": [
            made(93, candidates=[good, candidate("b", [5] * 4000)], pairs=[pair("a", "b")])
        ],
        "unknown candidate": [made(96, pairs=[pair("x", "y")])],
        "weight is not a positive number": [
            made(99, candidates=[good, candidate("b", [7])], pairs=[pair("a", "b", weight=-1.0)])
        ],
    }


def test_poisoned_groups_are_skipped_with_a_reason(server: FakeServer, make_learner: MakeLearner) -> None:
    """None of them costs the round, and the report counts each."""
    expected = {"malformed group": 1}
    for reason, groups in poisoned(server).items():
        expected[reason] = len(groups)
        for group in groups:
            server.tell(group)
    odd = make_group(102, server.base_digest, server)
    server.tell(odd.model_copy(update={"base_digest": None}))
    assert make_learner().run() == 0
    (report,) = server.reports
    assert report.detail["skipped"] == expected
    assert report.detail["groups"] == 12


def test_a_lost_lease_stops_the_round_and_its_signals_count_again(
    server: FakeServer, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """Another learner took over: no upload, no report, and nothing is forgotten."""
    learner = make_learner(lease_ttl_s=1.0)
    waited = threading.Event()

    def at(point: str) -> None:
        if point == "step" and server.owner != "other":
            server.owner, server.token = "other", server.token + 1
            waited.wait(0.6)  # until a heartbeat has been refused

    learner._at = at
    assert learner.run() == 1
    assert not server.adapters and not server.reports
    state = state_of(tmp_path)
    assert (state["round"], state["new_signals"], state["rounds"]) == (None, 12, 0)


def test_an_upload_under_a_lost_lease_is_abandoned(server: FakeServer, make_learner: MakeLearner) -> None:
    """The server fences the old token off at the upload too."""

    def at(point: str) -> None:
        if point == "trained":
            server.owner, server.token = "other", server.token + 1

    assert make_learner(at=at).run() == 1
    assert not server.adapters and not server.reports


def test_the_server_may_go_away_in_the_middle(server: FakeServer, make_learner: MakeLearner) -> None:
    """Training goes on, the upload waits, and nothing is lost."""
    down = {"left": 0}

    def fault(method: str, path: str) -> httpx.Response | None:
        if down["left"] > 0:
            down["left"] -= 1
            raise httpx.ConnectError("refused")
        return None

    def at(point: str) -> None:
        if point in {"planned", "trained"}:
            down["left"] = 6

    server.fault = fault
    assert make_learner(at=at).run() == 0
    assert len(server.adapters) == 1 and len(server.reports) == 1


def test_an_upload_that_a_restarted_server_forgot_is_begun_again(server: FakeServer, make_learner: MakeLearner) -> None:
    """Its id is unknown (404) at the first file: the adapter arrives all the same, once."""

    def fault(method: str, path: str) -> httpx.Response | None:
        if method == "PUT" and path.startswith("/v1/adapters/u0/"):
            server._uploads.clear()
            server._uploads["gone"] = (None, {})  # ids are never used again
        return None

    server.fault = fault
    assert make_learner().run() == 0
    assert len(server.adapters) == 1


def test_a_lease_that_another_learner_holds_is_waited_for(
    server: FakeServer, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """Refused with 403: no round, nothing lost."""
    server.owner = "other"
    assert make_learner().run() == 1
    assert not server.reports and state_of(tmp_path)["new_signals"] == 12


def test_a_refused_upload_is_reported_not_repeated(server: FakeServer, make_learner: MakeLearner) -> None:
    """A 400 says why; the round ends as discarded."""

    def fault(method: str, path: str) -> httpx.Response | None:
        return error(400, "too large", "bad_adapter") if (method, path) == ("POST", "/v1/adapters") else None

    server.fault = fault
    assert make_learner().run() == 1
    (report,) = server.reports
    assert report.outcome == "discarded" and "too large" in report.reason


def test_a_round_that_runs_away_is_discarded(server: FakeServer, make_learner: MakeLearner) -> None:
    """KL above the bound: the pre-check refuses, and nothing is uploaded."""
    server.config["learner"]["max_kl"] = 1e-6
    assert make_learner().run() == 1
    (report,) = server.reports
    assert report.outcome == "discarded" and "KL" in report.reason
    assert not server.adapters


def test_a_policy_that_runs_away_is_stopped_on_the_way(server: FakeServer, make_learner: MakeLearner) -> None:
    """Steps far beyond the bound are discarded by name, and after five the round ends: no time is spent on the rest."""
    server.config["learner"] |= {"max_kl": 1e-3, "learning_rate": 0.1, "epochs": 40}
    assert make_learner().run() == 1
    (report,) = server.reports
    assert report.outcome == "discarded" and "KL to the reference" in report.reason
    assert report.detail["steps_discarded"] >= 5 and report.detail["steps"] < 60
    assert any("KL to the reference" in reason for reason in report.detail["discard_reasons"])


def test_steps_that_are_not_finite_are_discarded_and_end_the_round(
    server: FakeServer, make_learner: MakeLearner
) -> None:
    """A learning rate that blows the weights up: the guards see it, and the report says it."""
    server.config["learner"] |= {"learning_rate": 1e30, "epochs": 8}
    assert make_learner().run() == 1
    (report,) = server.reports
    assert report.outcome == "discarded" and "discarded" in report.reason
    assert report.detail["steps_discarded"] == 5


def test_nothing_to_learn_is_a_skipped_round(server: FakeServer, make_learner: MakeLearner) -> None:
    """Every group erased: the report says so."""
    for number in range(12):
        server.erase(f"g{number:03d}")
    assert make_learner().run() == 1
    assert server.reports[0].outcome == "skipped"


def test_a_rolled_back_parent_is_not_continued(server: FakeServer, make_learner: MakeLearner) -> None:
    """A round that was cut off starts anew when another adapter is active by then."""
    assert make_learner("first").run() == 0
    (first,) = server.adapters
    server.active, server.owner = first, ""
    _, at = killer("checkpoint")
    with pytest.raises(Killed):
        make_learner("second", at=at).run()
    server.active = "base"
    server.tell(make_group(20, server.base_digest, server))
    assert make_learner("second").run() == 0
    manifest, _ = list(server.adapters.values())[1]
    assert manifest.parent == "base"
    assert server.reports[-1].detail["signals"] == 13


def test_two_learners_cannot_share_a_state_directory(tmp_path: Path) -> None:
    """The second start says so."""
    from learner.errors import LearnerError

    held = StateDir(tmp_path / "state")
    with pytest.raises(LearnerError, match="in use"):
        StateDir(tmp_path / "state")
    held.close()


def test_another_base_model_is_refused(server: FakeServer, make_learner: MakeLearner) -> None:
    """Training a model that is not served would be worse than not training."""
    from learner.errors import BaseMismatch

    server.config["base_digest"] = "2" * 64
    with pytest.raises(BaseMismatch, match="digest"):
        make_learner().run()


def test_safety_pairs_are_learned_without_imitating_the_clean_side(
    server: FakeServer, make_learner: MakeLearner
) -> None:
    """Blocked answers become unlikely; the manifest counts them under their source."""
    for number in range(12):
        group = make_group(number, server.base_digest, server, unpaired=[])
        good, bad = group.candidates
        leak = bad.model_copy(update={"blocked": True})
        safety = pair(good.id, bad.id, source="safety", annotator="rule")
        server.tell(group.model_copy(update={"candidates": [good, leak], "pairs": [safety]}))
    assert make_learner().run() == 0
    (report,) = server.reports
    assert report.detail["signals"] == 0
    ((manifest, _),) = server.adapters.values()
    assert manifest.sources == {"safety": 12}
    assert report.detail["after"]["accuracy"] > 0.9


def test_a_round_whose_adapter_serves_already_is_not_learned_again(
    server: FakeServer, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """Killed behind the upload, and the server has promoted the adapter meanwhile: the round is over, not abandoned."""
    _, at = killer("uploaded")
    with pytest.raises(Killed):
        make_learner(at=at).run()
    (server.active,) = server.adapters
    assert make_learner().run() == 0
    (report,) = server.reports
    assert (report.adapter, report.detail["signals"], len(server.adapters)) == (server.active, 12, 1)
    assert (state_of(tmp_path)["new_signals"], state_of(tmp_path)["rounds"]) == (0, 1)


def test_a_round_that_was_not_uploaded_is_abandoned_for_another_parent(
    server: FakeServer, make_learner: MakeLearner
) -> None:
    """Its adapter would have grown out of what does not serve any more: it is learned anew from what does."""
    _, at = killer("written")
    with pytest.raises(Killed):
        make_learner(at=at).run()
    assert make_learner("elsewhere").run() == 1, "the first holds the lease"
    server.owner = ""
    assert make_learner("elsewhere").run() == 0
    (server.active,) = server.adapters
    server.owner = ""
    assert make_learner().run() == 0
    newest = list(server.adapters.values())[-1][0]
    assert newest.parent == server.active


def test_a_policy_that_is_no_number_any_more_is_reported(
    server: FakeServer, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """One step that blows everything up: the round is discarded, its report is JSON, the state can be read again."""
    server.config["learner"] |= {"learning_rate": 1e30, "epochs": 1, "batch_groups": 12, "warmup_share": 0.0}
    seen, at = killer("trained")
    with pytest.raises(Killed):
        make_learner(at=at).run()
    assert make_learner(at=seen.append).run() == 1
    (report,) = server.reports
    assert (report.outcome, report.reason) == ("discarded", "the policy's log-probabilities are not finite")
    assert report.detail["after"]["kl"] is None and report.detail["before"]["kl"] is not None
    assert state_of(tmp_path)["rounds"] == 1


def test_a_report_says_where_the_time_went(server: FakeServer, make_learner: MakeLearner) -> None:
    """Each phase of every process that worked on the round, a name by which a second report is known, and lengths."""
    _, at = killer("checkpoint", times=2)
    with pytest.raises(Killed):
        make_learner(at=at).run()
    assert make_learner().run() == 0
    (report,) = server.reports
    phases = report.detail["phase_seconds"]
    assert set(phases) >= {"plan", "reference", "evaluate", "train", "upload"}
    assert report.detail["seconds"] == pytest.approx(sum(phases.values()), abs=0.01)
    assert report.round is not None and report.round.endswith("-1")
    assert len(report.detail["curve"]["length"]) == 6 and 3 <= min(report.detail["curve"]["length"]) <= 5
