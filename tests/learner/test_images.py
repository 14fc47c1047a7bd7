"""What an answer owes to the image: views, retrieved images, and the objectives on them."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from learner.augmentation import AUGMENTATIONS, LEVELS, changed, every_change, reader
from learner.batch import Collator
from learner.examples import Example
from learner.model import Base, Policy
from learner.objectives import OBJECTIVES, Batch, View
from learner.prefix import PrefixModel
from learner.references import References
from learner.settings import Settings
from learner.views import Similar, Sketch, find_similar
from learner.vision import Vision
from tests.learner.batches import make_batch
from tests.learner.conftest import MakeLearner
from tests.learner.fake_server import FakeServer, make_group
from tests.learner.test_recipes import examples, shake
from tests.learner.tiny import TARGETS, png


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def seen(batch: Batch, name: str, delta: float, pair: int = 0) -> Batch:
    """The chosen answer of a pair with this Δ under another image."""
    view = View(
        logprobs=torch.tensor([[delta]], requires_grad=True),
        reference=torch.zeros(1, 1),
        mask=torch.tensor([[True]]),
        pairs=torch.tensor([pair]),
    )
    return replace(batch, views={name: view})


# --- the losses -------------------------------------------------------------------------------------------


def test_rdpo_by_hand() -> None:
    """With β .5, h 2.5 and 1.9, Δ_w 1 and under the other image -.6: the second pair has no other image."""
    losses = OBJECTIVES["rdpo"](beta=0.5).losses(seen(make_batch(), "retrieve", -0.6))
    first = -math.log(logistic(1.25)) - math.log(logistic(0.5 * 1.6))
    assert losses.tolist() == pytest.approx([first, -math.log(logistic(0.95))], rel=1e-5)


def test_cross_modality_by_hand() -> None:
    """The conditional term alone; nothing for a pair without another image, nor for one that nobody chose."""
    losses = OBJECTIVES["cross_modality"](beta=0.5).losses(seen(make_batch(), "blur", -0.6))
    assert losses.tolist() == pytest.approx([-math.log(logistic(0.8)), 0.0], rel=1e-5)
    losses = OBJECTIVES["cross_modality"](beta=0.5).losses(seen(make_batch(), "blur", -0.6, pair=1))
    assert losses.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("view", ["crop", "blur", "retrieve"])
def test_the_view_is_an_option(view: str) -> None:
    """Each objective asks for the one it is told, and reads no other."""
    for name in ("mdpo", "rdpo", "cross_modality"):
        made = OBJECTIVES[name](beta=0.5, view=view)  # type: ignore[call-arg]
        assert made.views == (view,)
        with_it, other = (seen(make_batch(), one, -0.6) for one in (view, "else"))
        assert made.losses(with_it)[0] > made.losses(other)[0]


@pytest.mark.parametrize(("name", "view"), [("mdpo", "crop"), ("rdpo", "retrieve"), ("cross_modality", "blur")])
def test_descent_makes_the_answer_depend_on_the_image(name: str, view: str) -> None:
    """Up with its image, down with the other one."""
    batch = seen(make_batch(), view, 0.3)
    OBJECTIVES[name](beta=0.5).losses(batch).sum().backward()
    other = batch.views[view].logprobs
    assert other.grad is not None and (other.grad > 0).all()
    assert batch.logprobs.grad is not None and (batch.logprobs.grad[0] < 0).all()


# --- which image ------------------------------------------------------------------------------------------


def shown(group: str, *images: str) -> Example:
    return Example(group, (2,), images, (), (), ())


def sketched(**means: tuple[float, float]) -> dict[str, Sketch]:
    return {name: Sketch((4,), torch.tensor(mean)) for name, mean in means.items()}


def test_the_most_similar_other_image_is_retrieved() -> None:
    """By direction from the centre; the same image in two groups is no other one; it is its first group's."""
    sketches = sketched(a=(1.0, 0.1), b=(1.0, 0.2), c=(-1.0, 0.0), d=(-1.0, -0.3))
    groups = [shown("g1", "a"), shown("g2", "b"), shown("g3", "b"), shown("g4", "c"), shown("g5", "d")]
    found = find_similar(groups, sketches)
    assert found == {
        "a": Similar("b", "g2"),
        "b": Similar("a", "g1"),
        "c": Similar("d", "g5"),
        "d": Similar("c", "g4"),
    }
    assert find_similar(reversed(groups), sketches)["a"] == Similar("b", "g3")
    assert find_similar(groups[1:3], sketches) == {}, "alone there is none"


def test_only_an_image_of_the_same_tokens_stands_in() -> None:
    """Else the prompt's placeholders would not fit."""
    sketches = sketched(a=(1.0, 0.1), b=(1.0, 0.2), c=(-1.0, 0.0))
    sketches["b"] = Sketch((6,), sketches["b"].mean)
    found = find_similar([shown("g1", "a"), shown("g2", "b"), shown("g3", "c")], sketches)
    assert found == {"a": Similar("c", "g3"), "c": Similar("a", "g1")}


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_a_weaker_change_leaves_more_of_the_image(name: str) -> None:
    """By the mean distance of pixels on a smooth picture; every level has its own name, which goes with the image."""
    smooth = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    buffer = io.BytesIO()
    smooth.save(buffer, "PNG")
    read = reader(lambda image: buffer.getvalue())

    def distance(level: int) -> float:
        total = 0.0
        for image in "abcdefgh":
            with Image.open(io.BytesIO(read(changed(name, image, level)))) as made:
                pixels = torch.tensor(list(made.convert("RGB").tobytes()), dtype=torch.float)
            total += float((pixels - torch.tensor(list(smooth.tobytes()))).abs().mean())
        return total

    distances = [distance(level) for level in range(LEVELS)]
    assert distances == sorted(distances, reverse=True) and distances[-1] > 0
    assert {changed(name, "a", level) for level in range(LEVELS)} <= set(every_change("a"))


# --- the forward pass -------------------------------------------------------------------------------------


@pytest.fixture
def policy(base_dir: Path) -> Policy:
    policy = Policy.fresh(Base(base_dir, "cpu"), Settings(rank=2, target_modules=TARGETS), seed=1)
    shake(policy, 1)
    return policy


def collator_of(policy: Policy, server: FakeServer, base_dir: Path, *views: str) -> Collator:
    vision = Vision(policy.base.model, base_dir, reader(server.images.__getitem__), 2**30)
    references = References(policy, "base", begins_at_base=False)
    return Collator(references, PrefixModel(policy.model), vision, 8192, views=views)


def test_a_retrieved_view_is_the_chosen_answer_under_the_other_groups_image(
    policy: Policy, server: FakeServer, base_dir: Path
) -> None:
    """Equal to a group that asks the same with that image; who has no other image takes part in the other view only."""
    parts = examples(server, 0, 1, 4)
    collator = collator_of(policy, server, base_dir, "retrieve", "blur")
    plain = collator_of(policy, server, base_dir)
    (first,), (second,) = parts[0].images, parts[1].images
    collator.similar = {first: Similar(second, parts[1].group)}
    batch = collator.batch([parts[0], parts[2]])
    assert batch.views["retrieve"].pairs.tolist() == [0] and batch.views["blur"].pairs.tolist() == [0, 1]
    for name, image in (("retrieve", second), ("blur", changed("blur", first))):
        reference = plain.batch([replace(parts[0], group=name, images=(image,))])
        view, chosen = batch.views[name], parts[0].pairs[0].chosen
        length = int(view.mask[0].sum())
        torch.testing.assert_close(view.logprobs[0, :length], reference.logprobs[chosen, :length], msg=image)
        torch.testing.assert_close(view.reference[0, :length], reference.reference[chosen, :length], msg=image)
        assert not torch.allclose(view.logprobs[0, :length], batch.logprobs[chosen, :length])


def test_who_lent_an_image_is_told_and_takes_it_back(policy: Policy, server: FakeServer, base_dir: Path) -> None:
    """An erased group's image is shown to nobody any more, and the values under it are forgotten."""
    parts = examples(server, 0, 1)
    collator = collator_of(policy, server, base_dir, "retrieve")
    collator.similar = {parts[0].images[0]: Similar(parts[1].images[0], parts[1].group)}
    collator.prepare_reference(parts)
    assert collator.lenders(parts) == {parts[1].group}
    assert any(key.lenders == (parts[1].group,) for key in collator._kept)
    collator.forget([parts[1].group])
    assert collator.similar == {} and collator.lenders(parts) == set()
    assert not any(parts[1].group in (key.group, *key.lenders) for key in collator._kept)
    assert collator.batch(parts[:1]).views == {}


def test_a_weaker_view_has_values_of_its_own(policy: Policy, server: FakeServer, base_dir: Path) -> None:
    """Policy and reference both see the image of the level."""
    parts = examples(server, 0)
    collator = collator_of(policy, server, base_dir, "crop")
    strong = collator.batch(parts).views["crop"]
    collator.level = 3
    weak = collator.batch(parts).views["crop"]
    for one, other in ((strong.logprobs, weak.logprobs), (strong.reference, weak.reference)):
        assert not torch.allclose(one, other)
    collator.level = 0
    torch.testing.assert_close(collator.batch(parts).views["crop"].reference, strong.reference)


def test_an_erased_image_leaves_a_round_that_retrieves(server: FakeServer, make_learner: MakeLearner) -> None:
    """In mid-round; whose image was lent counts as learned from, for when it is erased later."""
    server.config["learner"] |= {"objectives": {"rdpo": 1.0}}
    lonely = make_group(30, server.base_digest, server, images=[server.add_image(png(99))])
    server.tell(lonely)
    learner = make_learner()
    places = []
    opened = learner._open
    learner._open = lambda directory: places.append(opened(directory)) or places[0]  # type: ignore[method-assign,func-returns-value]
    held: list[bool] = []

    def at(point: str) -> None:
        if places and point == "step":
            held.append(lonely.images[0] in places[0].vision.sketches)
            if len(held) == 1:
                server.erase(lonely.id)

    learner._at = at
    assert learner.run() == 0, server.reports
    assert held[0] and not any(held[1:])
