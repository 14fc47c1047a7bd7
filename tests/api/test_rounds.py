"""Every training round is kept, once, and can be read: as data, as a page, after an erasure too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx

from server.adapters.report import html
from tests.api.conftest import Opener, Stack, assert_openai_error
from tests.api.keyed import call, open_keyed

EVIL = "</td><script>alert(1)</script>"
REPORT: dict[str, Any] = {
    "outcome": "discarded",
    "round": "learner-1-7",
    "reason": "KL to the base is 9.100 nats a token, above 2",
    "detail": {
        "round": 7,
        "parent": "base",
        "signals": 60,
        "groups": 44,
        "steps": 12,
        "steps_discarded": 2,
        "discard_reasons": {"the loss is not finite": 2},
        "curve": {name: [1.0, 0.5, 0.25] for name in ("loss", "chosen_logprob", "rejected_logprob", "margin", "kl")}
        | {"length": [20.0, 21.0, 22.0]},
        "reliabilities": {"0123456789abcdef0123456789abcdef": 0.31, "feed" * 8: 0.9},
        "skipped": {"image missing": 3, EVIL: 1},
        "seconds": 6.5,
        "phase_seconds": {"plan": 0.5, "train": 6.0},
        "before": {"examples": 60, "accuracy": 0.5, "margin": 0.0, "kl": 0.0},
        "after": {"examples": 60, "accuracy": 0.75, "margin": 0.4, "kl": None},
    },
}


async def told(stack: Stack, **changes: Any) -> httpx.Response:
    body = {"alias": "default", "owner": "me", "ttl_s": 60.0}
    token = (await stack.client.post("/v1/training/lease", json=body)).json()["token"]
    return await stack.client.post(
        "/v1/training/report", json={"alias": "default", "token": token, **REPORT, **changes}
    )


async def listed(stack: Stack, **params: Any) -> list[dict[str, Any]]:
    response = await stack.client.get("/v1/rounds", params={"alias": "default", **params})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["data"]
    return found


async def test_a_round_that_is_told_twice_is_kept_once(each_stack: Stack) -> None:
    """A learner that died before it heard the answer tells again: one round, one line of the audit trail, one count."""
    for _ in range(2):
        assert (await told(each_stack)).status_code == 200
    (one,) = await listed(each_stack)
    assert (one["outcome"], one["signals"], one["groups"], one["seconds"]) == ("discarded", 60, 44, 6.5)
    audit = (await each_stack.client.get("/v1/audit")).json()["data"]
    assert [entry["action"] for entry in audit].count("round.discarded") == 1
    counted = each_stack.services.metrics.learner_rounds.labels("default", "discarded")
    assert counted._value.get() == 1
    await told(each_stack, round="learner-1-8", outcome="skipped", reason="there is nothing to learn from")
    await told(each_stack, round=None)
    await told(each_stack, round=None)
    assert [one["outcome"] for one in await listed(each_stack)] == ["discarded", "discarded", "skipped", "discarded"]
    ids = [one["id"] for one in await listed(each_stack)]
    assert [one["id"] for one in await listed(each_stack, limit=2, before=ids[1])] == ids[2:]


async def test_every_round_has_a_page(each_stack: Stack) -> None:
    """A discarded one too: curves, standing before and after, who was believed, what was left out, and why it ended."""
    await told(each_stack)
    (one,) = await listed(each_stack)
    response = await each_stack.client.get(f"/v1/rounds/{one['id']}", params={"format": "html"})
    text = response.text
    assert response.headers["content-security-policy"] == html.POLICY
    for said in (
        "above 2",
        "chosen_logprob",
        "rejected_logprob",
        "length",
        "22",
        "image missing",
        "the loss is not finite",
        "01234567",
        "0.31",
        "0.75",
        "12, 2 of them discarded",
        "train",
    ):
        assert said in text, said
    assert "0123456789" not in text, "annotators are shortened"
    assert "<script" not in text and "alert(1)" in text
    assert set(re.findall(r"https?://[^\"' <]+", text)) == {"http://www.w3.org/2000/svg"}
    ElementTree.fromstring(text[text.index("<body>") : text.index("</body>") + 7])
    plain = await each_stack.client.get(f"/v1/rounds/{one['id']}", params={"format": "markdown"})
    assert plain.headers["content-type"].startswith("text/markdown") and "image missing" in plain.text
    data = (await each_stack.client.get(f"/v1/rounds/{one['id']}")).json()
    assert data["detail"] == {**REPORT["detail"], "reason": REPORT["reason"]}


async def test_a_page_is_made_of_whatever_a_learner_tells(stack: Stack) -> None:
    """Nothing at all, other types than expected, thousands of entries: a page of bounded size."""
    many = {f"reason {number} {EVIL}": number for number in range(1500)}
    details: list[dict[str, Any]] = [
        {},
        dict.fromkeys(REPORT["detail"], EVIL),
        {name: [1, None, EVIL] for name in REPORT["detail"]},
        {name: {EVIL: {EVIL: EVIL}} for name in REPORT["detail"]},
        {"skipped": many, "curve": {"loss": [0.5] * 20_000}},
    ]
    for number, detail in enumerate(details):
        assert (await told(stack, round=f"odd-{number}", detail=detail)).status_code == 200
    for one in await listed(stack):
        page = await stack.client.get(f"/v1/rounds/{one['id']}", params={"format": "html"})
        assert page.status_code == 200 and len(page.text) < 60_000 and "<script" not in page.text
        ElementTree.fromstring(page.text[page.text.index("<body>") : page.text.index("</body>") + 7])


async def test_an_erased_user_is_in_no_round(each_stack: Stack) -> None:
    """What rounds found of each annotator goes with the annotator; the others' stays."""
    gone = each_stack.services.signer.user_hash("default", "ann")
    await told(each_stack, detail={"reliabilities": {gone: 0.4, "somebody": 0.5}})
    assert (await each_stack.client.delete("/v1/users/ann/data")).status_code == 200
    (one,) = await listed(each_stack)
    found = (await each_stack.client.get(f"/v1/rounds/{one['id']}")).json()
    assert found["detail"]["reliabilities"] == {"somebody": 0.5}


async def test_who_may_look_at_rounds(open_stack: Opener, tmp_path: Path) -> None:
    """Operators and learners; what is not there is a 404, a wrong parameter a 400."""
    stack = await open_keyed(open_stack, tmp_path)
    for path in ("/v1/rounds?alias=default", "/v1/rounds/1"):
        assert (await call(stack, "default-app", "GET", path)).status_code == 403
    assert (await call(stack, "default-operator", "GET", "/v1/rounds?alias=default")).json()["data"] == []
    for path, status, code in (
        ("/v1/rounds/1", 404, "round_not_found"),
        ("/v1/rounds?alias=nobody", 404, "alias_not_found"),
    ):
        assert_openai_error(await call(stack, "default-operator", "GET", path), status, code)
    for path in ("/v1/rounds/0", "/v1/rounds/x", f"/v1/rounds/{2**40}", "/v1/rounds", "/v1/rounds?alias=a&limit=0"):
        assert (await call(stack, "default-operator", "GET", path)).status_code == 400, path
