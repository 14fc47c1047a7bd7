"""Takes the screenshots of docs/ui.md: `python -m tests.browser.pictures [DIRECTORY]`.

What they show is a service on the fake engine, whose answers are written in `tests.browser.scene`; times are spread
over a day, so that the curves have a shape. Everything else is real: pages, API, store, gate, canary.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy import Connection, update

from server.config import GateConfig, SuiteConfig
from server.store import schema
from tests.api.served import Served
from tests.browser.conftest import PHONE
from tests.browser.scene import asked, learner_was_here, picture, site_at, talk, upload

DESK = {"width": 1180, "height": 780}
LARGE_BYTES = 120 * 1024
"""What is larger is saved with a palette: plain surfaces lose nothing by it."""


def write_suite(directory: Path) -> SuiteConfig:
    items = [
        {"id": f"q{number}", "messages": [{"role": "user", "content": f"What stands on table {number}?"}]}
        for number in range(40)
    ]
    path = directory / "kitchen.jsonl"
    path.write_text("\n".join(json.dumps({**one, "checks": {"must_mention": ["kettle"]}}) for one in items))
    return SuiteConfig(name="kitchen", path=path, margin=0.05)


def populate(site: Served) -> str:
    """Adapters in several states, a running canary, a day of signals; the id of one that waits for a decision."""
    first = upload(site, seed=1)
    asked(site, "POST", f"/v1/adapters/{first}/promote", {"reason": "first round: better on every suite"})
    talk(site, 40)
    second = upload(site, seed=2, parent=first)
    asked(site, "POST", f"/v1/adapters/{second}/promote", {"reason": "fewer invented objects"})
    third = upload(site, seed=3, parent=second)
    asked(site, "POST", f"/v1/adapters/{third}/reject", {"reason": "answers became too long"})
    talk(site, 50)
    fourth = upload(site, seed=4, parent=second)
    asked(
        site, "POST", f"/v1/adapters/{fourth}/canary", {"share": 0.3, "reason": "the gate was inconclusive on length"}
    )
    waiting = upload(site, seed=5, parent=second)
    talk(site, 40)
    learner_was_here(site)
    site.run(site.services.database.write(_spread))
    return waiting


def _spread(connection: Connection) -> None:
    """Answers over the last day, more of them by day than by night, and slowly better ones."""
    chance, now, table = random.Random(4), time.time(), schema.groups
    rows = connection.execute(table.select().order_by(table.c.seq)).mappings().all()
    for number, row in enumerate(rows):
        at = now - 86_400 * (1 - number / len(rows)) ** 1.2
        reward = -0.55 + 0.5 * number / len(rows) + chance.gauss(0, 0.12)
        connection.execute(update(table).where(table.c.id == row["id"]).values(created_at=at, reward=reward))


def shoot(page: Page, directory: Path, name: str, *, full: bool = False) -> None:
    page.wait_for_timeout(300)
    path = directory / f"{name}.png"
    page.screenshot(path=path, full_page=full)
    taken = Image.open(path).convert("RGB")
    taken.save(path, optimize=True)
    if path.stat().st_size > LARGE_BYTES:
        taken.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1024:.0f} KiB\n")


def chat_pictures(browser: Browser, site: Served, directory: Path) -> None:
    page = browser.new_page(viewport=DESK)
    page.goto(f"{site.url}/ui")
    expect(page.locator("#model option")).to_have_count(1)
    shoot(page, directory, "chat-empty")
    ask(page, "What is on the table?")
    expect(page.locator(".side")).to_have_count(2)
    shoot(page, directory, "chat-compare")
    page.get_by_role("button", name="Choose A").click()
    page.get_by_role("button", name="Good answer").click()
    page.locator(".why summary").click()
    page.locator(".log").evaluate("log => { log.scrollTop = log.querySelector('.answer').offsetTop - 110; }")
    shoot(page, directory, "chat-answer")
    page.close()
    phone = browser.new_page(viewport=PHONE, color_scheme="dark", device_scale_factor=1.5)
    phone.goto(f"{site.url}/ui")
    ask(phone, "What is on the table?")
    phone.get_by_role("button", name="Choose B").click()
    shoot(phone, directory, "chat-phone-dark")
    phone.close()


def ask(page: Page, text: str) -> None:
    page.locator("#file").set_input_files({"name": "kitchen.png", "mimeType": "image/png", "buffer": picture()})
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()


def console_pictures(browser: Browser, site: Served, adapter: str, directory: Path) -> None:
    for scheme, suffix in (("light", ""), ("dark", "-dark")):
        page = browser.new_page(viewport=DESK, color_scheme=scheme)
        for name, place in (("overview", "overview"), ("adapters", "adapters"), ("learning", "learning")):
            if suffix and name != "overview":
                continue
            page.goto(f"{site.url}/ui/operate#/{place}")
            expect(page.locator(".card").first).to_be_visible()
            page.wait_for_timeout(1500)
            shoot(page, directory, f"console-{name}{suffix}", full=True)
        page.close()
    page = browser.new_page(viewport=DESK)
    page.goto(f"{site.url}/ui/operate#/adapters/{adapter}")
    expect(page.get_by_role("region", name="Gate", exact=True)).to_be_visible()
    shoot(page, directory, "console-adapter")
    page.get_by_role("button", name="Start canary").click()
    page.get_by_label("Share of the users").fill("10")
    page.get_by_label("Reason").fill("Passed the kitchen suite; try it on a few users first.")
    shoot(page, directory, "console-confirm")
    page.close()


def main() -> int:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as kept, sync_playwright() as playwright:
        state = Path(kept)
        gate = GateConfig(suites=(write_suite(state),), max_kl=1000.0)
        with site_at(state / "state", gate=gate) as site:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            chat_pictures(browser, site, directory)
            console_pictures(browser, site, populate(site), directory)
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
