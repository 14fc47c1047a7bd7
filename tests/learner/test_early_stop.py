"""Early stop: the best epoch is kept, measured on prompts that are not learned from, whatever interrupts the round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner import early_stop
from learner.early_stop import BestEpoch, kept_back
from learner.examples import Limits, Wanted, prepare
from learner.settings import Settings
from learner.state import Standing
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer, make_group
from tests.learner.test_round import Killed, killer, weights
from tests.learner.tiny import IMAGE

SHARE = 0.3
MANY = 30


def lot_of(server: FakeServer, number: int) -> float:
    found = prepare(make_group(number, "0" * 64, server), Limits("0" * 64, 64, 512, IMAGE), Wanted()).example
    assert found is not None
    return found.lot


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    """Patience counts epochs since the best one; what is not finite, or of nobody, is never best."""
    parameters = {"weight": torch.zeros(2)}
    best = BestEpoch(tmp_path, parameters, patience=2)
    enough = []
    standings: list[Standing] = []
    for epoch, (loss, examples) in enumerate([(0.7, 9), (0.5, 9), (float("nan"), 9), (0.0, 0)]):
        parameters["weight"].fill_(epoch)
        standings.append(Standing(loss=loss, examples=examples))
        enough.append(best.note(standings))
    assert enough == [False, False, False, True]
    best.restore()
    assert parameters["weight"].tolist() == [1, 1]


def test_too_few_and_too_many_are_not_kept_back(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits("0" * 64, 64, 512, IMAGE)
    found = [prepare(make_group(number, "0" * 64, server), limits, Wanted()).example for number in range(MANY)]
    examples = [one for one in found if one is not None]
    settings = Settings(validation_share=SHARE)
    assert kept_back(examples, settings) == set()  # eight or nine
    monkeypatch.setattr(early_stop, "MIN_EXAMPLES", 5)
    held = kept_back(examples, settings)
    assert held == {one.group for one in examples if one.lot < SHARE} and len(held) > 4
    assert kept_back(examples, Settings(validation_share=0)) == set()
    assert kept_back(examples, Settings(validation_share=SHARE, epochs=1)) == set()
    assert kept_back([one for one in examples if one.lot < SHARE], settings) == set(), "nearly all would be kept back"


@pytest.fixture
def contrary(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Those who ask what is kept back like the opposite of the others: every epoch makes it worse. Their groups."""
    monkeypatch.setattr(early_stop, "MIN_EXAMPLES", 5)
    server.config["learner"] |= {"validation_share": SHARE, "epochs": 4}
    held = set()
    for number in range(12, 12 + MANY):
        group = make_group(number, server.base_digest, server)
        if lot_of(server, number) < SHARE:
            held.add(group.id)
            for one in group.pairs:
                one.chosen, one.rejected = one.rejected, one.chosen
            for thumb in group.unpaired:
                thumb.desirable = not thumb.desirable
        server.tell(group)
    return held


def test_a_round_stops_when_it_gets_worse(server: FakeServer, make_learner: MakeLearner, contrary: set[str]) -> None:
    """It keeps the first epoch, and learns from nobody whom it measured itself by."""
    assert make_learner().run() == 0
    (report,) = server.reports
    losses = [epoch["loss"] for epoch in report.detail["epochs"]]
    assert len(losses) == 2 and losses[0] < losses[1]
    ((adapter, (manifest, _)),) = server.adapters.items()
    assert contrary.isdisjoint(manifest.groups) and report.detail["kept_back"] >= len(contrary)

    server.adapters.clear()
    server.owner = ""
    server.config["learner"] |= {"patience": 3}
    assert make_learner("patient").run() == 0
    assert len(server.reports[-1].detail["epochs"]) == 4
    ((patient, _),) = server.adapters.items()
    first, second = weights(server, patient), server.adapters[patient][0]
    assert second.files == manifest.files and first, "four epochs or two: the first is the best"
    assert adapter


@pytest.mark.parametrize("times", [7, 9, 15])
def test_killed_and_resumed_it_keeps_the_same_epoch(
    times: int, server: FakeServer, make_learner: MakeLearner, contrary: set[str]
) -> None:
    assert make_learner("whole").run() == 0
    ((_, (expected, _)),) = server.adapters.items()
    server.adapters.clear()
    server.owner = ""
    _, at = killer("step", times=times)
    with pytest.raises(Killed):
        make_learner("killed", at=at).run()
    assert make_learner("killed").run() == 0
    ((_, (manifest, _)),) = server.adapters.items()
    assert manifest.files == expected.files and contrary
    assert [len(report.detail["epochs"]) for report in server.reports] == [2, 2]
