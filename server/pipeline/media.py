"""Images of a request: bounded before they are decoded, decoded fully once, stripped and hashed.

Only `data:` URLs for now; other addresses are refused by name. The engine never fetches anything.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from reward.types import Image
from server.config import ChatConfig
from server.errors import BadRequest
from server.pipeline.containers import MIMES, STRIPPERS, BadContainer

FORMATS = ("PNG", "JPEG", "WEBP")
ORIENTATION_TAG = 0x0112
PLAIN_MODES = {"RGB", "RGBA", "L", "LA", "P", "1"}


def invalid(reason: str, code: str = "invalid_image") -> BadRequest:
    return BadRequest(f"The image cannot be used: {reason}.", param="messages", code=code)


class MediaIntake:
    """Turns image URLs into verified images, on a bounded pool of worker threads."""

    def __init__(self, limits: ChatConfig, *, workers: int = 2) -> None:
        self._limits = limits
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="media")

    async def take(self, urls: Sequence[str]) -> list[Image]:
        """The images in order; raises `BadRequest`. The count is checked before anything is decoded."""
        if len(urls) > self._limits.max_images:
            raise invalid(f"a request may hold {self._limits.max_images} images", "too_many_images")
        loop = asyncio.get_running_loop()
        return list(await asyncio.gather(*(loop.run_in_executor(self._workers, self._take_one, url) for url in urls)))

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _take_one(self, url: str) -> Image:
        data = decode_data_url(url, self._limits.max_image_bytes)
        data, mime = verify(data, self._limits)
        return Image(hashlib.sha256(data).hexdigest(), mime, data)


def decode_data_url(url: str, max_bytes: int) -> bytes:
    """The bytes of `data:image/...;base64,...`."""
    head, comma, body = url.partition(",")
    head = head.lower()
    if not head.startswith("data:"):
        raise invalid("send it as a data: URL (data:image/png;base64,...)", "image_url_forbidden")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise invalid("a data: URL reads data:image/png;base64,...")
    if len(body) > max_bytes * 4 // 3 + 4:
        raise invalid(f"it is larger than {max_bytes} bytes", "image_too_large")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("its base64 text is damaged") from None


def verify(data: bytes, limits: ChatConfig) -> tuple[bytes, str]:
    """The image's container without metadata, and its type; every pixel was decoded once."""
    try:
        with Pillow.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, limits)
            if getattr(image, "n_frames", 1) != 1:
                raise invalid("it is animated")
            kind = image.format or ""
            image.load()
            if image.mode not in PLAIN_MODES or image.getexif().get(ORIENTATION_TAG, 1) != 1:
                return _encode_again(image)
        return STRIPPERS[kind](data), MIMES[kind]
    except BadRequest:
        raise
    except UnidentifiedImageError:
        raise invalid("it is not a PNG, JPEG or WebP image") from None
    except Pillow.DecompressionBombError:
        raise invalid("it has far too many pixels", "image_dimensions") from None
    except (OSError, SyntaxError, ValueError, BadContainer, MemoryError):
        raise invalid("it is damaged or cut short") from None


def _check_size(size: tuple[int, int], limits: ChatConfig) -> None:
    width, height = size
    low, high = limits.min_image_side_px, limits.max_image_side_px
    if min(size) < low or max(size) > high or width * height > limits.max_image_pixels:
        raise invalid(
            f"{width} x {height} pixels; sides of {low} to {high} and at most {limits.max_image_pixels} pixels in all",
            "image_dimensions",
        )


def _encode_again(image: Pillow.Image) -> tuple[bytes, str]:
    """Where the pixels have to be turned or converted, losslessly."""
    upright = ImageOps.exif_transpose(image).convert("RGB")
    buffer = io.BytesIO()
    upright.save(buffer, format="PNG")
    return buffer.getvalue(), MIMES["PNG"]
