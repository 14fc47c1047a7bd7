"""Rounds by other recipes than the default: every objective, references, views, rewards, weightings, mixtures."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from learner.augmentation import AUGMENTATIONS, changed, reader
from learner.batch import Collator
from learner.examples import Example, Limits, Prepared, UnpairedExample, Wanted, prepare
from learner.model import Base, Policy
from learner.objectives import OBJECTIVES, Needs
from learner.prefix import PrefixModel
from learner.references import References
from learner.settings import Settings
from learner.successes import with_contrast
from learner.vision import Vision
from server.wire.training import TrainingGroup
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer, candidate, make_group, pair, thumb
from tests.learner.test_round import Killed, killer, weights
from tests.learner.tiny import EOS, TARGETS, image_prompt, png


def rewarded_group(number: int, server: FakeServer, **changes: object) -> TrainingGroup:
    """Four answers of base's, worth the more the oftener they say 10; nobody said anything."""
    candidates = [
        candidate(f"r{number:03d}-{place}", [10] * place + [20] * (3 - place) + [EOS], total=float(place))
        for place in range(4)
    ]
    values = {"id": f"r{number:03d}", "candidates": candidates, "pairs": [], "unpaired": [], "rewarded": True}
    return make_group(number, server.base_digest, server, **{**values, **changes})


def with_logged(server: FakeServer, base_dir: Path) -> None:
    """Log-probabilities as base has them, in every rewarded group: what the engine would have logged."""
    base = Base(base_dir, "cpu")
    policy = Policy.fresh(base, Settings(rank=2, target_modules=TARGETS), seed=1)
    vision = Vision(base.model, base_dir, server.images.__getitem__, 2**30)
    engine = PrefixModel(policy.model)
    collator = Collator(References(policy, "base", begins_at_base=True), engine, vision, 4096)
    limits = Limits(server.base_digest, base.vocabulary, base.max_positions, base.image_token_id)
    wanted = Wanted(kinds=frozenset({Needs.REWARDED}))
    for group in list(server.groups.values()):
        if group is None or not group.rewarded:
            continue
        example = prepare(group, limits, wanted).example
        assert example is not None
        with torch.no_grad():
            values = engine.logprobs(collator.rows([example]))
        logged = {answer.candidate: found.tolist() for answer, found in zip(example.answers, values, strict=True)}
        told = [one.model_copy(update={"logprobs": logged.get(one.id, one.logprobs)}) for one in group.candidates]
        server.groups[group.id] = group.model_copy(update={"candidates": told})
    policy.close()


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_a_round_by_every_objective_moves_towards_what_was_liked(
    name: str, server: FakeServer, make_learner: MakeLearner, base_dir: Path
) -> None:
    """Alone, with its own defaults: uploaded, the margin grew, and only what it learns from is counted.

    `discopop` alone begins the wrong way with its own (`test_pairwise`).
    """
    kind = OBJECTIVES[name]
    options = {"npo": {"beta": 1.0}, "discopop": {"tau": 0.5}}.get(name, {})
    if kind.needs is Needs.REWARDED:
        for number in range(12):
            server.tell(rewarded_group(number, server))
        with_logged(server, base_dir)
    server.config["learner"] |= {"objectives": {name: 1.0}, "options": {name: options}, "weighting": {}}
    assert make_learner().run() == 0, server.reports
    (report,) = server.reports
    assert report.outcome == "uploaded" and report.detail["steps_discarded"] == 0
    assert report.detail["after"]["margin"] > report.detail["before"]["margin"]
    ((manifest, _),) = server.adapters.values()
    kinds = {Needs.PAIRS: {"choice"}, Needs.UNPAIRED: {"thumb_up", "thumb_down"}, Needs.REWARDED: {"reward"}}
    assert set(manifest.sources) == kinds[kind.needs]


@pytest.mark.parametrize("name", ["ipo", "simpo", "mdpo", "npo", "grpo", "cispo"])
def test_the_guards_hold_for_every_kind_of_objective(
    name: str, server: FakeServer, make_learner: MakeLearner, base_dir: Path
) -> None:
    """Weights that blow up: steps are discarded by name, five in a row end the round, and nothing is uploaded."""
    if OBJECTIVES[name].needs is Needs.REWARDED:
        for number in range(12):
            server.tell(rewarded_group(number, server))
        with_logged(server, base_dir)
    server.config["learner"] |= {"objectives": {name: 1.0}, "learning_rate": 1e30, "epochs": 8}
    assert make_learner().run() == 1 and not server.adapters
    (report,) = server.reports
    assert report.outcome == "discarded" and "in a row were discarded" in report.reason
    assert sum(report.detail["discard_reasons"].values()) == report.detail["steps_discarded"] == 5


def test_groups_that_were_served_anyway_train_off_policy(
    server: FakeServer, make_learner: MakeLearner, base_dir: Path
) -> None:
    """Without one human word; beside human words, all in one batch."""
    server.entries.clear()
    for number in range(12):
        server.tell(rewarded_group(number, server))
    with_logged(server, base_dir)
    server.config["learner"] |= {"objectives": {"sigmoid": 1.0, "kto": 0.5, "grpo": 1.0}}
    assert make_learner("alone").run() == 0
    assert (server.reports[0].detail["signals"], server.reports[0].detail["groups"]) == (0, 12)
    server.owner = ""
    for number in range(12):
        group = make_group(number, server.base_digest, server)
        good, bad = group.candidates
        safety = pair(good.id, bad.id, source="safety", annotator="rule") if number % 2 else None
        both = rewarded_group(number, server)
        told = server.groups[both.id]
        assert told is not None
        mixed = {
            "candidates": [*told.candidates, good, bad],
            "pairs": [*group.pairs, *([safety] if safety else [])],
            "unpaired": group.unpaired,
        }
        server.tell(told.model_copy(update=mixed))
    assert make_learner("mixed").run() == 0
    manifest, _ = list(server.adapters.values())[1]
    assert manifest.sources == {"choice": 8, "safety": 6, "thumb_up": 4, "thumb_down": 4, "reward": 48}


def limits() -> Limits:
    return Limits("0" * 64, 64, 512, 61)


def prepared(server: FakeServer, wanted: Wanted, **changes: object) -> Prepared:
    return prepare(rewarded_group(0, server, base_digest="0" * 64, **changes), limits(), wanted)


REWARDED = Wanted(kinds=frozenset({Needs.REWARDED}))


def test_only_eligible_answers_are_rewarded(server: FakeServer) -> None:
    """Nothing of a group that the server does not call so; no blocked, redacted, typed, stale or poisoned answer."""
    usual = prepared(server, REWARDED).example
    assert usual is not None and [one.reward for one in usual.rewarded] == [0, 1, 2, 3]
    assert prepared(server, REWARDED, rewarded=False).example is None
    assert prepared(server, Wanted()).example is None, "no objective wants rewards"
    assert prepared(server, Wanted(kinds=REWARDED.kinds, source_weights={"reward": 0.0})).example is None
    ids = [5, 6]
    odd = {
        "blocked": candidate("a", ids, total=9.0, blocked=True),
        "redacted": candidate("a", ids, total=9.0, may_be_positive=False),
        "typed": candidate("a", ids, total=9.0, adapter="human"),
        "imported": candidate("a", ids, total=9.0, adapter="import", logprobs=[]),
        "unscored": candidate("a", ids),
    }
    for name, one in odd.items():
        group = rewarded_group(0, server)
        found = prepared(server, REWARDED, candidates=[*group.candidates, one])
        assert found.example is not None and not found.skipped, name
        assert [answer.candidate for answer in found.example.answers] == [one.id for one in group.candidates], name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"total": float("nan")}, "reward is not a number"),
        ({"total": 9.0, "token_ids": [], "logprobs": []}, "empty answer"),
        ({"total": 9.0, "logprobs": [-1.0]}, "log-probabilities do not match the tokens"),
        ({"total": 9.0, "logprobs": [-1.0, float("nan")]}, "log-probability is not finite"),
        ({"total": 9.0, "token_ids": [5] * 4000, "logprobs": [-1.0] * 4000}, "longer than the model's context"),
        ({"total": 9.0, "adapter": "000001-aaaaaaaa"}, "sampled too many adapters ago"),
    ],
)
def test_poisoned_rewards_are_skipped_with_a_reason(changes: dict[str, object], said: str, server: FakeServer) -> None:
    """The group's other answers stay."""
    lineage = tuple(f"{number:06d}-aaaaaaaa" for number in (30, 20, 10, 5, 4, 3, 2, 1))
    wanted = Wanted(kinds=REWARDED.kinds, lineage=(*lineage, "base"), max_staleness=6)
    fresh = [one.model_copy(update={"adapter": lineage[0]}) for one in rewarded_group(0, server).candidates]
    poisoned = candidate("a", [5, 6], adapter=lineage[0]).model_copy(update=changes)
    found = prepared(server, wanted, candidates=[*fresh, poisoned])
    assert found.skipped == (said,)
    assert found.example is not None and len(found.example.rewarded) == 4


def test_an_answer_of_one_token_teaches_and_rewards_that_are_alike_do_not(server: FakeServer) -> None:
    """Whatever is long enough to have a log-probability counts; nothing follows from equals."""
    ones = [candidate("a", [5], total=1.0), candidate("b", [6], total=0.0)]
    found = prepared(server, REWARDED, candidates=ones).example
    assert found is not None and len(found.rewarded) == 2
    assert with_contrast([found], None) == ([found], 0)
    alike = replace(found, rewarded=tuple(replace(one, reward=1.0) for one in found.rewarded))
    assert with_contrast([alike], None) == ([], 1)
    spoken = replace(alike, unpaired=(UnpairedExample(0, True, 1.0, "ann"),))
    (kept,), dropped = with_contrast([spoken], None)
    assert dropped == 1 and (kept.rewarded, len(kept.answers), kept.unpaired) == ((), 1, spoken.unpaired)


def test_a_group_that_failed_borrows_a_success(server: FakeServer) -> None:
    """In its worst answer's place, of the same question only, and with the log-probabilities that it was drawn with."""

    def example(name: str, *rewards: float, word: int = 5) -> Example:
        answers = [candidate(f"{name}{place}", [7 + place], total=reward) for place, reward in enumerate(rewards)]
        ids = list(image_prompt(4, words=(word,)))
        group = rewarded_group(0, server, base_digest="0" * 64, id=name, candidates=answers, prompt_token_ids=ids)
        found = prepare(group, limits(), REWARDED).example
        assert found is not None
        return found

    success, failed, other = example("s", 0.1, 0.9), example("f", 0.02, 0.0, 0.01), example("o", 0.0, 0.0, word=6)
    (_, helped), alike = with_contrast([success, failed, other], below=0.2)
    assert alike == 1, "nobody ever answered the other question well"
    assert [one.reward for one in helped.rewarded] == [0.02, 0.01, 0.9]
    borrowed = helped.answers[helped.rewarded[-1].answer]
    assert (borrowed.owner, borrowed.candidate, borrowed.logprobs) == ("s", "s1", success.answers[1].logprobs)
    assert with_contrast([success, failed], below=None)[0] == [success, failed]
    assert with_contrast([success, failed], below=0.001)[0] == [success, failed], "not poor enough"


def test_a_success_goes_with_the_group_that_it_came_from(
    server: FakeServer, make_learner: MakeLearner, base_dir: Path
) -> None:
    """Erased in mid-round, its answer leaves the group that had borrowed it; before, the manifest names both."""
    server.entries.clear()
    for number in (0, 20):  # the same question
        server.tell(rewarded_group(number, server, images=[server.add_image(png(0))]))
    poor = server.groups["r020"]
    assert poor is not None
    alike = [one.model_copy(update={"total": 0.0}) for one in poor.candidates]
    server.groups["r020"] = poor.model_copy(update={"candidates": alike})
    with_logged(server, base_dir)
    server.config["learner"] |= {"objectives": {"grpo": 1.0}, "success_below": 0.2, "batch_groups": 1}
    assert make_learner("whole").run() == 0
    ((manifest, _),) = server.adapters.values()
    assert manifest.groups == ["r000", "r020"] and server.reports[0].detail["skipped"] == {}
    server.owner = ""

    def at(point: str) -> None:
        if point == "prepared":
            server.erase("r000")

    make_learner("erased", at=at).run()
    report = server.reports[-1]
    assert report.outcome == "discarded" and report.detail["after"]["examples"] == 0, "nothing was left"


def test_staleness_is_counted_along_the_lineage() -> None:
    """Adapters that were never ancestors of the present one make nothing older."""
    wanted = Wanted(lineage=("000012-aaaaaaaa", "000007-aaaaaaaa", "base"))
    ages = [wanted.staleness(name) for name in ("base", "000003-cccccccc", "000007-aaaaaaaa", "000012-aaaaaaaa")]
    assert ages == [2, 2, 1, 0]


def test_a_stale_group_is_left_out_by_the_servers_own_lineage(
    server: FakeServer, make_learner: MakeLearner, base_dir: Path
) -> None:
    """One adapter further, and no staleness allowed: base's answers train no policy gradient any more."""
    for number in range(4):
        server.tell(rewarded_group(number, server))
    with_logged(server, base_dir)
    server.config["learner"] |= {"objectives": {"sigmoid": 1.0, "grpo": 0.1}, "max_staleness": 0}
    assert make_learner().run() == 0
    (first,) = server.adapters
    server.active, server.states[first], server.owner = first, "active", ""
    server.tell(make_group(20, server.base_digest, server))
    make_learner().run()
    assert server.reports[1].detail["skipped"]["sampled too many adapters ago"] == 16
    assert "sampled too many adapters ago" not in server.reports[0].detail["skipped"]


def test_sources_have_weights(server: FakeServer, make_learner: MakeLearner) -> None:
    """0 leaves a source out."""
    server.config["learner"] |= {"source_weights": {"thumb": 0.0, "choice": 2.0}}
    assert make_learner().run() == 0
    ((manifest, _),) = server.adapters.values()
    assert manifest.sources == {"choice": 8}
    example = prepare(make_group(0, "0" * 64, server), limits(), Wanted(source_weights={"choice": 2.0})).example
    assert example is not None and [one.weight for one in example.pairs] == [2.0]


# --- references and views ---------------------------------------------------------------------------------


@pytest.fixture
def policy(base_dir: Path) -> Policy:
    policy = Policy.fresh(Base(base_dir, "cpu"), Settings(rank=2, target_modules=TARGETS), seed=1)
    shake(policy, 1)
    return policy


def shake(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters.values():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def examples(server: FakeServer, *numbers: int) -> list[Example]:
    groups = [make_group(number, "0" * 64, server) for number in numbers]
    found = [prepare(group, limits(), Wanted()).example for group in groups]
    return [one for one in found if one is not None]


def test_references_are_what_they_say(policy: Policy, server: FakeServer, base_dir: Path) -> None:
    """The previous policy stays what it was, the average lies between, base is base; afterwards the policy is back."""
    vision = Vision(policy.base.model, base_dir, server.images.__getitem__, 2**30)
    engine = PrefixModel(policy.model)
    references = References(policy, "ema", begins_at_base=False, ema_decay=0.5)
    collator = Collator(references, engine, vision, 4096, others=["previous", "base"])
    parts = examples(server, 0, 1)
    first = collator.batch(parts)
    torch.testing.assert_close(first.references["previous"], first.logprobs.detach())
    torch.testing.assert_close(first.reference, first.logprobs.detach())
    assert not torch.allclose(first.references["base"], first.logprobs.detach())
    start = {name: value.detach().clone() for name, value in policy.parameters.items()}
    shake(policy, 2)
    references.follow()
    for name, value in references.tensors().items():
        torch.testing.assert_close(value, (start[name] + policy.parameters[name].data) / 2)
    second = collator.batch(parts)
    torch.testing.assert_close(second.references["previous"], first.references["previous"])
    torch.testing.assert_close(second.references["base"], first.references["base"])
    for other in (second.logprobs, first.reference):
        assert not torch.allclose(second.reference, other.detach())


def test_at_the_base_the_previous_policy_is_the_base(base_dir: Path, server: FakeServer) -> None:
    """A fresh adapter changes nothing: no second forward pass for it."""
    policy = Policy.fresh(Base(base_dir, "cpu"), Settings(rank=2, target_modules=TARGETS), seed=1)
    references = References(policy, "base", begins_at_base=True)
    assert references.resolve("previous") == "base"
    vision = Vision(policy.base.model, base_dir, server.images.__getitem__, 2**30)
    batch = Collator(references, PrefixModel(policy.model), vision, 4096, others=["previous"]).batch(
        examples(server, 0)
    )
    torch.testing.assert_close(batch.references["previous"], batch.logprobs.detach())


def test_a_view_is_the_chosen_answer_under_the_changed_image(
    policy: Policy, server: FakeServer, base_dir: Path
) -> None:
    """Equal to running it alone with the cropped bytes; groups without images or pairs have none."""
    plain = make_group(3, "0" * 64, server, images=[], prompt_token_ids=[2, 5, 6])
    bare = prepare(plain, limits(), Wanted()).example
    assert bare is not None
    parts = [*examples(server, 0, 2, 4), bare]  # 2 has thumbs only
    vision = Vision(policy.base.model, base_dir, reader(server.images.__getitem__), 2**30)
    engine = PrefixModel(policy.model)
    references = References(policy, "base", begins_at_base=False)
    batch = Collator(references, engine, vision, 8192, views=["crop"]).batch(parts)
    view = batch.views["crop"]
    assert view.pairs.tolist() == [0, 1] and len(batch.chosen) == 3
    cropped = {f"c{image}": reader(server.images.__getitem__)(changed("crop", image)) for image in server.images}
    apart = Vision(policy.base.model, base_dir, cropped.__getitem__, 2**30)
    for row, example in enumerate((parts[0], parts[2])):
        answer = example.answers[example.pairs[0].chosen]
        alone = Example("x", example.prompt, tuple(f"c{image}" for image in example.images), (answer,), (), ())
        (expected,) = engine.logprobs(Collator(references, engine, apart, 8192).rows([alone]))
        found = view.logprobs[row][view.mask[row]]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        whole = batch.logprobs[batch.chosen[int(view.pairs[row])]]
        assert not torch.allclose(found, whole[: len(found)])


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_a_changed_image_has_its_size_and_is_always_the_same(name: str) -> None:
    """So it has as many tokens, and its features can be computed once. Bytes that are no image stay what they are."""
    pictures = {"a": png(1, 96, 64), "b": png(2, 1, 1), "c": b"no image"}
    read = reader(pictures.__getitem__)
    assert read("a") == pictures["a"] and read(changed(name, "c")) == b"no image"
    assert read(changed(name, "a")) == read(changed(name, "a")) != pictures["a"]
    for image, size in (("a", (96, 64)), ("b", (1, 1))):
        with Image.open(io.BytesIO(read(changed(name, image)))) as made:
            assert made.size == size


def test_an_erased_image_takes_its_changed_ones_with_it(server: FakeServer, make_learner: MakeLearner) -> None:
    """From the cache of features, in mid-round."""
    server.config["learner"] |= {"objectives": {"mdpo": 1.0}}
    learner = make_learner()
    places = []
    opened = learner._open
    learner._open = lambda directory: places.append(opened(directory)) or places[0]  # type: ignore[method-assign,func-returns-value]
    image = server.groups["g001"].images[0]  # type: ignore[union-attr]
    held: list[bool] = []

    def at(point: str) -> None:
        if places and point == "step":
            held.append(changed("crop", image) in places[0].vision._cache)
            if len(server.entries) == 12:
                for name in ("g001", "g006", "g011"):
                    server.erase(name)

    learner._at = at
    assert learner.run() == 0
    assert held[0] and not any(held[1:])


RECIPES = {
    "lcpo and an average": {"weighting": {"pairs": "lcpo", "unpaired": "lcpo"}, "reference": "ema", "ema_decay": 0.8},
    "mdpo against the previous": {"objectives": {"mdpo": 1.0, "npo": 0.1}, "reference": "previous"},
    "uncertainty": {"weighting": {"pairs": "uncertainty", "unpaired": "uncertainty"}},
}


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_killed_round_is_resumed_to_the_same_adapter(
    recipe: str, server: FakeServer, make_learner: MakeLearner
) -> None:
    """Averages and reliabilities stand in the checkpoint too; the round before gives them something to differ from."""
    assert make_learner("first").run() == 0
    (first,) = server.adapters
    server.active, server.states[first], server.owner = first, "active", ""
    server.config["learner"] |= {"learning_rate": 2e-3, **RECIPES[recipe]}
    server.tell(make_group(20, server.base_digest, server))
    assert make_learner("whole").run() == 0, server.reports
    whole = weights(server, server.reports[-1].adapter or "")
    said = server.reports[-1].detail["reliabilities"]
    server.owner = ""
    _, at = killer("step", times=5)
    with pytest.raises(Killed):
        make_learner("killed", at=at).run()
    server.owner = ""
    assert make_learner("killed").run() == 0
    again = weights(server, server.reports[-1].adapter or "")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert server.reports[-1].detail["reliabilities"] == said


def test_reliabilities_are_reported_per_annotator(server: FakeServer, make_learner: MakeLearner) -> None:
    """By default for thumbs: who says the opposite of everybody else stands first; the next round knows it already."""
    server.entries.clear()
    for number in range(60):
        group = make_group(number % 20, server.base_digest, server)
        name = f"t{number:03d}"
        good, bad = (one.model_copy(update={"id": one.id.replace(group.id, name)}) for one in group.candidates)
        liar = number % 6 == 0
        said = "liar" if liar else f"honest-{number % 6}"
        thumbs = [thumb(good.id, not liar, annotator=said), thumb(bad.id, liar, annotator=said)]
        server.tell(group.model_copy(update={"id": name, "candidates": [good, bad], "pairs": [], "unpaired": thumbs}))
    server.config["learner"] |= {"beta": 1.0, "epochs": 6, "max_annotator_share": 1.0}
    assert make_learner().run() == 0, server.reports
    reliabilities = server.reports[0].detail["reliabilities"]
    assert len(reliabilities) == 6
    assert next(iter(reliabilities)) == "liar" and reliabilities["liar"] < 0.75
    assert min(value for name, value in reliabilities.items() if name != "liar") > 0.85
    (first,) = server.adapters
    server.active, server.states[first], server.owner = first, "active", ""
    for number in range(1, 60, 6):  # one of the honest is heard no more
        server.erase(f"t{number:03d}")
    assert make_learner().run() == 0, server.reports
    later = server.reports[1].detail["reliabilities"]
    assert later["liar"] < reliabilities["liar"] and set(later) == set(reliabilities) - {"honest-1"}
