"""Puts replacements in the place of what rules found in a text. Pure.

Spans of several rules may overlap: what overlaps is replaced once, by the replacement of the span that begins first
(of equals, of the rule that stands first). So the beginning of a redacted text does not depend on what is found later,
and a stream can send it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Replacement = tuple[int, int, str]
"""(first character, the one behind the last, what stands there instead)"""


def redact(text: str, found: Iterable[Replacement], *, until: int | None = None) -> str:
    """The text with its replacements; `until`: only what begins before this character of the original."""
    limit = len(text) if until is None else until
    pieces: list[str] = []
    done = 0
    for start, end, replacement in sorted(found, key=lambda one: one[0]):
        if start >= limit:
            break
        if start >= done:
            pieces += text[done:start], replacement
        done = max(done, end)
    pieces.append(text[done:limit])
    return "".join(pieces)


def redact_parts(parts: Sequence[str], found: Iterable[Replacement]) -> tuple[str, ...]:
    """The same for a text in several parts, of which the spans are those of all together: a replacement stands in the
    part in which its span begins.
    """
    found = sorted(found, key=lambda one: one[0])
    redacted, offset, covered = [], 0, 0
    for part in parts:
        end = offset + len(part)
        local: list[Replacement] = []
        if covered > offset:  # what began in an earlier part goes on here
            local.append((0, min(covered, end) - offset, ""))
        for first, last, replacement in found:
            if offset <= first < end:
                local.append((first - offset, min(last, end) - offset, replacement))
                covered = max(covered, last)
        redacted.append(redact(part, local))
        offset = end
    return tuple(redacted)
