"""Image containers without their metadata: what the engine gets, and what is kept.

The compressed pixels are copied byte for byte. Kept is what decoding them needs and nothing else: EXIF, XMP, comments,
thumbnails, colour profiles, whatever follows the image's end (a second image, an archive) and what no standard names
are left out. Sources: PNG (ISO/IEC 15948), JPEG (ITU-T T.81, JFIF), WebP (RFC 9649).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

Kind = Literal["PNG", "JPEG", "WEBP"]
MIMES: dict[Kind, str] = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
JPEG_SIGNATURE = b"\xff\xd8\xff"
JPEG_KEPT = {*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD} - {0xC8}  # frames, tables, scans
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The next marker behind a scan's data: neither a stuffed byte, nor a restart, nor a fill byte."""
JFIF_BYTES, ADOBE_BYTES = 14, 12
"""What the decoder reads of the two application segments that tell how colours are coded."""
WEBP_PIXELS, WEBP_ALPHA = (b"VP8 ", b"VP8L"), b"ALPH"
WEBP_ANIMATION, WEBP_HAS_ALPHA = 0x02, 0x10
EXIF_PREFIX = b"Exif\x00\x00"


class BadContainer(ValueError):
    """The bytes are not a whole container of their kind."""


class UnknownContainer(BadContainer):
    """The bytes begin like none of the three."""


class Animated(BadContainer):
    """There is more than one picture to see."""


@dataclass(frozen=True, slots=True)
class Container:
    """An image without metadata. `exif` is what was cut out of that kind (a TIFF structure), empty without any."""

    kind: Kind
    data: bytes
    exif: bytes = b""


def is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def strip(data: bytes) -> Container:
    """Raises `BadContainer`, `UnknownContainer` or `Animated`."""
    if data.startswith(PNG_SIGNATURE):
        return _strip_png(data)
    if data.startswith(JPEG_SIGNATURE):
        return _strip_jpeg(data)
    if is_webp(data):
        return _strip_webp(data)
    raise UnknownContainer


def _strip_png(data: bytes) -> Container:
    kept, position, exif = [PNG_SIGNATURE], 8, b""
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        kind = data[position + 4 : position + 8]
        if end > len(data):
            raise BadContainer
        if kind in PNG_KEPT:
            kept.append(data[position:end])
        elif kind == b"eXIf":
            exif = data[position + 8 : end - 4]
        elif kind in {b"acTL", b"fcTL", b"fdAT"}:
            raise Animated
        position = end
        if kind == b"IEND":
            return Container("PNG", b"".join(kept), exif)
    raise BadContainer


def _strip_jpeg(data: bytes) -> Container:
    kept, position, exif = [data[:2]], 2, b""
    while position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF:
            raise BadContainer
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if length < 2 or end > len(data):
            raise BadContainer
        if marker == 0xE1 and data.startswith(EXIF_PREFIX, position + 4):
            exif = exif or data[position + 4 + len(EXIF_PREFIX) : end]
        kept.append(_jpeg_segment(marker, data[position:end]))
        position = end
        if marker == 0xDA:
            found = SCAN_END.search(data, end)
            if found is None:
                raise BadContainer
            position = found.start()
            kept.append(data[end:position])
            if data[position + 1] == 0xD9:  # the image ends here, whatever follows
                kept.append(data[position : position + 2])
                return Container("JPEG", b"".join(kept), exif)
    raise BadContainer


def _jpeg_segment(marker: int, segment: bytes) -> bytes:
    """What is kept of a segment."""
    if marker in JPEG_KEPT:
        return segment
    payload = segment[4:]
    if marker == 0xE0 and payload.startswith(b"JFIF\x00") and len(payload) >= JFIF_BYTES:
        without_thumbnail = payload[: JFIF_BYTES - 2] + b"\x00\x00"
        return segment[:2] + struct.pack(">H", 2 + JFIF_BYTES) + without_thumbnail
    if marker == 0xEE and payload.startswith(b"Adobe") and len(payload) >= ADOBE_BYTES:
        return segment[:2] + struct.pack(">H", 2 + ADOBE_BYTES) + payload[:ADOBE_BYTES]
    return b""


def _strip_webp(data: bytes) -> Container:
    (size,) = struct.unpack_from("<I", data, 4)
    limit, kept, position, exif, pictures = 8 + size, list[bytes](), 12, b"", 0
    if limit > len(data):
        raise BadContainer
    while position + 8 <= limit:
        kind = data[position : position + 4]
        (length,) = struct.unpack_from("<I", data, position + 4)
        end = position + 8 + length
        if end > limit:
            raise BadContainer
        payload = data[position + 8 : end]
        if kind in {b"ANIM", b"ANMF"} or (kind == b"VP8X" and payload[:1] and payload[0] & WEBP_ANIMATION):
            raise Animated
        if kind == b"EXIF":
            exif = payload.removeprefix(EXIF_PREFIX)
        elif kind == b"VP8X":  # alpha alone: no profile, EXIF, XMP or animation is left
            kept.append(_riff_chunk(kind, bytes([data[position + 8] & WEBP_HAS_ALPHA]) + payload[1:]))
        elif kind == WEBP_ALPHA or kind in WEBP_PIXELS:
            kept.append(_riff_chunk(kind, payload))
            pictures += kind in WEBP_PIXELS
        position = end + (length & 1)
    if pictures != 1:
        raise BadContainer
    return Container("WEBP", _riff_chunk(b"RIFF", b"WEBP" + b"".join(kept)), exif)


def _riff_chunk(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("<I", len(payload)) + payload + b"\x00" * (len(payload) & 1)
