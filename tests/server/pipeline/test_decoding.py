"""Whatever the bytes: an image that every decoder reads alike, or a refusal in the one way."""

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server.config import ChatConfig
from server.errors import BadRequest
from server.pipeline.containers import strip
from server.pipeline.decoding import verify
from tests.image_server import picture
from tests.server.pipeline.test_containers import animated, exif, gradient, pixels, png_chunk, with_metadata

LIMITS = ChatConfig()


def saved(image: Image.Image, kind: str, **save: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **save)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def refusal(data: bytes, limits: ChatConfig = LIMITS) -> str:
    with pytest.raises(BadRequest) as caught:
        verify(data, limits)
    assert "0x" not in caught.value.public
    return caught.value.code


def png_that_claims(width: int, height: int) -> bytes:
    """A small file whose header promises more."""
    data = bytearray(picture())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_plain_image_keeps_its_container(kind: str) -> None:
    """The engine gets the compressed data that was sent, without metadata."""
    data = with_metadata(kind)
    kept, mime = verify(data, LIMITS)
    assert (kept, mime) == (strip(data).data, f"image/{kind.lower()}")
    assert pixels(kept) == pixels(data)


TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images_are_handed_on_upright(kind: str, orientation: int) -> None:
    """As their EXIF says, in all eight ways, without loss."""
    data = saved(gradient(), kind, exif=exif(orientation))
    kept, mime = verify(data, LIMITS)
    turn = TURNS[orientation]
    expected = decoded(data) if turn is None else decoded(data).transpose(turn)
    assert (decoded(kept).size, decoded(kept).tobytes()) == (expected.size, expected.tobytes())
    assert mime == ("image/png" if turn is not None else f"image/{kind.lower()}")


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    """As browsers do."""
    assert verify(saved(gradient(), "JPEG", exif=exif(orientation)), LIMITS)[1] == "image/jpeg"


def test_cmyk_becomes_rgb() -> None:
    """Not every decoder reads it, and not all read it alike."""
    data = saved(gradient("CMYK"), "JPEG")
    kept, mime = verify(data, LIMITS)
    assert mime == "image/png"
    assert decoded(kept).tobytes() == decoded(data).convert("RGB").tobytes()


def test_16_bits_of_grey_keep_their_range() -> None:
    """Half of the range is mid grey, not white."""
    ramp = Image.new("I;16", (32, 32))
    ramp.putdata([row * 2048 for row in range(32) for _ in range(32)])
    kept = decoded(verify(saved(ramp, "PNG"), LIMITS)[0])
    assert kept.mode == "L"
    assert [kept.getpixel((0, row)) for row in (0, 8, 16, 31)] == [0, 64, 128, 248]


BAD = {
    "empty": (b"", "invalid_image"),
    "text": (b"this is no image", "invalid_image"),
    "GIF": (saved(gradient(), "GIF"), "invalid_image"),
    "animated GIF": (animated("GIF"), "invalid_image"),
    "animated PNG": (animated("PNG"), "invalid_image"),
    "animated WebP": (animated("WEBP"), "invalid_image"),
    "TIFF": (saved(gradient(), "TIFF"), "invalid_image"),
    "BMP": (saved(gradient(), "BMP"), "invalid_image"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "invalid_image"),
    "PSD": (b"8BPS\x00\x01" + bytes(64), "invalid_image"),
    "FITS": (b"SIMPLE  =                    T" + bytes(2880), "invalid_image"),
    "GIF before a PNG": (b"GIF89a" + picture(), "invalid_image"),
    "corrupt EXIF": (picture(kind="JPEG", exif=b"Exif\x00\x00XX*\x00\x08\x00\x00\x00"), "invalid_image"),
    "50,000 x 50,000": (png_that_claims(50_000, 50_000), "image_dimensions"),
    "10,000 x 10,000": (png_that_claims(10_000, 10_000), "image_dimensions"),
    "2^31 wide": (png_that_claims(2**31 - 1, 1), "image_dimensions"),
    "1 x 100,000": (png_that_claims(1, 100_000), "image_dimensions"),
    "1 x 1": (picture(size=(1, 1)), "image_dimensions"),
    "0 x 0, which no PNG may be": (png_that_claims(0, 0), "invalid_image"),
    "no data": (picture()[:8] + png_chunk(b"IHDR", picture()[16:29]) + png_chunk(b"IEND", b""), "invalid_image"),
}


@pytest.mark.parametrize(("data", "code"), BAD.values(), ids=BAD.keys())
def test_what_is_no_good_image_is_refused(data: bytes, code: str) -> None:
    """Before its pixels are decoded where the header tells."""
    assert refusal(data) == code


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_image_is_refused(kind: str, share: float) -> None:
    """Also where its container was closed again behind the cut."""
    data = saved(gradient(size=(256, 256)), kind)
    assert refusal(data[: int(len(data) * share)]) == "invalid_image"
    if kind == "JPEG":
        assert refusal(data[: int(len(data) * share)] + bytes(16)) == "invalid_image"


def test_a_corrupt_profile_is_cut_out_unread() -> None:
    """It cannot do harm where nobody opens it."""
    assert verify(picture(kind="JPEG", icc_profile=b"\xff" * 4000), LIMITS)[0] == strip(picture(kind="JPEG")).data


def test_rows_that_the_data_lacks_are_black_for_everybody() -> None:
    """Decoders fill them up; what the engine decodes is what was decoded here."""
    data = png_that_claims(32, 4000)
    assert verify(data, LIMITS) == (data, "image/png")
    assert decoded(data).getpixel((0, 3999)) == (0, 0, 0)


def test_many_pixels_in_a_small_file_are_told_by_its_header() -> None:
    """16 million blank pixels take 2 KB; they are decoded only where so many are allowed."""
    few = LIMITS.model_copy(update={"max_image_pixels": 1_000_000})
    assert refusal(saved(Image.new("1", (4000, 4000)), "PNG"), few) == "image_dimensions"


GOOD = [
    saved(gradient(size=(24, 20)), "PNG", exif=exif(6)),
    saved(gradient("P", size=(24, 20)), "PNG"),
    saved(gradient(size=(24, 20)), "JPEG", exif=exif(3)),
    saved(gradient(size=(24, 20)), "JPEG", progressive=True),
    saved(gradient("RGBA", size=(24, 20)), "WEBP", exif=exif(8)),
    saved(gradient(size=(24, 20)), "WEBP", lossless=True),
]


def tampered(draw: st.DrawFn) -> bytes:
    """A good file with some bytes changed, cut out or put in; PNG checksums are made good again now and then."""
    data = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["set", "set", "cut", "put", "end"])):
            case "set":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "put":
                data[at:at] = draw(st.binary(max_size=40))
            case "end":
                del data[at:]
    return with_good_checksums(bytes(data)) if draw(st.booleans()) else bytes(data)


def with_good_checksums(data: bytes) -> bytes:
    """So that what was changed gets past the first check."""
    parts, position = [data[:8]], 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        parts.append(png_chunk(data[position + 4 : position + 8], data[position + 8 : end]))
        position = end + 4
    return b"".join(parts) + data[position:] if data[:4] == b"\x89PNG" else data


def check_any(data: bytes) -> None:
    """The promise for any bytes."""
    try:
        kept, mime = verify(data, LIMITS)
    except BadRequest as error:
        assert error.code in {"invalid_image", "image_dimensions"}
        return
    assert mime == f"image/{strip(kept).kind.lower()}"
    assert strip(kept).data == kept
    assert not strip(kept).exif
    image = decoded(kept)
    assert image.mode in {"RGB", "RGBA", "L", "LA", "P", "1"}
    image.convert("RGB")


@settings(max_examples=1500, deadline=None)
@given(st.composite(tampered)())
def test_any_tampered_image_is_refused_or_read_by_everyone(data: bytes) -> None:
    """Never another error; what is handed on is whole, and bare."""
    check_any(data)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x20\x00\x00\x00WEBP"]), st.binary(max_size=200)
)
def test_any_bytes_behind_a_good_beginning_are_survived(head: bytes, rest: bytes) -> None:
    """The container walk ends, whatever lengths it reads."""
    check_any(head + rest)
