"""What the benchmark of recipes counts, and whose signals it turns round."""

from __future__ import annotations

import httpx
import pytest

from benchmarks._study import Quality, TurnedRound
from benchmarks.alignment import DPO, DPO_FLIPPED, KTO, LCPO_FLIPPED, TRL, Took, summarise
from clients.demo.statistics import Figure
from server.wire.training import FeedEntry, FeedPage, Pair, TrainingGroup, Unpaired


def quality(hallucination: float, coverage: float) -> Quality:
    """With intervals of .02 to either side."""
    return Quality(*(Figure(one, one - 0.02, one + 0.02) for one in (hallucination, coverage, 0.0)))


def feed(groups: int) -> FeedPage:
    """Each group with a choice, a pair that a rule made, and a thumb."""
    entries = []
    for number in range(groups):
        chosen, rejected = f"g{number}.0", f"g{number}.1"
        pairs = [
            Pair(chosen=chosen, rejected=rejected, source="choice", weight=1, annotator="ann"),
            Pair(chosen=chosen, rejected=rejected, source="safety", weight=1, annotator=""),
        ]
        thumb = Unpaired(candidate=chosen, desirable=True, weight=1, annotator="bob")
        group = TrainingGroup(
            id=f"g{number}",
            alias="a",
            generation=0,
            prompt_token_ids=[1],
            images=[],
            base_digest="0" * 64,
            on_policy_sampling=True,
            candidates=[],
            pairs=pairs,
            unpaired=[thumb],
        )
        entries.append(FeedEntry(seq=number + 1, group_id=group.id, revision=1, kind="signal", group=group))
    return FeedPage(entries=entries, next=groups, head=groups)


def turned(flips: float, monkeypatch: pytest.MonkeyPatch, groups: int = 400) -> list[TrainingGroup]:
    page = feed(groups).model_dump_json()
    monkeypatch.setattr(httpx.Client, "send", lambda self, request, **_: httpx.Response(200, text=page))
    with TurnedRound("http://localhost", {}, flips) as client:
        return [entry.group for entry in client.training_feed("a", 0).entries if entry.group is not None]


@pytest.mark.parametrize("flips", [0.0, 0.25, 1.0])
def test_so_many_signals_are_turned_round(flips: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices and thumbs alike; what a rule found stays as it is."""
    groups = turned(flips, monkeypatch)
    choices = sum(group.pairs[0].chosen.endswith(".1") for group in groups)
    thumbs = sum(not group.unpaired[0].desirable for group in groups)
    assert choices / len(groups) == pytest.approx(flips, abs=0.06)
    assert thumbs / len(groups) == pytest.approx(flips, abs=0.06)
    assert all(group.pairs[1].chosen.endswith(".0") for group in groups)


def test_every_recipe_sees_the_same_signals_turned_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise recipes would be compared on different data."""
    assert turned(0.3, monkeypatch, 50) == turned(0.3, monkeypatch, 50)


def test_no_worse_than_trl_is_counted_seed_by_seed() -> None:
    """Better or alike within the intervals counts; inventing more or naming less, beyond them, does not."""
    found = {
        "base": [quality(0.5, 0.99)],
        DPO.name: [quality(0.10, 0.98), quality(0.22, 0.98), quality(0.10, 0.90), quality(0.30, 0.98)],
        TRL: [quality(0.20, 0.97)] * 4,
        KTO.name: [quality(0.25, 0.97)] * 4,
        DPO_FLIPPED.name: [quality(0.34, 0.97)] * 4,
        LCPO_FLIPPED.name: [quality(0.18, 0.97)] * 4,
    }
    figures = summarise(found, {DPO.name: [Took(10.0, 20.0)] * 4, TRL: [Took(40.0, 50.0)] * 4})
    assert figures["quality_vs_trl"] == 0.5
    assert figures["wall_clock_vs_trl"] == 0.25
    assert figures["process_vs_trl"] == 0.4
    assert figures["kto_thumbs_halves"] == 1.0
    assert figures["lcpo_retained"] == pytest.approx(0.32 / 0.32)
    assert figures["dpo_retained"] == pytest.approx(0.16 / 0.32)
