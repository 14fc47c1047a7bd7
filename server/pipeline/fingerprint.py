"""How a picture looks, in 64 bits that survive other sizes, formats and qualities (difference hash).

The picture is made grey and 9 x 8 pixels; each bit says whether a pixel is brighter than its right neighbour.
Blocking: for worker threads. Images of requests were decoded under limits before, so their size is bounded.
"""

from __future__ import annotations

import hashlib
import io
from itertools import pairwise

from PIL import Image as Pillow

from reward.types import Image
from server.config import ChatConfig
from server.pipeline.decoding import verify

WIDTH, HEIGHT = 9, 8


def fingerprint(image: Image) -> int:
    """Raises what the decoder raises."""
    with Pillow.open(io.BytesIO(image.data), formats=("PNG", "JPEG", "WEBP")) as picture:
        picture.draft("L", (WIDTH * 16, HEIGHT * 16))  # a JPEG is decoded no larger than needed
        opaque: Pillow.Image = picture
        if picture.has_transparency_data:
            opaque = Pillow.alpha_composite(Pillow.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        small = opaque.convert("L").resize((WIDTH, HEIGHT), Pillow.Resampling.BOX)
    pixels = small.tobytes()
    bits = 0
    for row in range(HEIGHT):
        line = pixels[row * WIDTH : (row + 1) * WIDTH]
        for left, right in pairwise(line):
            bits = bits << 1 | (left > right)
    return bits


def listed(data: bytes, limits: ChatConfig) -> str:
    """The lines that list an image file: as the engine would get it, without metadata. Raises `BadRequest`."""
    data, mime = verify(data, limits)
    digest = hashlib.sha256(data).hexdigest()
    return f"{fingerprint(Image(digest, mime, data)):016x}\n{digest}"
