"""`crop`: a small part of the image, blown up to the image's size. mDPO, https://arxiv.org/abs/2406.11839.

The part is 1 to 20% of the area, in the image's own proportions, at a place that depends on the bytes alone: the same
image is cropped alike in every epoch and after a restart, and its features are computed once. With less strength s the
part is areaˢ: at a quarter, 32 to 67%.
"""

from __future__ import annotations

import random
from typing import Final

from PIL import Image

SCALE: Final = (0.01, 0.2)


def crop(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    side = rng.uniform(*SCALE) ** (strength / 2)
    width, height = max(1, round(image.width * side)), max(1, round(image.height * side))
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height)).resize(image.size, Image.Resampling.BILINEAR)
