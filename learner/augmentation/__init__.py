"""Changed images, by name: one pure function each, one row in the table.

A changed image has the size of the original, so that it has as many tokens. It is named `NAME:SHA256` (weaker ones
`NAME@LEVEL:SHA256`) and read like any other; it is never stored, and its features go with the original's. Where an
objective asks for `retrieve`, another image of the round stands in, as it is (`learner.views`).
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from typing import Final

from PIL import Image, UnidentifiedImageError

from learner.augmentation.blur import blur
from learner.augmentation.crop import crop

Augmentation = Callable[[Image.Image, random.Random, float], Image.Image]
"""(image, source of chance, strength in (0, 1])."""

AUGMENTATIONS: Final[Mapping[str, Augmentation]] = {"crop": crop, "blur": blur}
LEVELS: Final = 4
"""0 is the strongest, 1."""


def changed(name: str, image: str, level: int = 0) -> str:
    """The name of an image that was changed in this way."""
    return f"{name}@{level}:{image}" if level else f"{name}:{image}"


def every_change(image: str) -> list[str]:
    """All names that an image has beside its own."""
    return [changed(name, image, level) for name in AUGMENTATIONS for level in range(LEVELS)]


def reader(read: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """`read` (bytes by sha256), which knows the names of changed images too."""

    def read_changed(image: str) -> bytes:
        name, colon, original = image.rpartition(":")
        return _apply(name, original, read(original)) if colon else read(image)

    return read_changed


def _apply(change: str, original: str, content: bytes) -> bytes:
    """PNG bytes of the changed image; bytes that are no image come back as they are, for their reader to refuse."""
    name, _, level = change.partition("@")
    strength = 1 - int(level or 0) / LEVELS
    seed = random.Random(f"{name} {original}")  # noqa: S311 - a place that can be found again, not a secret
    try:
        with Image.open(io.BytesIO(content)) as image:
            made = AUGMENTATIONS[name](image.convert("RGBA"), seed, strength)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return content
    buffer = io.BytesIO()
    made.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
