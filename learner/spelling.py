"""How the vocabulary spells its tokens, as bytes, from the base model's `tokenizer.json`.

Nothing is ever made into tokens here: what was sampled is only read, so that an answer can be cut between its tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from learner.errors import SettingsError

FILE: Final = "tokenizer.json"
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling:
    def __init__(self, pieces: Sequence[bytes]) -> None:
        """`pieces`: of every token; control tokens have none."""
        self._pieces = pieces

    def of(self, token_ids: Sequence[int]) -> list[bytes]:
        return [self._pieces[token] if token < len(self._pieces) else b"" for token in token_ids]


def read_spelling(directory: Path) -> Spelling:
    """Raises `SettingsError` where the directory does not say."""
    try:
        told = json.loads((directory / FILE).read_text(encoding="utf-8"))
        vocabulary = told["model"]["vocab"]
        if not isinstance(vocabulary, dict):  # a unigram's: (piece, score) in the order of the ids
            vocabulary = {piece: token for token, (piece, _) in enumerate(vocabulary)}
        spell = _byte_level if _is_byte_level(told) else _plain
        pieces = {int(token): spell(piece) for piece, token in vocabulary.items()}
        for added in told.get("added_tokens", ()):
            pieces[int(added["id"])] = b"" if added.get("special") else str(added["content"]).encode()
        return Spelling([pieces.get(token, b"") for token in range(max(pieces) + 1)])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise SettingsError(
            f"learner settings token_mask and self_inject need a readable {FILE} in {directory} ({error!r})"
        ) from error


def _is_byte_level(told: dict[str, Any]) -> bool:
    part = told.get("decoder") or {}
    return any(one.get("type") == "ByteLevel" for one in [part, *part.get("decoders", ())])


def _plain(piece: str) -> bytes:
    """As SentencePiece writes it: ▁ is a space, <0x0A> a byte."""
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()


def _alphabet() -> dict[str, int]:
    """Byte-level BPE's: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES: Final = _alphabet()


def _byte_level(piece: str) -> bytes:
    return bytes(_BYTES[character] for character in piece)
