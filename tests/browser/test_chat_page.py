"""The chat page in a real browser: what is done there reaches the service, and nothing that is said becomes markup."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from server.errors import EngineUnavailable
from server.store import groups
from server.store.records import GroupRecord, SignalKind, SignalRecord
from server.store.signals import live_signals
from tests.api.served import Served
from tests.browser.conftest import DESK, PHONE, Opener, assert_accessible
from tests.browser.scene import ANSWERS, picture, site_at

DROP = """([target, data, name]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const event = (type) => new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: transfer });
  for (const type of ["dragenter", "dragover", "drop"]) target.dispatchEvent(event(type));
}"""
PASTE = """([data]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "image.png", { type: "image/png" }));
  document.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: transfer }));
}"""


def chat_at(site: Served, open_page: Opener, **options: Any) -> Page:
    page = open_page(f"{site.url}/ui", **options)
    expect(page.locator("#model option")).not_to_have_count(0)
    return page


def drop_image(page: Page, name: str = "kitchen.png") -> None:
    page.evaluate(DROP, [page.locator("main").element_handle(), base64.b64encode(picture()).decode(), name])
    expect(page.get_by_role("img", name=name)).to_be_visible()


def ask(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")


def choose(page: Page, option: str, value: str) -> None:
    if not page.locator("#options").is_visible():
        page.get_by_role("button", name="Options").click()
    page.locator(option).select_option(value)


def newest(site: Served) -> tuple[GroupRecord, list[SignalRecord]]:
    """The last answer as it is kept, and what was said of it."""

    def read(connection: Any) -> tuple[GroupRecord, list[SignalRecord]]:
        ids = groups.schema.groups
        found = connection.execute(ids.select().order_by(ids.c.seq.desc()).limit(1)).mappings().one()["id"]
        group = groups.get_group(connection, found)
        assert group is not None
        return group, live_signals(connection, [found])[found]

    return site.run(site.services.database.read(read))


def test_an_image_is_dropped_asked_about_and_answered_word_by_word(site: Served, open_page: Opener) -> None:
    """With one candidate the answer streams; the question holds the image's own pixels."""
    page = chat_at(site, open_page)
    drop_image(page)
    choose(page, "#best-of", "1")
    ask(page, "What is on the table?")
    expect(page.locator(".answer .prose")).to_have_text(ANSWERS[0])
    expect(page.locator(".facts")).to_contain_text("base model")
    group, _ = newest(site)
    assert [one.mime for one in group.media] == ["image/png"]
    expect(page.locator(".question img")).to_have_count(1)
    expect(page.locator("#announcer")).to_contain_text(ANSWERS[0])


def test_images_are_pasted_picked_taken_out_and_refused(site: Served, open_page: Opener, photo: Path) -> None:
    """What is no image is said to be none, before anything is sent."""
    page = chat_at(site, open_page)
    page.evaluate(PASTE, [base64.b64encode(picture()).decode()])
    page.locator("#file").set_input_files([photo])
    expect(page.locator("#attached li")).to_have_count(2)
    page.get_by_role("button", name="Remove kitchen.png").click()
    expect(page.locator("#attached li")).to_have_count(1)
    page.locator("#file").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    expect(page.get_by_role("alert")).to_contain_text("notes.txt is no PNG, JPEG or WebP image.")


def test_a_choice_between_two_answers_is_kept(site: Served, open_page: Opener) -> None:
    """Side by side, chosen by keyboard; which one the service prefers is not told before."""
    page = chat_at(site, open_page)
    choose(page, "#compare", "true")
    ask(page, "Describe the picture.")
    sides = page.locator(".side")
    expect(sides).to_have_count(2)
    expect(page.locator(".why")).to_have_count(0)
    chosen = sides.nth(1).locator(".prose").inner_text()
    page.get_by_role("button", name="Choose B").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".facts")).to_contain_text("chosen by you")
    expect(page.locator(".answer .prose")).to_have_text(chosen)
    group, signals = newest(site)
    assert [one.kind for one in signals] == [SignalKind.CHOICE]
    kept = group.candidate(signals[0].payload["chosen"])
    assert kept is not None and kept.text == chosen
    page.locator(".why summary").click()
    expect(page.locator(".candidate")).to_have_count(4)
    expect(page.locator(".candidate.blocked")).to_have_count(1)
    assert "4711" not in page.content(), "a blocked text is never shown"


def test_thumbs_a_reason_a_correction_and_another_answer(site: Served, open_page: Opener) -> None:
    """Each is kept as what it is, and the conversation goes on with what stands there."""
    page = chat_at(site, open_page)
    choose(page, "#compare", "false")
    ask(page, "What do you see?")
    page.get_by_role("button", name="Bad answer").click()
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("What was wrong?").fill("The kettle is not red.")
    page.keyboard.press("Enter")
    expect(page.get_by_label("What was wrong?")).to_have_count(0)
    _, signals = newest(site)
    assert [(one.kind, one.payload["rating"], one.payload["comment"]) for one in signals] == [
        (SignalKind.RATING, -1.0, "The kettle is not red.")
    ]

    page.get_by_role("button", name="Correct it").click()
    page.get_by_role("textbox", name="Corrected answer").fill("A copper kettle and a blue box.")
    page.get_by_role("button", name="Save correction").click()
    expect(page.locator(".facts")).to_contain_text("corrected by you")
    group, signals = newest(site)
    assert SignalKind.CORRECTION in [one.kind for one in signals]
    assert group.candidates[-1].text == "A copper kettle and a blue box."

    ask(page, "And what colour is the box?")
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.locator(".turn").nth(1).locator(".answer.done")).to_be_visible()
    later, _ = newest(site)
    assert "A copper kettle" in str(later.prompt)

    page.locator(".turn").nth(1).get_by_role("button", name="Ask again").click()
    expect(page.locator(".turn").nth(1)).to_contain_text("2 of 2")
    again, _ = newest(site)
    assert again.regenerate_of == later.id
    page.get_by_role("button", name="Earlier answer").click()
    expect(page.locator(".turn").nth(1)).to_contain_text("1 of 2")


def test_what_is_not_kept_takes_no_opinion(site: Served, open_page: Opener) -> None:
    """Somebody who does not want an answer kept is not asked about it."""
    page = chat_at(site, open_page)
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Keep answers").uncheck()
    ask(page, "Between us?")
    expect(page.locator(".facts")).to_contain_text("not kept")
    expect(page.get_by_role("button", name="Good answer")).to_have_count(0)


def test_an_answer_can_be_stopped_and_a_failure_tried_again(site: Served, open_page: Opener) -> None:
    """A refusal is told in the service's words, with a way on."""
    page = chat_at(site, open_page)
    choose(page, "#best-of", "1")
    site.engine.delay_s = 0.4
    ask(page, "Take your time.")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".answer")).to_contain_text("Stopped.")
    site.engine.delay_s = 0.0
    page.route("**/v1/chat/completions", refuse_once)
    ask(page, "Are you there?")
    failed = page.locator(".turn").nth(1)
    expect(failed.get_by_role("alert")).to_contain_text("No engine can answer now.")
    failed.get_by_role("button", name="Try again").click()
    expect(failed.locator(".prose").last).to_have_text(ANSWERS[0])


def refuse_once(route: Any) -> None:
    error = EngineUnavailable("No engine can answer now.")
    body = {"message": str(error), "type": error.type, "param": None, "code": error.code}
    route.fulfill(status=error.status, json={"error": body})
    route.request.frame.page.unroute("**/v1/chat/completions")


def test_an_answer_never_becomes_markup(tmp_path: Path, open_page: Opener) -> None:
    """A model may say what it likes, and so may a person: it is shown, and does nothing."""
    evil = "<img src=x onerror=\"document.title='owned'\"> **bold** <script>document.title='owned'</script>"
    with site_at(tmp_path) as site:
        site.engine.script = lambda model, prompt, index: evil
        page = chat_at(site, open_page)
        choose(page, "#best-of", "1")
        ask(page, evil)
        expect(page.locator(".answer .prose")).to_contain_text("<img src=x")
        expect(page.locator(".answer .prose > strong, .answer .prose > p > strong")).to_have_text("bold")
        expect(page.locator(".question")).to_contain_text("<script>")
        assert page.locator(".answer img, .answer script, .question script").count() == 0
        assert page.title() == "Plumbline"


def test_a_key_is_asked_for_and_not_remembered(tmp_path: Path, open_page: Opener) -> None:
    """A wrong one is refused in words; a right one lasts as long as the page. Feedback needs none."""
    with site_at(tmp_path, require_keys=True) as site:
        page = open_page(f"{site.url}/ui")
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("textbox", name="Key").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("This API key is not known")
        dialog.get_by_role("textbox", name="Key").fill("default-app")
        page.keyboard.press("Enter")
        expect(page.locator("#model option")).to_have_count(1)
        choose(page, "#compare", "false")
        sent: list[str | None] = []
        page.on("request", lambda request: sent.append(request.headers.get("authorization")))
        ask(page, "Hello?")
        page.get_by_role("button", name="Good answer").click()
        expect(page.get_by_label("What was good?")).to_be_visible()
        assert [(one or "").split()[0] for one in sent] == ["Bearer", "Plumbline-Feedback"]
        assert page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'
        page.reload()
        expect(page.get_by_role("dialog")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_everybody_can_use_it(site: Served, open_page: Opener, size: dict[str, int], scheme: str) -> None:
    """axe-core finds nothing serious: empty, with options, while choosing, with an explained answer."""
    page = chat_at(site, open_page, size=size, scheme=scheme)
    assert_accessible(page)
    drop_image(page)
    choose(page, "#compare", "true")
    page.get_by_role("textbox", name="Message").fill("What is this?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".side")).to_have_count(2)
    assert_accessible(page)
    page.get_by_role("button", name="Choose A").click()
    page.get_by_role("button", name="Good answer").click()
    page.locator(".why summary").click()
    assert_accessible(page)
