"""Rows of a file, one after the other: JSON lines, a JSON list, or Parquet (where pyarrow is installed).

Memory holds one row, or for Parquet one batch of them. A row that cannot be read takes its place as an `UnreadableRow`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from clients.exchange.groups import Row, UnreadableRow

MAX_ROW_BYTES: Final = 64 * 1024 * 1024
CHUNK_BYTES: Final = 1024 * 1024
PARQUET_BATCH: Final = 16
WHITESPACE: Final = " \t\r\n"


@dataclass(frozen=True, slots=True)
class FileRow:
    """`number`: the line, or in a list and in Parquet the place, from 1. `content`: the row, or why there is none."""

    number: int
    content: Row | UnreadableRow


class UnreadableFile(Exception):
    """Why a file cannot be read on, in words."""


def read_rows(path: Path, advance: Callable[[int], None] = lambda size: None) -> Iterator[FileRow]:
    """The file's rows; `advance` hears how many bytes were read. Raises `UnreadableFile` and `OSError`."""
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, advance)
        return
    with path.open("rb") as file:
        is_list = _first_byte(file) == b"["
        yield from _list_rows(file, advance) if is_list else _line_rows(file, advance)


def _first_byte(file: BinaryIO) -> bytes:
    """The first byte that is no whitespace, read from the start and put back."""
    byte = file.read(1)
    while byte and byte in b" \t\r\n":
        byte = file.read(1)
    file.seek(0)
    return byte


def _line_rows(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[FileRow]:
    number = 0
    while line := file.readline(MAX_ROW_BYTES):
        number += 1
        advance(len(line))
        if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                advance(len(rest))
            advance(len(rest))
            yield FileRow(number, UnreadableRow(f"the line is longer than {MAX_ROW_BYTES} bytes"))
        elif line.strip():
            yield FileRow(number, _row(line))


def _row(line: bytes) -> Row | UnreadableRow:
    try:
        return _checked(json.loads(line, parse_constant=_no_number))
    except (ValueError, RecursionError):
        return UnreadableRow("it is not JSON")


def _checked(value: object) -> Row | UnreadableRow:
    return value if isinstance(value, dict) else UnreadableRow("it is not a JSON object")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _list_rows(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[FileRow]:
    """The objects of one long list, read a piece at a time."""
    decoder = json.JSONDecoder(parse_constant=_no_number)
    decode = codecs.getincrementaldecoder("utf-8")().decode
    buffer, number, wanted = "", 0, CHUNK_BYTES
    separators = WHITESPACE + "["  # before the first object; a comma from then on
    while True:
        buffer = buffer.lstrip(separators)
        if buffer.startswith("]"):
            return
        try:
            value, end = decoder.raw_decode(buffer)
        except (ValueError, RecursionError):
            piece = file.read(wanted)
            if not piece or len(buffer) > MAX_ROW_BYTES:
                raise UnreadableFile(f"item {number + 1} of the list is not JSON") from None
            advance(len(piece))
            wanted = max(wanted, len(buffer))  # a long item is not parsed again for every chunk
            try:
                buffer += decode(piece)
            except UnicodeDecodeError:
                raise UnreadableFile("it is not UTF-8") from None
            continue
        number, buffer, separators, wanted = number + 1, buffer[end:], WHITESPACE + ",", CHUNK_BYTES
        yield FileRow(number, _checked(value))


def _parquet_rows(path: Path, advance: Callable[[int], None]) -> Iterator[FileRow]:
    try:
        from pyarrow import parquet  # noqa: PLC0415 - large, and needed for this alone
    except ImportError:
        raise UnreadableFile("reading Parquet needs pyarrow: pip install pyarrow") from None
    number = 0
    with parquet.ParquetFile(path) as file:
        share = path.stat().st_size / max(1, file.metadata.num_rows)
        for batch in file.iter_batches(batch_size=PARQUET_BATCH):
            rows: list[dict[str, Any]] = batch.to_pylist()
            for row in rows:
                number += 1
                yield FileRow(number, row)
            advance(round(share * len(rows)))
