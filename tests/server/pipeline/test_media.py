"""Base64 as it should be written, in slices."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BadRequest
from server.pipeline.media import SLICE_CHARS, unpack


@given(st.binary(max_size=50))
def test_what_was_encoded_comes_back(data: bytes) -> None:
    """Whatever its length."""
    assert unpack(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize("size", [SLICE_CHARS // 4 * 3, SLICE_CHARS // 4 * 3 + 1, SLICE_CHARS // 4 * 6 - 1])
def test_long_texts_come_back_too(size: int) -> None:
    """At the slices' borders."""
    data = bytes(range(251)) * (size // 251 + 1)
    assert unpack(base64.b64encode(data[:size]).decode()) == data[:size]


@pytest.mark.parametrize("text", ["YQ", "YQ=", "YQ==YQ==", "Y Q==", "YQ==\n", "=YQ=", "YQ-_", "ä", "===="])
def test_what_is_no_base64_is_refused(text: str) -> None:
    """No blanks, no other alphabets, padding at the end and nowhere else, not even at a slice's."""
    for before in ("", "A" * (SLICE_CHARS - 4)):
        with pytest.raises(BadRequest):
            unpack(before + text + ("A" * 8 if before and text.endswith("=") else ""))
