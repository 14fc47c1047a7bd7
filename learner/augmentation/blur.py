"""`blur`: a Gaussian blur under noise: colours are left, no shapes. As the noised image of MMed-RAG and Re-Align's
ablations, https://arxiv.org/abs/2410.13085. The radius is an eighth of the longer side, the noise half of the picture,
both less with less strength. The noise depends on the image's name alone.
"""

from __future__ import annotations

import random
from typing import Final

from PIL import Image, ImageFilter

RADIUS: Final = 1 / 8
NOISE: Final = 0.5


def blur(image: Image.Image, rng: random.Random, strength: float) -> Image.Image:
    blurred = image.filter(ImageFilter.GaussianBlur(strength * RADIUS * max(image.size)))
    noise = Image.frombytes("RGB", image.size, rng.randbytes(3 * image.width * image.height)).convert("RGBA")
    return Image.blend(blurred, noise, NOISE * strength)
