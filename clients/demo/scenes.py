"""Deterministic pictures: one to four coloured shapes on a 3 x 3 grid.

A scene is a pure function of its seed: what is in it, where, how large the picture is, on which
background and in which container. Distinct purposes draw from distinct seed ranges, so that nothing
the model was trained on is ever asked by a user, a gate suite or the evaluation.

Leaves out every question and every word about a scene: those live in `language`.
"""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Final, Literal

from PIL import Image, ImageDraw

ImageFormat = Literal["PNG", "JPEG"]

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 34, 40),
    "green": (28, 150, 60),
    "blue": (36, 76, 220),
    "yellow": (248, 212, 20),
    "purple": (140, 44, 170),
    "orange": (246, 130, 16),
}
KINDS: Final = ("circle", "square", "triangle")
# Triangles are a little more common, because the model's planted hallucination hangs on them.
KIND_WEIGHTS: Final = (0.32, 0.32, 0.36)
OBJECTS: Final = tuple(f"{colour} {kind}" for colour in COLOURS for kind in KINDS)
"""All objects of the world, as they are named in answers."""

BACKGROUNDS: Final[dict[str, tuple[int, int, int]]] = {
    "white": (255, 255, 255),
    "grey": (200, 202, 206),
    "sand": (236, 226, 204),
    "slate": (44, 52, 64),
}
SIZES_PX: Final = (64, 96, 128, 192, 256)
GRID: Final = 3
MAX_SHAPES: Final = 4
JPEG_QUALITY: Final = 90

TRAINING_SEEDS: Final = range(1_000_000)
USER_SEEDS: Final = range(1_000_000, 2_000_000)
SUITE_SEEDS: Final = range(2_000_000, 3_000_000)
EVALUATION_SEEDS: Final = range(3_000_000, 4_000_000)


@dataclass(frozen=True, slots=True)
class Shape:
    """One coloured shape in one cell of the grid, counted row by row from 0."""

    colour: str
    kind: str
    cell: int
    is_tilted: bool = False
    """Stands on its tip; only of triangles. No training scene shows one: the model takes half of them for circles."""

    @property
    def name(self) -> str:
        """As an answer names it: `red circle`."""
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's whole content; `shapes` are in reading order."""

    seed: int
    shapes: tuple[Shape, ...]
    size_px: int
    background: str
    image_format: ImageFormat

    @property
    def objects(self) -> frozenset[str]:
        """The names of everything in view."""
        return frozenset(shape.name for shape in self.shapes)

    @property
    def mime(self) -> str:
        """The media type of `render()`."""
        return "image/png" if self.image_format == "PNG" else "image/jpeg"

    def render(self) -> bytes:
        """Draw the picture and encode it; the same scene always gives the same picture."""
        picture = Image.new("RGB", (self.size_px, self.size_px), BACKGROUNDS[self.background])
        draw = ImageDraw.Draw(picture)
        # Its own stream: how a shape wobbles in its cell must not depend on how the scene was drawn up.
        wobble = random.Random(f"wobble {self.seed}")
        for shape in self.shapes:
            _draw(draw, shape, self.size_px / GRID, wobble)
        buffer = BytesIO()
        options = {"quality": JPEG_QUALITY} if self.image_format == "JPEG" else {}
        picture.save(buffer, self.image_format, **options)
        return buffer.getvalue()

    def data_url(self) -> str:
        """The picture as a `data:` URL, ready for an OpenAI `image_url` part."""
        return f"data:{self.mime};base64,{base64.b64encode(self.render()).decode('ascii')}"


def scene(seed: int) -> Scene:
    """The scene of this seed: one to four distinct objects in distinct cells."""
    rng = random.Random(f"scene {seed}")
    count = rng.randint(1, MAX_SHAPES)
    names: list[tuple[str, str]] = []
    while len(names) < count:
        name = (rng.choice(tuple(COLOURS)), rng.choices(KINDS, KIND_WEIGHTS)[0])
        if name not in names:
            names.append(name)
    cells = sorted(rng.sample(range(GRID * GRID), count))
    return Scene(
        seed=seed,
        shapes=tuple(Shape(colour, kind, cell) for (colour, kind), cell in zip(names, cells, strict=True)),
        size_px=rng.choice(SIZES_PX),
        background=rng.choice(tuple(BACKGROUNDS)),
        image_format=rng.choice(("PNG", "JPEG")),
    )


def scene_with_tilted(seed: int) -> Scene:
    """`scene(seed)` in which one object, of a random colour of those in view, is a triangle that stands on its tip."""
    view = scene(seed)
    colour = random.Random(f"tilted {seed}").choice(view.shapes).colour
    of_colour = [one for one in view.shapes if one.colour == colour]
    # Objects keep distinct names.
    place = next((one for one in of_colour if one.kind == "triangle"), of_colour[0])
    tilted = Shape(colour, "triangle", place.cell, is_tilted=True)
    return replace(view, shapes=tuple(tilted if one is place else one for one in view.shapes))


def _draw(draw: ImageDraw.ImageDraw, shape: Shape, cell_px: float, wobble: random.Random) -> None:
    radius = cell_px * wobble.uniform(0.32, 0.42)
    slack = cell_px / 2 - radius
    x = (shape.cell % GRID + 0.5) * cell_px + wobble.uniform(-slack, slack)
    y = (shape.cell // GRID + 0.5) * cell_px + wobble.uniform(-slack, slack)
    colour = COLOURS[shape.colour]
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape.kind == "circle":
        draw.ellipse(box, fill=colour)
    elif shape.is_tilted:
        draw.polygon([(x, y + radius), (x - radius, y - radius), (x + radius, y - radius)], fill=colour)
    elif shape.kind == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colour)
