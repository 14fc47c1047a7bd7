"""What is cut out of an image's container, and what is not touched."""

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from server.pipeline.containers import Animated, BadContainer, UnknownContainer, strip
from tests.image_server import picture

KINDS = ("PNG", "JPEG", "WEBP")
SECRETS = (b"GPS-SECRET", b"XMP-SECRET", b"COMMENT-SECRET", b"TRAILING-SECRET", b"acsp")
"""`acsp` marks a colour profile."""


def gradient(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Not one colour: pixels that would show a change."""
    parts = [Image.linear_gradient("L").rotate(90 * turn).resize(size) for turn in range(3)]
    return Image.merge("RGB", parts).convert(mode)


def exif(orientation: int = 1) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010E] = "GPS-SECRET"
    return tags.tobytes()


def with_metadata(kind: str, mode: str = "RGB", **save: Any) -> bytes:
    """EXIF, XMP, a colour profile, a comment, and something behind the end."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    extra: dict[str, Any] = {"exif": exif(), "icc_profile": profile, "xmp": b"<x:xmpmeta>XMP-SECRET</x:xmpmeta>"}
    if kind == "PNG":
        notes = PngImagePlugin.PngInfo()
        notes.add_text("Comment", "COMMENT-SECRET")
        notes.add_itxt("XML:com.adobe.xmp", "XMP-SECRET")
        extra = {"exif": exif(), "icc_profile": profile, "pnginfo": notes}
    elif kind == "JPEG":
        extra["comment"] = b"COMMENT-SECRET"
    buffer = io.BytesIO()
    gradient(mode).save(buffer, kind, **extra, **save)
    return buffer.getvalue() + b"TRAILING-SECRET"


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.mode.encode() + image.tobytes()


CASES = {
    "PNG": ("PNG", "RGB", {}),
    "PNG with alpha": ("PNG", "RGBA", {}),
    "PNG with a palette": ("PNG", "P", {"transparency": 3}),
    "PNG, grey": ("PNG", "L", {}),
    "JPEG": ("JPEG", "RGB", {}),
    "JPEG, progressive": ("JPEG", "RGB", {"progressive": True}),
    "JPEG, grey": ("JPEG", "L", {}),
    "JPEG, CMYK": ("JPEG", "CMYK", {}),
    "JPEG, RGB kept": ("JPEG", "RGB", {"keep_rgb": True}),
    "JPEG with restarts": ("JPEG", "RGB", {"restart_marker_blocks": 1}),
    "WebP": ("WEBP", "RGB", {}),
    "WebP with alpha": ("WEBP", "RGBA", {}),
    "WebP, lossless": ("WEBP", "RGBA", {"lossless": True}),
}


@pytest.mark.parametrize(("kind", "mode", "save"), CASES.values(), ids=CASES.keys())
def test_metadata_goes_and_pixels_stay(kind: str, mode: str, save: dict[str, Any]) -> None:
    """EXIF, XMP, profile, comment and what follows are gone; each pixel is as it was; a second time changes nothing."""
    data = with_metadata(kind, mode, **save)
    assert sum(secret in data for secret in SECRETS) >= 3
    container = strip(data)
    assert container.kind == kind
    assert not [secret for secret in SECRETS if secret in container.data]
    assert pixels(container.data) == pixels(data)
    assert b"GPS-SECRET" in container.exif
    assert strip(container.data).data == container.data


@pytest.mark.parametrize("kind", KINDS)
def test_the_compressed_data_is_copied(kind: str) -> None:
    """Nothing is encoded again: an image without metadata comes out as it went in."""
    buffer = io.BytesIO()
    gradient().save(buffer, kind)
    assert strip(buffer.getvalue()).data == buffer.getvalue()


def test_a_second_picture_behind_the_first_is_cut_off() -> None:
    """As phones append one (MPF), with EXIF of its own."""
    buffer = io.BytesIO()
    gradient().save(buffer, "MPO", save_all=True, append_images=[gradient().rotate(180)], exif=exif())
    data = buffer.getvalue()
    assert data.count(b"\xff\xd9") >= 2
    first = strip(data).data
    assert b"MPF" not in first
    with Image.open(io.BytesIO(first)) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("JPEG", 1)
    assert pixels(first) == pixels(data)
    assert len(first) < len(data) // 2 + 64


def test_thumbnails_and_unknown_application_data_are_cut_out() -> None:
    """Also those that sit in segments which have to stay."""
    data = picture(kind="JPEG")
    thumbnail = b"JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x02\x02" + b"THUMBNAIL-RGB"
    adobe = b"Adobe\x00\x64\x00\x00\x00\x00\x01" + b"HIDDEN"
    more = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(payload)) + payload
        for marker, payload in ((0xE0, thumbnail), (0xE0, b"JFXX\x00\x13HIDDEN"), (0xEE, adobe), (0xF5, b"HIDDEN"))
    )
    assert data[2:4] == b"\xff\xe0"
    dressed = data[:2] + more + data[20:]
    bare = strip(dressed).data
    assert b"THUMBNAIL" not in bare
    assert b"HIDDEN" not in bare
    assert pixels(bare) == pixels(data)


def test_metadata_between_the_scans_is_cut_out() -> None:
    """A progressive JPEG has room for it."""
    data = picture(kind="JPEG", progressive=True, size=(64, 64))
    at = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    dressed = data[:at] + b"\xff\xfe\x00\x08HIDDEN" + data[at:]
    assert strip(dressed).data == strip(data).data


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def animated(kind: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green")]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_told(kind: str) -> None:
    """Also when their header hides it."""
    with pytest.raises(Animated):
        strip(animated(kind))
    if kind == "WEBP":
        data = bytearray(animated(kind))
        data[20] &= ~0x02
        with pytest.raises(Animated):
            strip(bytes(data))


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_noticed(kind: str) -> None:
    """However short: a part of a container is none."""
    data = picture(kind=kind)
    for end in range(len(data)):
        with pytest.raises(BadContainer):
            strip(data[:end])


@pytest.mark.parametrize("head", [b"GIF89a", b"II*\x00", b"MM\x00*", b"8BPS", b"<svg", b"SIMPLE  =", b"%PDF-", b"PK"])
def test_other_kinds_are_none_of_ours(head: bytes) -> None:
    """By their first bytes, whatever follows: a second format behind a first one is not looked for."""
    with pytest.raises(UnknownContainer):
        strip(head + picture())


def test_a_webp_of_two_pictures_is_refused() -> None:
    """Decoders would differ about which one to show."""
    chunk = picture(kind="WEBP")[12:]
    body = b"WEBP" + chunk + chunk
    with pytest.raises(BadContainer):
        strip(b"RIFF" + struct.pack("<I", len(body)) + body)


def test_chunks_between_a_png_s_data_are_cut_out() -> None:
    """What is left is what was decoded: see `test_decoding.py`."""
    data = picture()
    at = data.index(b"IEND") - 4
    assert strip(data[:at] + png_chunk(b"zTXt", b"HIDDEN") + data[at:]).data == data
