"""RLHF-V-Dataset (openbmb): answers of a model, corrected by people segment by segment. RLAIF-V has the same columns.

`text` is an object (in the files a JSON text) of `question`, `chosen` and `rejected`; RLAIF-V has these three as
columns. `image` is a path or `{"bytes", "path"}`; `image_path` stands in where it is absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from clients.exchange.groups import ImportedGroup, Row, UnreadableRow, pair, picture_of, question, text_of


def read_rlhf_v(row: Row) -> ImportedGroup:
    """One correction: the corrected answer is better than the model's own."""
    said = _said(row)
    image = row.get("image") or row.get("image_path")
    if image is None:
        raise UnreadableRow("image is missing")
    turns = question(text_of(said, "question"), [picture_of(image)])
    return pair(turns, text_of(said, "chosen"), text_of(said, "rejected"), source="correction")


def _said(row: Row) -> Row:
    text = row.get("text")
    if text is None:
        return row
    if isinstance(text, str):
        try:
            text = json.loads(text)
        except ValueError:
            raise UnreadableRow("text is not JSON") from None
    if not isinstance(text, Mapping):
        raise UnreadableRow("text is not an object of question, chosen and rejected")
    return text
