"""The operators' console in a real browser: it shows what the service says, and makes each move that was meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.api.served import Served
from tests.browser.conftest import DESK, PHONE, Opener, assert_accessible
from tests.browser.scene import asked, learner_was_here, site_at, talk, upload


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One adapter serves, its child is the canary, another one waits; people said something. Nothing here is moved."""
    with site_at(tmp_path_factory.mktemp("looked-at")) as site:
        first = upload(site, seed=1)
        asked(site, "POST", f"/v1/adapters/{first}/promote", {"reason": "the first round"})
        talk(site, 4)  # All are answered by the first, whoever the canary's users come to be.
        second = upload(site, seed=2, parent=first)
        asked(site, "POST", f"/v1/adapters/{second}/canary", {"share": 0.5, "reason": "a try"})
        upload(site, seed=3, parent=first)
        talk(site, 8)
        learner_was_here(site)
        yield site


def console_at(site: Served, open_page: Opener, page: str = "overview", **options: object) -> Page:
    opened = open_page(f"{site.url}/ui/operate#/{page}", **options)
    expect(opened.locator(".card").first).to_be_visible()
    return opened


def adapters_of(site: Served) -> list[str]:
    return [one["id"] for one in asked(site, "GET", "/v1/adapters")["data"]]


def routing_of(site: Served) -> dict[str, object]:
    found: dict[str, object] = asked(site, "GET", "/v1/routing")["data"][0]
    return found


def confirm(page: Page, move: str, reason: str) -> None:
    page.get_by_role("button", name=move, exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill(reason)
    dialog.get_by_role("button", name=move, exact=True).click()


def test_the_overview_says_who_serves_and_how_it_goes(looked_at: Served, open_page: Opener) -> None:
    """Routing, the canary's evidence, signals, rewards, the learner, and who moved what."""
    first, second, _ = adapters_of(looked_at)
    page = console_at(looked_at, open_page)
    expect(page.get_by_role("region", name="Serving")).to_contain_text(first)
    expect(page.get_by_role("region", name="Serving")).to_contain_text(f"{second} at 50% of the users")
    expect(page.get_by_role("region", name="Canary")).to_contain_text("thumbs")
    expect(page.get_by_role("img", name="Signals over time")).to_be_visible()
    expect(page.get_by_role("img", name="Mean reward over time")).to_be_visible()
    expect(page.get_by_role("region", name="Learner", exact=True)).to_contain_text("learner@gpu-1")
    history = page.get_by_role("region", name="Routing history").get_by_role("row")
    expect(history).to_have_count(3)
    expect(history.nth(2)).to_contain_text("the first round")


def test_the_lineage_is_a_graph_of_links(looked_at: Served, open_page: Opener) -> None:
    """Each adapter once, with its state, behind what it grew out of; it leads to the adapter's page."""
    first, second, third = adapters_of(looked_at)
    page = console_at(looked_at, open_page, "adapters")
    graph = page.get_by_role("group", name="Lineage of the adapters")
    places = {name: graph.get_by_role("link", name=name).bounding_box() or {} for name in (first, second, third)}
    assert places[first]["x"] < places[second]["x"] == places[third]["x"]
    assert places[second]["y"] < places[third]["y"]
    expect(graph.get_by_role("link", name=f"{second}, canary")).to_be_visible()
    graph.get_by_role("link", name=third).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"{third} gated")
    for kind in ("Gate", "Probe", "Integrity", "Decisions"):
        expect(page.get_by_role("region", name=kind, exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Gate", exact=True)).to_contain_text("preference")


def test_learning_shows_whether_scorers_and_rules_agree_with_people(looked_at: Served, open_page: Opener) -> None:
    """Shares with their intervals, and what came of each adapter's answers."""
    page = console_at(looked_at, open_page, "learning")
    expect(page.get_by_role("region", name="Scorers and people")).to_contain_text("brevity")
    expect(page.get_by_role("region", name="Scorers and people")).to_contain_text("of 6 pairs")
    expect(page.get_by_role("region", name="Rules and people")).to_contain_text("access_code")
    expect(page.get_by_role("region", name="By adapter", exact=True)).to_contain_text(adapters_of(looked_at)[0])


def test_rounds_are_shown_where_the_service_keeps_them(looked_at: Served, open_page: Opener) -> None:
    """What became of each, and the newest one's curves; what is no curve is left out."""
    summary = {
        "id": 7,
        "alias": "default",
        "outcome": "discarded",
        "reason": "worse",
        "adapter": None,
        "created_at": 1e9,
    }
    detail = {"curve": {"loss": [0.7, 0.5, 0.45], "broken": [1, "x"]}, "groups_skipped": 3}
    page = console_at(looked_at, open_page)
    page.route("**/v1/rounds?*", lambda route: route.fulfill(json={"object": "list", "data": [summary]}))
    page.route("**/v1/rounds/7", lambda route: route.fulfill(json={**summary, "detail": detail}))
    page.get_by_role("link", name="Learning").click()
    rounds = page.get_by_role("region", name="Rounds", exact=True)
    expect(rounds.get_by_role("row").nth(1)).to_contain_text("discarded")
    expect(rounds.get_by_role("img", name="loss: from 0.7 to 0.45")).to_be_visible()
    expect(rounds).not_to_contain_text("broken")


def test_the_audit_trail_can_be_searched(looked_at: Served, open_page: Opener) -> None:
    """Everything, or what was done to one subject."""
    second = adapters_of(looked_at)[1]
    page = console_at(looked_at, open_page, "audit")
    page.get_by_label("About").fill(second)
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{looked_at.url}/ui/operate#/audit/{second}")
    expect(page.get_by_role("row").nth(1)).to_contain_text("a try")
    expect(page.locator("tbody")).not_to_contain_text("the first round")


def test_promote_roll_back_undo_and_quarantine(tmp_path: Path, open_page: Opener) -> None:
    """One click and a confirmation each; the reason is in the audit trail, and the page follows by itself."""
    with site_at(tmp_path) as site:
        adapter = upload(site, seed=1)
        page = console_at(site, open_page, f"adapters/{adapter}")
        confirm(page, "Promote", "its gate report is fine")
        expect(page.get_by_role("heading", level=1)).to_contain_text("active")
        page.get_by_role("link", name="Overview").click()
        expect(page.locator(".serving")).to_have_text(adapter)
        confirm(page, "Roll back", "too many words")
        expect(page.locator(".serving")).to_have_text("base")
        page.get_by_role("button", name="Undo rollback").click()
        page.get_by_role("dialog").get_by_role("button", name="Undo").click()
        expect(page.locator(".serving")).to_have_text(adapter)
        page.locator(".serving a").click()
        confirm(page, "Quarantine", "it learned from spam")
        expect(page.get_by_role("heading", level=1)).to_contain_text("quarantined")
        assert routing_of(site)["active"] == "base"
        trail = asked(site, "GET", "/v1/audit?limit=4")["data"]
        assert [(one["action"], one["detail"]["reason"]) for one in trail] == [
            ("quarantine", "it learned from spam"),
            ("undo", ""),
            ("rollback", "too many words"),
            ("promote", "its gate report is fine"),
        ]


def test_a_canary_is_started_with_a_share(tmp_path: Path, open_page: Opener) -> None:
    """The share as typed, in percent; cancelling moves nothing."""
    with site_at(tmp_path) as site:
        adapter = upload(site, seed=1)
        page = console_at(site, open_page, f"adapters/{adapter}")
        page.get_by_role("button", name="Start canary").click()
        page.keyboard.press("Escape")
        assert routing_of(site)["generation"] == 0
        page.get_by_role("button", name="Start canary").click()
        page.get_by_label("Share of the users").fill("12.5")
        page.get_by_role("dialog").get_by_role("button", name="Start canary").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("canary")
        assert (routing_of(site)["canary"], routing_of(site)["canary_share"]) == (adapter, 0.125)


def test_a_move_on_an_old_view_is_refused(tmp_path: Path, open_page: Opener) -> None:
    """Somebody else was faster: nothing is moved over their head, and the page says so."""
    with site_at(tmp_path) as site:
        first, second = upload(site, seed=1), upload(site, seed=2)
        page = console_at(site, open_page, f"adapters/{first}")
        page.get_by_role("button", name="Promote").click()
        asked(site, "POST", f"/v1/adapters/{second}/promote", {"reason": "faster"})
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Promote").click()
        expect(dialog.get_by_role("alert")).to_contain_text("Somebody else moved it")
        assert routing_of(site)["active"] == second
        dialog.get_by_role("button", name="Look again").click()
        page.get_by_role("link", name="Overview").click()
        expect(page.locator(".serving")).to_have_text(second)


def test_it_is_for_operators(tmp_path: Path, open_page: Opener) -> None:
    """Another role's key is refused in words; an operator's opens it, and only until the page is left."""
    with site_at(tmp_path, require_keys=True) as site:
        page = open_page(f"{site.url}/ui/operate")
        page.get_by_role("textbox", name="Key").fill("default-app")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("This needs a key of the role operator.")
        page.get_by_role("button", name="Use an operator's key").click()
        page.get_by_role("textbox", name="Key").fill("default-operator")
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Serving")).to_contain_text("base")
        page.reload()
        expect(page.get_by_role("dialog")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_everybody_can_use_it(looked_at: Served, open_page: Opener, size: dict[str, int], scheme: str) -> None:
    """axe-core finds nothing serious on any page, nor in the dialog."""
    third = adapters_of(looked_at)[2]
    page = console_at(looked_at, open_page, size=size, scheme=scheme)
    for name in ("overview", "adapters", f"adapters/{third}", "learning", "audit"):
        page.evaluate("name => { location.hash = `#/${name}`; }", name)
        page.wait_for_function("name => document.body.dataset.page === name", arg=name)
        assert_accessible(page)
    page.evaluate("name => { location.hash = `#/adapters/${name}`; }", third)
    page.get_by_role("button", name="Quarantine").click()
    assert_accessible(page)
