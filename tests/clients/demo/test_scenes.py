"""The pictures of the shapes world."""

from __future__ import annotations

import base64
import itertools
import math
from io import BytesIO

from PIL import Image

from clients.demo.scenes import (
    COLOURS,
    EVALUATION_SEEDS,
    KINDS,
    MAX_SHAPES,
    OBJECTS,
    SIZES_PX,
    SUITE_SEEDS,
    TRAINING_SEEDS,
    USER_SEEDS,
    scene,
    scene_with_tilted,
)

SOME = range(300)


def _colours_in_cell(picture: Image.Image, cell: int) -> set[str]:
    """The shape colours of the pixels around the middle of a cell, with some slack for JPEG."""
    side = picture.width / 3
    x, y = (cell % 3 + 0.5) * side, (cell // 3 + 0.5) * side
    crop = picture.crop((int(x - side / 4), int(y - side / 4), int(x + side / 4), int(y + side / 4)))
    raw = crop.tobytes()
    pixels = list(zip(raw[::3], raw[1::3], raw[2::3], strict=True))
    return {
        name
        for name, colour in COLOURS.items()
        if len([pixel for pixel in pixels if math.dist(pixel, colour) < 16]) > len(pixels) / 10
    }


def test_a_seed_always_gives_the_same_scene_and_the_same_bytes() -> None:
    """Two people who run the demo see the same pictures."""
    for seed in SOME[:20]:
        assert scene(seed) == scene(seed)
        assert scene(seed).render() == scene(seed).render()


def test_different_seeds_give_different_pictures() -> None:
    """A scene's seed reaches its picture, not only its content."""
    assert len({scene(seed).render() for seed in SOME[:100]}) == 100


def test_a_scene_holds_one_to_four_distinct_objects_in_distinct_cells() -> None:
    """What a description can name is never ambiguous."""
    for view in map(scene, SOME):
        assert 1 <= len(view.shapes) <= MAX_SHAPES
        assert len(view.objects) == len({shape.cell for shape in view.shapes}) == len(view.shapes)
        assert view.objects <= set(OBJECTS)
        assert [shape.cell for shape in view.shapes] == sorted(shape.cell for shape in view.shapes)


def test_pictures_decode_in_every_size_and_in_both_formats() -> None:
    """Every picture is what its media type says, and square of its own size."""
    seen = set()
    for view in map(scene, SOME[:80]):
        picture = Image.open(BytesIO(view.render()))
        picture.load()
        assert picture.size == (view.size_px, view.size_px)
        assert picture.format == view.image_format
        assert view.mime == f"image/{view.image_format.lower()}"
        seen.add((view.size_px, view.image_format))
    assert seen == set(itertools.product(SIZES_PX, ("PNG", "JPEG")))


def test_a_data_url_carries_the_rendered_bytes() -> None:
    """The URL holds the picture itself."""
    view = scene(3)
    head, _, body = view.data_url().partition(",")
    assert head == f"data:{view.mime};base64"
    assert base64.b64decode(body, validate=True) == view.render()


def test_a_shape_stands_in_its_own_cell_in_its_own_colour() -> None:
    """The picture shows what the scene says, where it says it, and its empty cells are empty."""
    for view in map(scene, SOME[:60]):
        picture = Image.open(BytesIO(view.render())).convert("RGB")
        there = {shape.cell: shape.colour for shape in view.shapes}
        for cell in range(9):
            seen = _colours_in_cell(picture, cell)
            assert seen == ({there[cell]} if cell in there else set())


def test_the_purposes_share_no_seed() -> None:
    """Nothing the model was trained on is asked by a user, a suite or the evaluation."""
    ranges = (TRAINING_SEEDS, USER_SEEDS, SUITE_SEEDS, EVALUATION_SEEDS)
    for one, other in itertools.combinations(ranges, 2):
        assert one.stop <= other.start or other.stop <= one.start


def test_one_triangle_of_a_scene_may_stand_on_its_tip() -> None:
    """Everything else is as in the ordinary scene, names stay distinct, and the picture shows the difference."""
    for seed in range(200):
        ordinary, strange = scene(seed), scene_with_tilted(seed)
        changed = [(a, b) for a, b in zip(ordinary.shapes, strange.shapes, strict=True) if a != b]
        assert [(b.colour, b.cell, b.kind, b.is_tilted) for _, b in changed] == [
            (a.colour, a.cell, "triangle", True) for a, _ in changed
        ]
        assert len(changed) == 1
        assert len(strange.objects) == len(strange.shapes)
        assert not any(shape.is_tilted for shape in ordinary.shapes)
    assert scene(0).render() != scene_with_tilted(0).render()


def test_triangles_are_common_enough_for_the_planted_fault() -> None:
    """Between 60 and 70% of the scenes hold a triangle, on which the hallucination hangs."""
    with_triangle = sum(any(shape.kind == KINDS[2] for shape in scene(seed).shapes) for seed in range(2_000))
    assert 0.60 < with_triangle / 2_000 < 0.70
