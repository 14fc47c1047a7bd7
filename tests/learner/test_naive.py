"""What objectives see, against the obvious computation: a plain forward for every answer, with all its logits.

Values, losses and the gradients of every LoRA matrix, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from learner.augmentation import AUGMENTATIONS, changed, reader
from learner.batch import Collator
from learner.branches import find_partners
from learner.examples import Answer, Example, Limits, Wanted, prepare
from learner.model import Base, Policy
from learner.objectives import OBJECTIVES, Batch, Needs, View
from learner.objectives.base import STATISTICS
from learner.prefix import Packed, PrefixModel, Row
from learner.references import References
from learner.settings import Settings
from learner.vision import Vision, _decode
from server.wire.training import TrainingGroup
from tests.learner.fake_server import FakeServer, candidate, make_group, pair, thumb
from tests.learner.test_prefix import double, lora
from tests.learner.tiny import EOS, IMAGE, TARGETS, VOCABULARY, image_processor, tiny_model

Asked = Sequence[tuple[Example, tuple[str, ...], Answer]]
"""Answers with their prompts, and the names of the images that they are shown."""
EXACT = {"rtol": 1e-9, "atol": 1e-12}
REFERENCES = ("base", "previous")


@dataclass
class Both:
    """The same batch, and the parameters that both are functions of."""

    ours: Batch
    naive: Batch
    parameters: list[Tensor]


def group(number: int, server: FakeServer) -> TrainingGroup:
    """Two answers of which several people chose, one that a person typed, thumbs, and three with rewards."""
    plain = make_group(number, "0" * 64, server)
    good, bad = plain.candidates
    typed = candidate(f"typed{number}", [11, 12 + number, 13, 14, EOS], adapter="human", logprobs=[-2.0] * 5)
    drawn = [
        candidate(f"r{number}-{place}", [10] * place + [20] * (3 - place), total=place / 2, logprobs=[-2.0] * 3)
        for place in range(3)
    ]
    said = [pair(good.id, bad.id), pair(good.id, bad.id, annotator="bob"), pair(bad.id, good.id, annotator="eve")]
    corrected = [pair(typed.id, good.id, source="correction", annotator="bob")]
    changes = {
        "candidates": [good, bad.model_copy(update={"adapter": "000001-aaaaaaaa"}), typed, *drawn],
        "pairs": [*said, *(corrected if number else [])],
        "unpaired": [thumb(good.id, True), thumb(bad.id, False)],
        "rewarded": True,
    }
    return plain.model_copy(update=changes)


def policy_of(base_dir: Path) -> Policy:
    base = Base(base_dir, "cpu")
    double(base.model)
    policy = Policy.fresh(base, Settings(rank=2, target_modules=TARGETS), seed=1)
    policy.model.double()
    move(policy, 1)
    return policy


def move(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters.values():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.1)


@pytest.fixture(scope="module")
def both(base_dir: Path) -> Both:
    server = FakeServer(str(base_dir), "0" * 64)
    limits = Limits("0" * 64, VOCABULARY, 512, IMAGE)
    found = [prepare(group(number, server), limits, Wanted(kinds=frozenset(Needs))).example for number in range(3)]
    examples = [one for one in found if one is not None]
    policy = policy_of(base_dir)
    references = References(policy, "base", begins_at_base=False)
    move(policy, 2)
    vision = Vision(policy.base.model, base_dir, reader(server.images.__getitem__), 2**30)
    engine = PrefixModel(policy.model, logits_per_chunk=VOCABULARY * 4)
    wanted = {"others": REFERENCES, "views": AUGMENTATIONS, "statistics": STATISTICS, "marker": ()}
    collator = Collator(references, engine, vision, 2**20, **wanted)  # type: ignore[arg-type]
    collator.branches.partners = find_partners(examples)
    ours = collator.batch(examples)
    naive = _Naive(policy, references, reader(server.images.__getitem__))
    answers = [(one, one.images, answer) for one in examples for _, answer in collator.branches.of(one)]
    return Both(ours, naive.batch(ours, examples, answers), list(policy.parameters.values()))


class _Naive:
    """One ordinary forward for each answer."""

    def __init__(self, policy: Policy, references: References, read: Callable[[str], bytes]) -> None:
        self._policy = policy
        self._references = references
        self._read = read

    def batch(self, ours: Batch, examples: list[Example], answers: Asked) -> Batch:
        """`ours` with every value that comes from the model made anew."""
        whole = self._distributions(answers)
        with torch.no_grad():
            by_reference = {}
            for name in REFERENCES:
                with self._references.standing_in(name):
                    by_reference[name] = self._distributions(answers)
        ends = [own[:, EOS] - other[:, EOS] for own, other in zip(whole, by_reference["base"], strict=True)]
        kl = [(other.exp() * (other - own)).sum(-1) for own, other in zip(whole, by_reference["base"], strict=True)]
        references = {name: _chosen(found, answers) for name, found in by_reference.items()}
        return replace(
            ours,
            logprobs=_chosen(whole, answers),
            reference=references["base"],
            references=references,
            views={name: self._view(ours, name, examples) for name in ours.views},
            statistics={
                "entropy": pad_sequence([-(one.exp() * one).sum(-1) for one in whole], batch_first=True),
                "reference_kl": pad_sequence(kl, batch_first=True),
                "end_ratio": pad_sequence(ends, batch_first=True),
            },
        )

    def _view(self, ours: Batch, name: str, examples: list[Example]) -> View:
        seen = [
            (example, tuple(changed(name, image) for image in example.images), example.answers[one.chosen])
            for example in examples
            for one in example.pairs
        ]
        with torch.no_grad(), self._references.standing_in("base"):
            reference = _chosen(self._distributions(seen), seen)
        logprobs = _chosen(self._distributions(seen), seen)
        return replace(ours.views[name], logprobs=logprobs, reference=reference)

    def _distributions(self, answers: Asked) -> list[Tensor]:
        found = []
        for example, images, answer in answers:
            ids = torch.tensor([[*example.prompt, *answer.token_ids]])
            pixels = dict(image_processor()(images=[_decode(self._read(one)) for one in images], return_tensors="pt"))
            pixels["pixel_values"] = pixels["pixel_values"].double()
            logits = self._policy.model(input_ids=ids, mm_token_type_ids=(ids == IMAGE).int(), **pixels).logits[0]
            found.append(torch.log_softmax(logits[len(example.prompt) - 1 : -1], -1))
        return found


def _chosen(distributions: list[Tensor], answers: Asked) -> Tensor:
    tokens = [torch.tensor(answer.token_ids)[:, None] for _, _, answer in answers]
    return pad_sequence(
        [found.gather(-1, ids)[:, 0] for found, ids in zip(distributions, tokens, strict=True)], batch_first=True
    )


def gradients(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([one.flatten() for one in found])


def assert_same_gradients(ours: Tensor, naive: Tensor, parameters: list[Tensor]) -> None:
    found, expected = gradients(ours, parameters), gradients(naive, parameters)
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, **EXACT)


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_is_that_of_the_whole_distribution(name: str, both: Both) -> None:
    """At every token of every answer, the borrowed ones too; its gradient as well, through chunks of four tokens."""
    ours, naive = both.ours.statistics[name], both.naive.statistics[name]
    torch.testing.assert_close(ours, naive, **EXACT)
    assert (ours[both.ours.mask] != 0).all()
    weights = torch.linspace(-1, 2, ours.numel(), dtype=ours.dtype).view_as(ours) * both.ours.mask
    assert_same_gradients((ours * weights).sum(), (naive * weights).sum(), both.parameters)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_is_that_of_separate_rows(name: str, both: Both) -> None:
    """With its own defaults, every example weighted unlike the others; those by a margin with one that bites."""
    objective = OBJECTIVES[name](**({"margin": 50.0} if name == "dro" else {}))
    ours, naive = objective.losses(both.ours), objective.losses(both.naive)
    torch.testing.assert_close(ours, naive, **EXACT)
    weights = torch.linspace(0.5, 1.5, len(ours), dtype=ours.dtype)
    assert_same_gradients((ours * weights).sum(), (naive * weights).sum(), both.parameters)


def test_what_people_typed_and_base_drew_is_known(both: Both) -> None:
    """In the second group bob typed an answer, its third, which is gold for everybody's pairs; in the first nobody did.

    Base drew the first answer of a group, another adapter the second.
    """
    gold, chosen, drawn = both.ours.gold, both.ours.chosen, both.ours.drawn_by_base
    assert gold is not None and drawn is not None
    assert gold[:3].tolist() == chosen[:3].tolist()
    second = int(chosen[3])
    assert gold[3:7].tolist() == [second + 2] * 4
    assert drawn[second : second + 3].tolist() == [True, False, False]


def test_nothing_is_computed_that_nobody_asks_for(base_dir: Path) -> None:
    """The whole distribution is dear."""
    server = FakeServer(str(base_dir), "0" * 64)
    example = prepare(make_group(0, "0" * 64, server), Limits("0" * 64, VOCABULARY, 512, IMAGE), Wanted()).example
    assert example is not None
    policy = policy_of(base_dir)
    vision = Vision(policy.base.model, base_dir, server.images.__getitem__, 2**30)
    engine = _Counting(policy.model)
    references = References(policy, "previous", begins_at_base=False)
    passes = {}
    for asked in ((), ("entropy",), ("reference_kl",)):
        collator = Collator(references, engine, vision, 4096, statistics=asked)
        collator.prepare_reference([example])
        engine.passes = 0
        assert collator.batch([example]).statistics.keys() == set(asked)
        passes[asked] = engine.passes
    assert passes == {(): 1, ("entropy",): 1, ("reference_kl",): 2}


class _Counting(PrefixModel):
    """Counts forward passes."""

    passes = 0

    def hidden(self, packed: Packed) -> Tensor:
        self.passes += 1
        return super().hidden(packed)


def test_statistics_of_an_adapted_head() -> None:
    """The reference's head is another than the policy's, also when the chunk is made again in the backward pass."""
    targets = r".*(q_proj|lm_head)"
    model = lora(double(tiny_model()), targets=targets).double()
    rows = [Row((2, 30, 31), (), ((35, 36, 37), (38,)))]
    engine = PrefixModel(model, logits_per_chunk=VOCABULARY * 2)
    packed = engine.pack(rows)
    with torch.no_grad(), model.disable_adapter():
        reference = engine.hidden(packed)
        other = torch.cat([torch.log_softmax(logits, -1) for logits in plain_logits(model, rows)])
    own = torch.cat([torch.log_softmax(logits, -1) for logits in plain_logits(model, rows)])
    expected = (other.exp() * (other - own)).sum(-1)
    hidden = engine.hidden(packed)
    found = engine.reference_kl(hidden, reference, model.disable_adapter)
    torch.testing.assert_close(found, expected, **EXACT)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert_same_gradients(found.square().sum(), expected.square().sum(), parameters)
    entropy = engine.entropy(hidden)
    assert_same_gradients(entropy.square().sum(), (own.exp() * own).sum(-1).square().sum(), parameters)


def plain_logits(model: torch.nn.Module, rows: list[Row]) -> list[Tensor]:
    return [
        model(input_ids=torch.tensor([[*row.prompt, *answer]])).logits[0, len(row.prompt) - 1 : -1]
        for row in rows
        for answer in row.answers
    ]
