"""Image containers without their metadata: what the engine gets, and what is kept.

The compressed pixels are copied byte for byte; only segments that describe the picture (EXIF, XMP, comments,
thumbnails, colour profiles) are left out. Sources: PNG (ISO/IEC 15948), JPEG (ITU-T T.81, JFIF), WebP (RFC 9649).
"""

from __future__ import annotations

import struct

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
JPEG_DROPPED = {0xFE, *(marker for marker in range(0xE1, 0xF0) if marker != 0xEE)}  # COM, APP1-15 but Adobe's
WEBP_KEPT = {b"VP8 ", b"VP8L", b"ALPH"}


class BadContainer(ValueError):
    """The bytes are not a whole container of their kind."""


def strip_png(data: bytes) -> bytes:
    if data[:8] != PNG_SIGNATURE:
        raise BadContainer
    kept, position = [PNG_SIGNATURE], 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        kind = data[position + 4 : position + 8]
        if end > len(data):
            raise BadContainer
        if kind in PNG_KEPT:
            kept.append(data[position:end])
        position = end
        if kind == b"IEND":
            return b"".join(kept)
    raise BadContainer


def strip_jpeg(data: bytes) -> bytes:
    if data[:2] != b"\xff\xd8":
        raise BadContainer
    kept, position = [b"\xff\xd8"], 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise BadContainer
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == 0xDA:  # start of scan: the rest is pixels, up to the end of the image
            end = data.rfind(b"\xff\xd9")
            if end < position:
                raise BadContainer
            kept.append(data[position : end + 2])
            return b"".join(kept)
        end = position + 2 + length
        if length < 2 or end > len(data):
            raise BadContainer
        if marker not in JPEG_DROPPED:
            kept.append(data[position:end])
        position = end
    raise BadContainer


def strip_webp(data: bytes) -> bytes:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise BadContainer
    kept, position = [], 12
    while position + 8 <= len(data):
        kind = data[position : position + 4]
        (length,) = struct.unpack_from("<I", data, position + 4)
        end = position + 8 + length + (length & 1)
        if end > len(data):
            raise BadContainer
        if kind in WEBP_KEPT:
            kept.append(data[position:end])
        elif kind == b"VP8X":
            flags = data[position + 8] & 0x10  # alpha alone: no profile, EXIF, XMP or animation is left
            kept.append(data[position : position + 8] + bytes([flags]) + data[position + 9 : end])
        position = end
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


STRIPPERS = {"PNG": strip_png, "JPEG": strip_jpeg, "WEBP": strip_webp}
MIMES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
