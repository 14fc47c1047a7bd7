"""Training never templates and never tokenises; and the layer's small parts."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import learner
from clients.client import UnreadableEntry
from learner.branches import find_partners
from learner.evaluation import objection
from learner.examples import Answer, Example, UnpairedExample
from learner.replay import Replay, apply_feed
from learner.settings import Capacity
from learner.state import Standing, StateDir
from learner.trainer import learning_rate
from tests.learner.fake_server import ALIAS, FakeServer, make_group, pair

PACKAGE = Path(learner.__file__).parent
FORBIDDEN = ("tokenizer", "processor", "template", "encode", "decode")
ALLOWED = {"AutoImageProcessor", "_processor", "_decode", "encode", "encoder_outputs", "EncoderOutputs", "_encode"}
"""Of images and of JSON's bytes."""


def names(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found.update(node.name.split("."))
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.name)
def test_no_name_in_the_learner_has_to_do_with_text_encoding(file: Path) -> None:
    """No tokenizer, text processor or chat template is imported, called or touched anywhere."""
    used = {name for name in names(ast.parse(file.read_text())) if any(word in name.lower() for word in FORBIDDEN)}
    assert used <= ALLOWED


def test_a_batch_is_trained_on_where_no_tokenizer_can_be_made(base_dir: Path, tmp_path: Path) -> None:
    """In a process in which making any tokenizer raises, on a model directory that has none."""
    script = tmp_path / "poisoned.py"
    script.write_text(
        """
import sys
from pathlib import Path

from transformers import PreTrainedTokenizerBase

def poison(*arguments, **options):
    raise AssertionError("a tokenizer was made on the training path")

PreTrainedTokenizerBase.__init__ = PreTrainedTokenizerBase.from_pretrained = poison

from learner.model import Base, Policy
from learner.prefix import PrefixModel, Row
from learner.settings import Settings
from learner.vision import Vision
from tests.learner.tiny import image_prompt, png

directory = Path(sys.argv[1])
base = Base(directory, "cpu")
vision = Vision(base.model, directory, lambda digest: png(1), 2**30)
policy = Policy.fresh(base, Settings(rank=2), seed=1)
row = Row(image_prompt(4), (vision.features("a"),), ((5, 6, 7), (8,)))
sum(answer.sum() for answer in PrefixModel(policy.model).logprobs([row])).backward()
print("trained")
"""
    )
    root = str(PACKAGE.parent)
    done = subprocess.run(
        [sys.executable, script, base_dir],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "trained", done.stderr[-2000:]


def test_help_helps_at_once() -> None:
    """`python -m learner --help` names every option without loading torch."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "learner", "--help"],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for option in ("--server", "--alias", "--key", "--state", "--base-model", "--once", "--threads"):
        assert option in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported and imported.isdisjoint({"torch", "transformers"})


ROOM = Capacity(groups=100, rewarded=100)


def followed(server: FakeServer, tmp_path: Path) -> tuple[StateDir, Replay, list[str]]:
    directory = StateDir(tmp_path / "state")
    dropped: list[str] = []
    return directory, Replay(directory, 0, lambda group, images: dropped.append(group)), dropped


def test_the_feed_replaces_and_drops(server: FakeServer, tmp_path: Path) -> None:
    """A group is what its last entry says; erased, it is gone from memory and disk; telling it twice adds nothing."""
    directory, replay, dropped = followed(server, tmp_path)
    state = directory.load()
    client = server.client()

    def follow() -> None:
        apply_feed(client, ALIAS, state=state, directory=directory, replay=replay, capacity=ROOM)

    follow()
    assert (len(replay), state.cursor, state.new_signals, dropped) == (12, 12, 12, [])
    first = server.groups["g000"]
    server.tell(first)
    follow()
    assert (state.new_signals, dropped) == (12, []), "nothing new was said"
    second = pair(first.candidates[0].id, first.candidates[1].id, annotator="bob")
    server.tell(first.model_copy(update={"pairs": [*first.pairs, second]}))
    follow()
    assert (state.new_signals, dropped) == (13, ["g000"])
    server.erase("g003")
    follow()
    assert replay.get("g003") is None and not (directory.replay / "g003.json").exists()
    reread = Replay(directory, state.cursor, lambda group, images: None)
    assert [group.id for group in reread.all()] == [group.id for group in replay.all()]


def test_the_replay_keeps_the_newest_and_a_sample_of_the_older(server: FakeServer, tmp_path: Path) -> None:
    """Six places of eight for the newest; the other two are the same however often it was trimmed on the way."""
    kept = []
    for name, page_size in (("at-once", 100), ("bit-by-bit", 3)):
        directory, replay, _ = followed(server, tmp_path / name)
        server.page_size = page_size
        state = directory.load()
        apply_feed(server.client(), ALIAS, state=state, directory=directory, replay=replay, capacity=Capacity(8, 0))
        kept.append([group.id for group in replay.all()])
    assert kept[0] == kept[1] and len(kept[0]) == 8
    assert kept[0][2:] == [f"g{number:03d}" for number in range(6, 12)] and set(kept[0][:2]) <= set(server.groups)


def test_groups_with_rewards_alone_have_room_of_their_own(server: FakeServer, tmp_path: Path) -> None:
    """They push out no group that somebody spoke of, only older ones of their kind; and they are no signals."""
    for number in range(20, 30):
        group = make_group(number, server.base_digest, server, pairs=[], unpaired=[], rewarded=True)
        server.tell(group)
    directory, replay, _ = followed(server, tmp_path)
    state = directory.load()
    apply_feed(server.client(), ALIAS, state=state, directory=directory, replay=replay, capacity=Capacity(100, 3))
    assert [group.id for group in replay.all()][12:] == ["g027", "g028", "g029"]
    assert (len(replay), state.new_signals) == (15, 12)


def test_a_crash_between_files_and_cursor_counts_no_signal_twice(server: FakeServer, tmp_path: Path) -> None:
    """Groups on disk that are newer than the cursor come again with their page."""
    directory, replay, _ = followed(server, tmp_path)
    for entry in server.client().training_feed(ALIAS, 0).entries:
        replay.apply(entry)  # the state with its cursor was never saved
    again = Replay(directory, directory.load().cursor, lambda group, images: None)
    assert len(again) == 0
    state = directory.load()
    apply_feed(server.client(), ALIAS, state=state, directory=directory, replay=again, capacity=ROOM)
    assert (state.new_signals, len(again)) == (12, 12)


def test_another_servers_feed_starts_from_its_beginning(server: FakeServer, tmp_path: Path) -> None:
    """A head behind our cursor: that is a fresh store, and what we hold is not its."""
    directory, replay, dropped = followed(server, tmp_path)
    state = directory.load()
    apply_feed(server.client(), ALIAS, state=state, directory=directory, replay=replay, capacity=ROOM)
    server.entries.clear()
    server.tell(make_group(40, server.base_digest, server))
    apply_feed(server.client(), ALIAS, state=state, directory=directory, replay=replay, capacity=ROOM)
    assert [group.id for group in replay.all()] == ["g040"]
    assert (state.cursor, state.new_signals, len(dropped)) == (1, 1, 12)


def test_a_malformed_group_does_not_stop_the_feed(server: FakeServer) -> None:
    """Its entry keeps its place and says what is wrong; the others are read as ever."""
    server.tell(make_group(40, server.base_digest, server).model_copy(update={"images": 7}))
    server.page_size = 100
    entries = server.client().training_feed(ALIAS, 10).entries
    assert [entry.group is None for entry in entries] == [False, False, True]
    assert isinstance(entries[2], UnreadableEntry) and "images" in entries[2].problem


def test_partners_come_from_other_prompts() -> None:
    """KTO's mismatched answer is never one that was given to the same prompt; alone there is none."""
    answer = Answer("c", (1, 2), "stop", may_be_positive=True, is_human=False)

    def example(name: str, prompt: tuple[int, ...]) -> Example:
        return Example(name, prompt, (), (answer,), (), (UnpairedExample(0, True, 1.0, "ann"),))

    same, twin, other = example("a", (5,)), example("b", (5,)), example("c", (6,))
    assert {group: partner.group for group, partner in find_partners([same, twin, other]).items()} == {
        "a": "c",
        "b": "c",
        "c": "a",
    }
    assert find_partners([same, twin]) == {}


def test_the_learning_rate_rises_and_falls() -> None:
    """Linear warm-up, cosine to a tenth."""
    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) == max(rates)
    assert rates[9:] == sorted(rates[9:], reverse=True) and 0.1 <= rates[-1] < 0.102


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (Standing(accuracy=0.8, margin=0.2, kl=0.1), None),
        (Standing(accuracy=0.69, margin=0.2, kl=0.1), None),
        (Standing(accuracy=0.6, margin=0.2, kl=0.1), "fell"),
        (Standing(accuracy=0.7, margin=0.1, kl=0.1), "did not grow"),
        (Standing(accuracy=0.6, margin=0.2, kl=0.1, examples=80), None),
        (Standing(accuracy=0.6, margin=0.2, kl=0.1, examples=400), "fell"),
        (Standing(accuracy=0.9, margin=0.2, kl=3.0), "KL"),
        (Standing(accuracy=0.9, margin=float("nan"), kl=0.1), "finite"),
    ],
)
def test_the_pre_check_says_what_is_wrong(after: Standing, said: str | None) -> None:
    """Better is fine; worse by more than the noise of so many examples, the same, too far and not finite are not."""
    objected = objection(Standing(accuracy=0.7, margin=0.1, kl=0.0), after, max_kl=2.0)
    assert (objected is None) if said is None else (objected is not None and said in objected)


def test_the_suite_uses_one_thread() -> None:
    """So that resumed rounds can be compared byte for byte."""
    assert torch.get_num_threads() == 1
