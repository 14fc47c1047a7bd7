"""MM-RLHF's `dpo_pairs.jsonl`: pairs out of rankings by people, `prompt`, `chosen`, `rejected`, `image` or `video`."""

from __future__ import annotations

from clients.exchange.groups import ImportedGroup, Row, UnreadableRow, pair, picture_of, question, text_of


def read_mm_rlhf(row: Row) -> ImportedGroup:
    """One pair of a ranking."""
    if row.get("video"):
        raise UnreadableRow("it is about a video; images only")
    pictures = [picture_of(row["image"])] if row.get("image") else []
    turns = question(text_of(row, "prompt"), pictures)
    return pair(turns, text_of(row, "chosen"), text_of(row, "rejected"), source="ranking")
