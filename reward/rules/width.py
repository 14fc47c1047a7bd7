"""How far back a regular expression in RE2's syntax reaches from where it is first found in a growing text."""

from __future__ import annotations

import re
from re import _parser  # type: ignore[attr-defined]  # RE2 itself does not tell
from typing import Any, Final

_READ_OTHERWISE: Final = re.compile(r"\{,|\*\+|\+\+|\?\+|\}\+|\(\?>")
"""What Python reads in another way than RE2 does."""
_POSIX_CLASS: Final = re.compile(r"\[:\^?[a-z]+:\]")


def reach(pattern: str) -> int | None:
    r"""In characters, never too few; None where there is no bound, or none that can be told.

    It is the length of the longest match, but for a repetition at the very end, of which the fewest turns count:
    `code \d+` is found at the first digit. Python's parser reads RE2's syntax, or refuses it. One character is added
    for what looks at the next one (`\B`).
    """
    return _bound(pattern, to_the_end=False)


def longest(pattern: str) -> int | None:
    """The same for who needs the match to its end: an open repetition at the end has no bound then either."""
    return _bound(pattern, to_the_end=True)


def _bound(pattern: str, *, to_the_end: bool) -> int | None:
    if _READ_OTHERWISE.search(pattern):
        return None
    try:
        width = _width(_parser.parse(_POSIX_CLASS.sub("a", pattern), re.IGNORECASE), is_last=not to_the_end)
    except (re.error, RecursionError, OverflowError):
        return None
    return None if width >= _parser.MAXREPEAT else width + 1


def _width(parsed: Any, *, is_last: bool) -> int:
    total, end = 0, len(parsed) - 1
    for place, (kind, value) in enumerate(parsed):
        at_end = is_last and place == end
        if kind in (_parser.MAX_REPEAT, _parser.MIN_REPEAT) and at_end:
            fewest, _, inner = value
            total += fewest * inner.getwidth()[1]
        elif kind is _parser.SUBPATTERN:
            total += _width(value[-1], is_last=at_end)
        elif kind is _parser.BRANCH:
            total += max(_width(branch, is_last=at_end) for branch in value[1])
        else:
            total += _parser.SubPattern(parsed.state, [(kind, value)]).getwidth()[1]
    return total
