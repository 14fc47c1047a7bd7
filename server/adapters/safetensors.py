"""Safetensors files read by hand: a header that cannot lie, and numbers that are finite.

Format (https://github.com/huggingface/safetensors#format): eight bytes little-endian length, a JSON header
`{name: {dtype, shape, data_offsets}}`, then the data. Stricter than the format here: offsets must tile the data
without gap, overlap or rest, no name may occur twice, and the header is UTF-8 that begins with its brace, so that
every reader reads the same. Nothing is allocated from what the file claims, and the header is parsed only when it has
no more punctuation than that many tensors need: a few megabytes of brackets would become hundreds in memory.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

MAX_HEADER_BYTES = 16 * 1024 * 1024
MAX_TENSORS = 100_000
MAX_COMMAS = 12 * MAX_TENSORS
"""An entry has three between its keys, one between its offsets, at most seven in its shape, and one after it."""
CHUNK_BYTES = 64 * 1024
"""Numbers are looked at in pieces of this size: little memory, and no long hold of the interpreter."""

ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
ITEM_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1}


class MalformedFile(Exception):
    """The file is not what it should be; the text says why and may be shown to a client."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of the header. `start` counts from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int


def read_header(path: Path) -> list[Tensor]:
    """The tensors in file order; raises `MalformedFile`, or `OSError`."""
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise MalformedFile("the file is too short for a safetensors header")
        header_bytes = int.from_bytes(prefix, "little")
        if header_bytes > min(MAX_HEADER_BYTES, file_bytes - 8):
            raise MalformedFile("the header's length is larger than the file or the limit")
        entries = _parse(file.read(header_bytes))
    tensors = [_tensor(name, entry, 8 + header_bytes) for name, entry in entries.items() if name != "__metadata__"]
    tensors.sort(key=lambda one: (one.start, one.size_bytes))
    end = 8 + header_bytes
    for tensor in tensors:
        if tensor.start != end:
            raise MalformedFile("tensors overlap or leave a gap")
        end += tensor.size_bytes
    if end != file_bytes:
        raise MalformedFile("the data's length differs from what the header says")
    return tensors


def norm(file: BinaryIO, tensor: Tensor) -> float:
    """Euclidean norm of a float tensor: infinite or NaN exactly where one of its numbers is."""
    file.seek(tensor.start)
    return math.hypot(*(math.hypot(*values) for values in _values(file, tensor)))


def _values(file: BinaryIO, tensor: Tensor) -> Iterator[Sequence[float]]:
    left = tensor.size_bytes
    while left:
        chunk = file.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise MalformedFile("the file ended early")
        left -= len(chunk)
        yield _floats(chunk, tensor.dtype)


def _floats(chunk: bytes, dtype: str) -> Sequence[float]:
    if dtype == "F16":
        return struct.unpack(f"<{len(chunk) // 2}e", chunk)
    if dtype == "BF16":  # the upper half of a float32
        wide = bytearray(2 * len(chunk))
        wide[2::4], wide[3::4] = chunk[0::2], chunk[1::2]
        return struct.unpack(f"<{len(wide) // 4}f", wide)
    return struct.unpack(f"<{len(chunk) // 4}f", chunk)


def _parse(header: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise MalformedFile("the header names something twice")
        return dict(pairs)

    if header[:1] != b"{":
        raise MalformedFile("the header does not begin with a brace")
    if (
        header.count(b"{") > MAX_TENSORS + 2
        or header.count(b"[") > 2 * MAX_TENSORS + 2
        or header.count(b",") > MAX_COMMAS
    ):
        raise MalformedFile("the header describes too many tensors")
    try:
        entries = json.loads(header.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise MalformedFile("the header is not valid JSON") from None
    notes = entries.get("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise MalformedFile("the header's __metadata__ is not text by name")
    return cast(dict[str, Any], entries)


def _tensor(name: str, entry: Any, data_start: int) -> Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise MalformedFile("a header entry must hold dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if entry["dtype"] not in ITEM_BYTES:
        raise MalformedFile("a tensor has an unknown dtype")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(shape) > 8 or len(offsets) != 2:
        raise MalformedFile("a tensor's shape or offsets are not what they should be")
    start, end = offsets
    if end < start or end - start != math.prod(shape) * ITEM_BYTES[entry["dtype"]]:
        raise MalformedFile("a tensor's offsets do not fit its shape")
    return Tensor(name, entry["dtype"], tuple(shape), data_start + start, end - start)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**53 for one in value)
