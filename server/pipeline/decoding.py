"""One image's bytes made safe to hand on: without metadata, upright, in a mode that every decoder reads alike.

The bytes that are handed on are the very ones that were decoded here, so the engine meets nothing that was not tried.
Pure, blocking: for worker threads.
"""

from __future__ import annotations

import io
import logging

from PIL import Image as Pillow

from server.config import ChatConfig
from server.errors import BadRequest
from server.pipeline.containers import MIMES, Animated, BadContainer, UnknownContainer, strip
from server.pipeline.refusals import invalid

log = logging.getLogger(__name__)

ORIENTATION_TAG = 0x0112
PLAIN_MODES = {"RGB", "RGBA", "L", "LA", "P", "1"}
DEEP_MODES = {"I;16", "I;16B", "I;16L", "I"}
"""Grey values of 16 bits. Converted as they are, all but the darkest would become white."""
UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""How to turn an image by its EXIF orientation."""
SMALLEST = (1, 1)
"""The size at which a JPEG is tried. Its compressed data is read to the end all the same, and only there can it be
damaged; what is saved is the arithmetic behind it: a third of the time, and 63 of 64 parts of the memory."""
FAST = 1
"""zlib level of what has to be encoded again: a photograph hardly gets smaller with more."""


def verify(data: bytes, limits: ChatConfig) -> tuple[bytes, str]:
    """The image without metadata, and its type; all of its data was decoded once. Raises `BadRequest`."""
    try:
        return _verify(data, limits)
    except BadRequest:
        raise
    except UnknownContainer:
        raise invalid("it is not a PNG, JPEG or WebP image") from None
    except Animated:
        raise invalid("it is animated") from None
    except Pillow.DecompressionBombError:
        raise invalid("it has far too many pixels", "image_dimensions") from None
    except (BadContainer, OSError, SyntaxError, ValueError, EOFError):
        raise invalid("it is damaged or cut short") from None
    except Exception:  # decoders meet hostile bytes here; whatever they raise is the image's fault
        log.warning("an image made its decoder fail in an unknown way", exc_info=True)
        raise invalid("it is damaged or cut short") from None


def _verify(data: bytes, limits: ChatConfig) -> tuple[bytes, str]:
    container = strip(data)
    turn = UPRIGHT.get(_orientation(container.exif))
    with Pillow.open(io.BytesIO(container.data), formats=(container.kind,)) as image:
        _check_size(image.size, limits)
        is_ready = turn is None and image.mode in PLAIN_MODES
        if is_ready:
            image.draft(None, SMALLEST)
        image.load()
        if is_ready:
            return container.data, MIMES[container.kind]
        return _encode_again(image, turn), MIMES["PNG"]


def _orientation(exif: bytes) -> int:
    """1 to 8, 1 without any. An EXIF block that cannot be read raises: how the image lies is then unknown."""
    if not exif:
        return 1
    tags = Pillow.Exif()
    tags.load(exif)
    value = tags.get(ORIENTATION_TAG, 1)
    return value if isinstance(value, int) else 1


def _check_size(size: tuple[int, int], limits: ChatConfig) -> None:
    width, height = size
    low, high = limits.min_image_side_px, limits.max_image_side_px
    if min(size) < low or max(size) > high or width * height > limits.max_image_pixels:
        raise invalid(
            f"{width} x {height} pixels; sides of {low} to {high} and at most {limits.max_image_pixels} pixels in all",
            "image_dimensions",
        )


def _encode_again(image: Pillow.Image, turn: Pillow.Transpose | None) -> bytes:
    """Where the pixels have to be turned or converted, losslessly."""
    plain: Pillow.Image = image
    if image.mode in DEEP_MODES:
        plain = image.point(lambda value: value / 256).convert("L")
    elif image.mode not in PLAIN_MODES:
        plain = image.convert("RGB")
    if turn is not None:
        plain = plain.transpose(turn)
    buffer = io.BytesIO()
    plain.save(buffer, format="PNG", compress_level=FAST)
    return buffer.getvalue()
