"""Three small plots as SVG: checks against their margins, evidence against what is asked for, curves. Pure.

A plot is 360 units wide, so that its text can be read on a telephone without zooming. It carries its own style sheet,
follows the reader's light or dark mode, and shows nothing by colour alone: outcomes differ in shape and are written
beside it. Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/). All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from server.wire.adapters import CheckReply

WIDTH: Final = 360
STYLE: Final = """
.pb text{font:12px system-ui,sans-serif;fill:#222}.pb .s{font-size:10px;fill:#555}.pb .b{font-weight:600}
.pb .zone{fill:#000;fill-opacity:.08}.pb .axis{stroke:#888;stroke-width:1}.pb .same{stroke:#888;stroke-width:1}
.pb .margin{stroke:#222;stroke-width:1.5;stroke-dasharray:3 2}.pb .bar{stroke-width:3;stroke-linecap:round}
.pb .passed{stroke:#0072b2;fill:#0072b2}.pb .failed{stroke:#d55e00;fill:#d55e00}
.pb .inconclusive{stroke:#767676;fill:#767676}.pb .hollow{fill:#fff;stroke-width:2}
.pb .line{fill:none;stroke:#0072b2;stroke-width:1.5}
@media(prefers-color-scheme:dark){.pb text{fill:#e6e6e6}.pb .s{fill:#aaa}.pb .zone{fill:#fff;fill-opacity:.12}
.pb .margin{stroke:#e6e6e6}.pb .passed{stroke:#56b4e9;fill:#56b4e9}.pb .failed{stroke:#ff9d5c;fill:#ff9d5c}
.pb .inconclusive{stroke:#a8a8a8;fill:#a8a8a8}.pb .hollow{fill:#16181b}.pb .line{stroke:#56b4e9}}
""".replace("\n", "")
MARKS: Final = {"passed": "●", "failed": "◆", "inconclusive": "○", "skipped": "–"}
LEGEND: Final = "● passed  ◆ failed  ○ inconclusive  ┆ margin  │ unchanged  ▒ beyond"


def number(value: float | None) -> str:
    """Short, with enough digits to compare."""
    return "-" if value is None else f"{value:.4g}"


def forest(checks: Sequence[CheckReply]) -> str:
    """Each check's estimate and 95% interval on a scale of its own, with its margin and what lies beyond it."""
    parts, top = [], 0
    for check in checks:
        parts.append(_heading(check, top))
        if check.value is not None and (check.at_least is not None or check.at_most is not None):
            parts.append(_strip(check, top + 18))
            top += 14
        top += 48
    parts.append(_text(0, top + 6, LEGEND, "s"))
    return _svg(top + 14, parts, "Checks as 95% intervals against their margins")


@dataclass(frozen=True, slots=True)
class Evidence:
    """One test's e-value and what is asked of it. Of harm it is bad news when it is enough."""

    name: str
    value: float
    needed: float
    is_of_harm: bool = False


def evidence(rows: Sequence[Evidence]) -> str:
    """Bars on a logarithmic scale from 1; the dashed line is where the evidence suffices."""
    highest = max([10.0, *(max(one.value, one.needed) * 2 for one in rows)])

    def x(value: float) -> float:
        return min(1.0, math.log(max(value, 1.0)) / math.log(highest)) * (WIDTH - 2)

    parts = []
    for place, one in enumerate(rows):
        top = place * 40
        kind, shown = "inconclusive", ""
        if one.value >= one.needed:
            kind = "failed" if one.is_of_harm else "passed"
            shown = f" {MARKS[kind]} shown"
        parts += [
            _text(0, top + 12, _clipped(one.name, 30), "b"),
            _text(WIDTH, top + 12, f"{number(one.value)} of {number(one.needed)}{shown}", end=True),
            _line(0, top + 24, WIDTH, top + 24, "axis"),
            _line(0, top + 24, x(one.value), top + 24, f"bar {kind}"),
            _line(x(one.needed), top + 17, x(one.needed), top + 31, "margin"),
        ]
    parts.append(_text(0, len(rows) * 40 + 6, "logarithmic, from 1; at the dashed line it is shown", "s"))
    return _svg(len(rows) * 40 + 14, parts, "Evidence against what is asked for")


def curves(series: Mapping[str, Sequence[float]]) -> str:
    """Each series on a scale of its own, over its steps."""
    parts = []
    for place, (name, values) in enumerate(series.items()):
        top = place * 84
        low, high = min(values), max(values)
        spread = high - low or 1.0
        last = max(1, len(values) - 1)
        points = " ".join(
            f"{index / last * WIDTH:.1f},{top + 66 - (value - low) / spread * 46:.1f}"
            for index, value in enumerate(values)
        )
        parts += [
            _text(0, top + 12, _clipped(name, 30), "b"),
            _text(WIDTH, top + 12, f"{number(values[0])} → {number(values[-1])}", end=True),
            _line(0, top + 68, WIDTH, top + 68, "axis"),
            f'<polyline class="line" points="{points}"/>',
        ]
    return _svg(len(series) * 84, parts, f"Curves: {', '.join(series)}")


# --- one check --------------------------------------------------------------------------------------------


def _heading(check: CheckReply, top: float) -> str:
    figures = check.detail
    if check.value is not None:
        bounds = f" ({number(check.low)} to {number(check.high)})" if check.low is not None else ""
        figures = f"{number(check.value)}{bounds}{_asked(check)}, n = {check.count}"
    below = top + (48 if check.at_least is not None or check.at_most is not None else 28)
    outcome = f"{MARKS.get(check.outcome, '')} {check.outcome}"
    words = _text(WIDTH, top + 12, outcome, "b", end=True) + _text(0, top + 12, _clipped(check.name, 34), "b")
    return words + _text(0, below if check.value is not None else top + 28, _clipped(figures, 68), "s")


def _asked(check: CheckReply) -> str:
    if check.at_least is not None and check.at_most is not None:
        return f", asked: {number(check.at_least)} to {number(check.at_most)}"
    if check.at_least is not None:
        return f", asked: at least {number(check.at_least)}"
    return f", asked: at most {number(check.at_most)}" if check.at_most is not None else ""


def _strip(check: CheckReply, top: float) -> str:
    value = check.value or 0.0
    bounds = [one for one in (check.at_least, check.at_most) if one is not None]
    known = [one for one in (check.low, check.high, check.unchanged) if one is not None]
    least, most = min([value, *known, *bounds]), max([value, *known, *bounds])
    pad = (most - least or 1.0) * 0.08
    least, most = least - pad, most + pad

    def x(at: float) -> float:
        return (at - least) / (most - least) * WIDTH

    middle = top + 8
    parts = []
    if check.at_least is not None:
        parts.append(_rect(0, top, x(check.at_least), 16))
    if check.at_most is not None:
        parts.append(_rect(x(check.at_most), top, WIDTH - x(check.at_most), 16))
    if check.unchanged is not None:
        parts.append(_line(x(check.unchanged), top, x(check.unchanged), top + 16, "same"))
    parts += [_line(x(bound), top - 1, x(bound), top + 17, "margin") for bound in bounds]
    low, high = (end if one is None else x(one) for one, end in ((check.low, 0.0), (check.high, float(WIDTH))))
    parts.append(_line(low, middle, high, middle, f"bar {check.outcome}"))
    parts.append(_mark(x(value), middle, check.outcome))
    return "".join(parts)


def _mark(x: float, y: float, outcome: str) -> str:
    if outcome == "failed":
        corners = f"{x:.1f},{y - 7:.1f} {x + 7:.1f},{y:.1f} {x:.1f},{y + 7:.1f} {x - 7:.1f},{y:.1f}"
        return f'<polygon class="failed" points="{corners}"/>'
    kind = "passed" if outcome == "passed" else "inconclusive hollow"
    return f'<ellipse class="{kind}" cx="{x:.1f}" cy="{y:.1f}" rx="5" ry="5"/>'


# --- elements ---------------------------------------------------------------------------------------------


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pb" viewBox="-8 0 {WIDTH + 16} {height:.0f}" '
        f'width="{WIDTH + 16}" role="img"><title>{escape(title)}</title><style>{STYLE}</style>{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, kind: str = "", *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}"{anchor}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _rect(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}" class="zone"/>'


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
