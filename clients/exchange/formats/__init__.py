"""The formats that can be imported, each a pure function from one row to a group; raises `UnreadableRow`.

A new format is one file beside these and a line each in `Format` and `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from clients.exchange.formats.mm_rlhf import read_mm_rlhf
from clients.exchange.formats.open_webui import read_open_webui
from clients.exchange.formats.plain import read_plain
from clients.exchange.formats.preference_10k import read_preference_10k
from clients.exchange.formats.rlhf_v import read_rlhf_v
from clients.exchange.formats.tensorzero import read_tensorzero
from clients.exchange.formats.trl import read_trl
from clients.exchange.formats.vlfeedback import read_vlfeedback
from clients.exchange.groups import ImportedGroup, Row

Parser = Callable[[Row], ImportedGroup]


class Format(StrEnum):
    PLAIN = "plain"
    TRL = "trl"
    RLHF_V = "rlhf-v"
    MM_RLHF = "mm-rlhf"
    VLFEEDBACK = "vlfeedback"
    PREFERENCE_10K = "preference-10k"
    OPEN_WEBUI = "open-webui"
    TENSORZERO = "tensorzero"


FORMATS: Final[dict[Format, Parser]] = {
    Format.PLAIN: read_plain,
    Format.TRL: read_trl,
    Format.RLHF_V: read_rlhf_v,
    Format.MM_RLHF: read_mm_rlhf,
    Format.VLFEEDBACK: read_vlfeedback,
    Format.PREFERENCE_10K: read_preference_10k,
    Format.OPEN_WEBUI: read_open_webui,
    Format.TENSORZERO: read_tensorzero,
}
