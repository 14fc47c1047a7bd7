"""An adapter's page: what it says, and that nothing in a row can break out of it."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from server.adapters.gate import checks
from server.adapters.report import content, html, markdown, svg
from server.adapters.report.content import Page
from server.config import GateConfig
from server.store.records import AdapterRecord, AdapterState, Report
from server.wire.adapters import CheckReply
from server.wire.operate import AuditEntry

EVIL = "</text></td><script>alert(1)</script> | `x` ![y](z) \n# 1 & 2"
SVG = "{http://www.w3.org/2000/svg}"


def adapter(number: int, parent: str, state: AdapterState = AdapterState.RETIRED, **manifest: Any) -> AdapterRecord:
    return AdapterRecord(f"a{number}", number, "pets", state, parent, manifest, 10.0 * number, 10.0 * number + 5)


GATE = (
    checks.suite("counts", [1.0] * 20 + [0.0] * 4, [0.0] * 24, 0.02),
    checks.suite("colours", [0.0] * 20, [1.0] * 19 + [0.0], 0.02),
    checks.reward([1.0, 0.0] * 10, [0.5] * 20, 0.1),
    checks.safety([False] * 30, [False] * 30, 0.02),
    checks.length([40, 41, 39, 44, 38, 40], [20] * 6, 1.5),
    checks.skipped("kl", EVIL),
    *checks.preference([0.2] * 30, GateConfig()),
)
CANARY = {
    "reason": "harm shown",
    "harm_needed": 100.0,
    "non_inferiority_needed": 20.0,
    "metrics": {
        "thumbs": {"evidence_of_harm": 250.0, "evidence_of_non_inferiority": 0.4},
        EVIL: {"evidence_of_harm": 1.0, "evidence_of_non_inferiority": None},
    },
    "words": ["thumbs: harm is shown, with 61 canary users.", EVIL],
}
ROUND = {
    "reason": EVIL,
    "curve": {"loss": [0.69, 0.5, 0.41], EVIL: [1.0, 2.0], "broken": [1.0, "x"], "short": [1.0]},
    EVIL: {EVIL: [EVIL] * 200},
}


def entry(number: int, action: str, subject: str, **detail: Any) -> AuditEntry:
    return AuditEntry(id=number, at=float(number), actor="key-1", action=action, subject=subject, detail=detail)


def page() -> Page:
    subject = adapter(2, "a1", AdapterState.ROLLED_BACK, objective={"rank": 4, "note": EVIL}, fingerprint=["long"])
    reports = [
        Report("round", "uploaded", ROUND, 20.0),
        Report("gate", "failed", {"checks": [one.model_dump() for one in GATE], "active": "a1"}, 21.0),
        Report("canary", "rolled_back", CANARY, 22.0),
    ]
    canary = {"active": "a1", "previous": None, "canary": "a2", "canary_share": 0.2}
    history = [
        entry(1, "publish", "a2", state="staged"),
        entry(2, "canary", "a2", before={}, after=canary, reason=EVIL, force=True),
        entry(3, "end_canary", "a2", before=canary, after={"active": "a1", "canary": None}, reason="harm shown"),
    ]
    known = {one.id: one for one in (adapter(1, "base"), subject, adapter(3, "a2"))}
    return content.page(subject, reports, history, known, evidence=CANARY)


class Elements(HTMLParser):
    """Every element, and every attribute's value."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def test_the_html_page_needs_nothing_and_runs_nothing() -> None:
    """No script, no outside address, no handler, whatever the rows hold; everything closed in order."""
    text = html.render(page())
    found = Elements(text)
    assert "script" not in found.names and "img" not in found.names and "link" not in found.names
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in {"src", "href"}]
    assert set(re.findall(r"https?://[^\"' <]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "alert(1)" in text, "it is shown as it is, and does nothing"
    body = text[text.index("<body>") : text.index("</body>") + 7]
    ElementTree.fromstring(body)


def test_the_page_says_who_decided_what_and_why() -> None:
    """Lineage, state, every check with its interval and margin, evidence, history with actors and reasons."""
    text = html.render(page())
    for said in ("rolled_back", "a1", "a3", "suite:counts", "at least -0.02", "harm is shown", "key-1", "canary, 20%"):
        assert said in text, said
    assert "(forced)" in text and "fingerprint" not in text
    sections = re.findall(r"<h2>(.*?)</h2>", text)
    assert [one.split(" (")[0] for one in sections] == [
        "Decisions",
        "canary: running",
        "canary: rolled_back",
        "gate: failed",
        "round: uploaded",
        "Lineage",
    ]


def test_the_markdown_page_carries_the_same_plots() -> None:
    """As data: images; a row of a table stays one row, and nothing in it becomes markup."""
    text = markdown.render(page())
    images = re.findall(r"^!\[.*\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)$", text, re.M)
    drawn = [section.plot for section in page().sections if section.plot]
    assert [base64.b64decode(one).decode() for one in images] == drawn
    assert len(drawn) == 4
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(re.sub(r"\\.", "", line).endswith("|") for line in tables)
    assert r"\<script\>" in text and "<script>" not in text
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert widths == {3, 5, 6, 8}


def test_a_check_shows_its_interval_beside_its_margin() -> None:
    """The failed one's bar lies in the shaded zone, the passed one's does not; shapes differ, not colours alone."""
    drawing = ElementTree.fromstring(svg.forest(GATE))
    assert [one.get("class") for one in drawing.iter(f"{SVG}polygon")] == ["failed", "failed"]
    kinds = [one.get("class") for one in drawing.iter(f"{SVG}ellipse")]
    assert kinds.count("passed") == 4 and kinds.count("inconclusive hollow") == 1
    bars = [one for one in drawing.iter(f"{SVG}line") if str(one.get("class")).startswith("bar")]
    zones = list(drawing.iter(f"{SVG}rect"))
    passed, failed = bars[0], bars[1]
    assert float(passed.get("x1", 0)) > float(zones[0].get("width", 0))
    assert float(failed.get("x2", 0)) < float(zones[1].get("width", 0))
    written = [one.text for one in drawing.iter(f"{SVG}text")]
    assert "◆ failed" in written and "– skipped" in written


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9, -3.0])
def test_any_figures_make_a_drawing(value: float) -> None:
    """One point, no bounds, a bound at zero, huge and tiny: well-formed and inside its frame."""
    bare = CheckReply(name="x", outcome="inconclusive", value=value, at_most=0.0, count=1)
    text = svg.forest([bare, bare.model_copy(update={"low": value, "high": value, "unchanged": value})])
    drawing = ElementTree.fromstring(text)
    places = [float(one.get(name, 0)) for one in drawing.iter(f"{SVG}line") for name in ("x1", "x2")]
    assert all(0 <= place <= svg.WIDTH for place in places) and "nan" not in text
    for text in (svg.curves({"flat": [value, value]}), svg.evidence([svg.Evidence("x", max(0.0, value), 1.0)])):
        assert "nan" not in text and ElementTree.fromstring(text) is not None
