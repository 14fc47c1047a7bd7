"""The whole story in a browser, on the real engine, with an adapter that is trained in between.

A user drops an image, chooses, gives a thumb, edits an answer. Others say what they prefer; the learner makes an
adapter of it. An operator reads its gate report, promotes it, rolls it back; the user's next answers follow.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from clients.demo.scenes import scene
from tests.browser.conftest import Opener
from tests.browser.test_console import confirm
from tests.e2e.conftest import ALIAS, Service, make_service
from tests.e2e.test_openai_client import messages
from tests.engine_fixture import EngineSession

pytestmark = [pytest.mark.engine, pytest.mark.slow]

QUESTION = "Describe the image."
ANSWER_MS = 60_000


@pytest.fixture
def stack(engine_session: EngineSession, tmp_path: Path) -> Iterator[Service]:
    """As `make serve` runs it, but an operator decides about adapters."""
    one = make_service(engine_session, tmp_path, rollout={"automatic": False}, best_of=4)
    one.start()
    yield one
    one.stop()


def test_users_teach_and_an_operator_decides(stack: Service, open_page: Opener, tmp_path: Path) -> None:
    """Each thing that is clicked has its effect on what is answered next."""
    with stack.operator() as operator:
        before = operator.routing().data[0].active
    user = open_page(f"{stack.url}/ui")
    compare_answers(user)
    user.get_by_role("button", name="Good answer").click()
    expect(user.get_by_label("What was good?")).to_be_visible()
    user.get_by_role("button", name="Correct it").click()
    user.get_by_role("textbox", name="Corrected answer").fill("A scene with shapes on it.")
    user.get_by_role("button", name="Save correction").click()
    expect(user.locator(".facts")).to_contain_text("corrected by you", timeout=ANSWER_MS)

    adapter = train(stack, tmp_path)
    operator_page = open_page(f"{stack.url}/ui/operate#/adapters")
    operator_page.get_by_role("table").get_by_role("link", name=adapter).first.click()
    gate = operator_page.get_by_role("region", name="Gate", exact=True)
    expect(gate).to_contain_text("preference", timeout=ANSWER_MS)
    expect(operator_page.locator(".facts").first).to_contain_text("choice: ")

    confirm(operator_page, "Promote", "its gate report is fine")
    expect(operator_page.get_by_role("heading", level=1)).to_contain_text("active", timeout=ANSWER_MS)
    assert answered_by(user) == adapter

    operator_page.get_by_role("link", name="Overview").click()
    confirm(operator_page, "Roll back", "it is too short")
    expect(operator_page.locator(".serving")).to_have_text(before, timeout=ANSWER_MS)
    assert answered_by(user) == before


def compare_answers(page: Page) -> None:
    """Drop images and ask, until an answer comes with another one beside it; choose the one on the right."""
    expect(page.locator("#model option")).not_to_have_count(0)
    page.get_by_role("button", name="Options").click()
    page.locator("#compare").select_option("true")
    for seed in range(5):
        shown = scene(seed)
        page.locator("#file").set_input_files(
            {"name": f"scene {seed}", "mimeType": shown.mime, "buffer": shown.render()}
        )
        page.get_by_role("textbox", name="Message").fill(QUESTION)
        page.keyboard.press("Enter")
        expect(page.locator(".answer.done")).to_have_count(1, timeout=ANSWER_MS)
        if page.locator(".comparison").count():
            page.get_by_role("button", name="Choose B").click()
            expect(page.locator(".facts")).to_contain_text("chosen by you")
            return
        page.get_by_role("button", name="New conversation").first.click()
    pytest.fail("no question had two different answers")


def answered_by(page: Page) -> str:
    """Ask once more, and read who answered."""
    page.locator("#compare").select_option("false")
    turns = page.locator(".turn").count()
    page.get_by_role("textbox", name="Message").fill(QUESTION)
    page.keyboard.press("Enter")
    chip = page.locator(".turn").nth(turns).locator(".answer.done .chip").first
    expect(chip).to_be_visible(timeout=ANSWER_MS)
    return chip.get_attribute("title") or ""


def train(stack: Service, directory: Path) -> str:
    """Many people choose the shorter answer; the learner makes an adapter of it. Its id, once it passed the gate."""

    def choose(seed: int) -> bool:
        body = {"model": ALIAS, "messages": messages(seed=700 + seed), "max_tokens": 40, "best_of": 3}
        reply = httpx.post(
            f"{stack.url}/v1/chat/completions", json={**body, "plumbline": {"compare": True}}, timeout=ANSWER_MS / 1000
        ).json()
        if len(reply["choices"]) < 2:
            return False
        shorter, longer = sorted(reply["choices"], key=lambda choice: len(choice["message"]["content"]))
        said = {"completion_id": reply["id"], "chosen": shorter["candidate_id"], "rejected": longer["candidate_id"]}
        return httpx.post(f"{stack.url}/v1/preferences", json={**said, "user": f"u{seed}"}).status_code == 200

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(choose, range(40))) >= 10
    command = [sys.executable, "-m", "learner", "--server", stack.url, "--alias", ALIAS, "--once"]
    command += ["--state", str(directory / "learner")]
    learner = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert learner.returncode == 0, learner.stderr[-3000:]
    with stack.operator() as operator:
        adapter = operator.adapters(ALIAS).data[-1].id
        deadline = time.monotonic() + 120
        while operator.adapter(adapter).state != "gated":
            assert time.monotonic() < deadline, operator.adapter_report(adapter)
            time.sleep(0.2)
    return adapter
