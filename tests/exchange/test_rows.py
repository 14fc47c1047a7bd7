"""Files are read row by row, whatever stands in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clients.exchange import rows
from clients.exchange.groups import UnreadableRow
from clients.exchange.rows import UnreadableFile, read_rows


def found(path: Path) -> list[tuple[int, Any]]:
    return [
        (row.number, str(row.content) if isinstance(row.content, UnreadableRow) else dict(row.content))
        for row in read_rows(path)
    ]


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path: Path) -> None:
    """Empty lines count and are no rows; a broken line is reported in its place and the next is read."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n\n{"a": \n[1]\n{"a": NaN}\n{"a": "\xff"}\n{"a": "\xe2\x80\xa8"}')
    assert found(file) == [
        (1, {"a": 1}),
        (3, "it is not JSON"),
        (4, "it is not a JSON object"),
        (5, "it is not JSON"),
        (6, "it is not JSON"),
        (7, {"a": "\u2028"}),
    ]


def test_a_line_without_end_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line over the limit takes no memory beyond it, and the next line is read."""
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 100)
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"a": "x" * 250}) + "\n" + json.dumps({"b": 1}) + "\n")
    assert found(file) == [(1, "the line is longer than 100 bytes"), (2, {"b": 1})]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_list_is_read_item_by_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """However the pieces fall, also inside a character."""
    monkeypatch.setattr(rows, "CHUNK_BYTES", chunk)
    items = [{"text": "ä,]}[{ü"}, {"nested": [{"a": [1, 2]}]}, 3, {}]
    file = tmp_path / "rows.json"
    file.write_text("\n " + json.dumps(items, ensure_ascii=False, indent=1))
    assert found(file) == [(1, items[0]), (2, items[1]), (3, "it is not a JSON object"), (4, {})]


def test_a_broken_list_is_read_up_to_the_break(tmp_path: Path) -> None:
    """Behind the break nothing can be told apart any more: the file is refused from there, by item."""
    file = tmp_path / "rows.json"
    file.write_text('[{"a": 1}, {"b": ')
    reading = read_rows(file)
    assert next(reading).content == {"a": 1}
    with pytest.raises(UnreadableFile, match="item 2"):
        next(reading)


def test_parquet_is_read_as_the_public_sets_have_it(tmp_path: Path) -> None:
    """Image columns of the `datasets` library come as bytes."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = [{"image": {"bytes": b"\x89PNG", "path": "a.png"}, "text": "{}"}, {"image": None, "text": "x"}]
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "rows.parquet")
    assert found(tmp_path / "rows.parquet") == [(1, table[0]), (2, table[1])]


def test_progress_covers_the_file(tmp_path: Path) -> None:
    """The bytes told of add up to the file's size."""
    for name, text in (("a.jsonl", '{"a": 1}\n' * 100), ("b.json", json.dumps([{"a": 1}] * 100))):
        file = tmp_path / name
        file.write_text(text)
        told: list[int] = []
        assert len(list(read_rows(file, told.append))) == 100
        assert sum(told) == len(text)
