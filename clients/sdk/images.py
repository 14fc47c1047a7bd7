"""Images as people have them, made parts of a chat message. Pure, but for reading the file that is named."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Final, Protocol

from openai.types.chat import ChatCompletionContentPartImageParam

MAGIC: Final = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"RIFF", "webp"))
"""How the three formats begin that a server takes."""
ADDRESSES: Final = ("data:", "https://", "http://")


class SavesItself(Protocol):
    """What a `PIL.Image.Image` can do, so that Pillow need not be installed."""

    def save(self, fp: io.BytesIO, format: str) -> None: ...


ImageLike = str | Path | bytes | SavesItself
"""A file's path, an address (`https:` or `data:`), an image file's bytes, or a Pillow image."""


def image_part(image: ImageLike) -> ChatCompletionContentPartImageParam:
    """Raises `ValueError` for bytes that begin like no image that a server takes, `OSError` for an unreadable file."""
    return {"type": "image_url", "image_url": {"url": image_url(image)}}


def image_url(image: ImageLike) -> str:
    """The address itself, or a `data:` URL of the image's bytes as they are; a Pillow image becomes a PNG."""
    if isinstance(image, str) and image.lower().startswith(ADDRESSES):
        return image
    if isinstance(image, str | Path):
        return _data_url(Path(image).read_bytes(), str(image))
    if isinstance(image, bytes):
        return _data_url(image, f"these {len(image)} bytes")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return _data_url(buffer.getvalue(), "this image")


def _data_url(content: bytes, name: str) -> str:
    kind = next((kind for magic, kind in MAGIC if content.startswith(magic)), None)
    if kind is None:
        raise ValueError(f"{name}: not a PNG, JPEG or WebP image; convert it first")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
