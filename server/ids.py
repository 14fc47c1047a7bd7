"""Identifiers: unguessable, unique, and sorted by time (UUID version 7, RFC 9562)."""

from __future__ import annotations

import os
import time


def new_id(prefix: str) -> str:
    """`prefix-` and 32 hexadecimal digits: 48 bits of milliseconds, version, and 74 random bits."""
    value = bytearray(int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10))
    value[6] = 0x70 | (value[6] & 0x0F)
    value[8] = 0x80 | (value[8] & 0x3F)
    return f"{prefix}-{value.hex()}"


def issued_at(name: str) -> float:
    """When `new_id` made this id, UTC seconds since the epoch."""
    return int(name.rpartition("-")[2][:12], 16) / 1000


def candidate_id(completion_id: str, index: int | str) -> str:
    """A candidate's id follows from its completion's."""
    return f"{completion_id}.{index}"
