r"""What a text says in JSON's escapes: whoever parses it reads `\u0061` as `a`. Pure."""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 12
r"""Characters that one character may take: a surrogate pair, `\ud83d\ude00`."""
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\"\\/bfnrt]))")
_UNFINISHED: Final = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?$")
_SHORT: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def without_escapes(text: str) -> str:
    """The text as a JSON parser reads it. Half a surrogate pair becomes U+FFFD."""
    meant = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _SHORT.get(found[2], found[2]), text)
    return meant.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def finished(text: str) -> str:
    """Without an escape at its end that more text could go on."""
    return _UNFINISHED.sub("", text)
