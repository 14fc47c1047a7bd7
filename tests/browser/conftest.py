"""Real Chromium, headless, on the real HTTP server: Debian's own browser, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.api.served import Served
from tests.browser.scene import picture, site_at

INSTALL = "apt-get install -y chromium"
WAIT_MS = 15_000
DESK = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}

Opener = Callable[..., Page]


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """The browser; without one the tests are skipped, unless `PLUMBLINE_REQUIRE_BROWSER` asks for it.

    It ends with this package: while it runs, Playwright's event loop is that of the thread, and no other one can run.
    """
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("PLUMBLINE_REQUIRE_BROWSER"):
            pytest.fail(f"Chromium is missing: {INSTALL}")
        pytest.skip(f"Chromium is missing: {INSTALL}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Opener]:
    """Opens pages, each in a profile of its own. A script's error, or a breach of the policy, fails the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_one(url: str, *, size: dict[str, int] = DESK, scheme: str = "light", **options: Any) -> Page:
        context = chromium.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda told: errors.append(told.text) if "Content Security Policy" in told.text else None)
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The service without keys, on the fake engine; the tests of a module share it."""
    with site_at(tmp_path_factory.mktemp("site")) as opened:
        yield opened


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "kitchen.png"
    path.write_bytes(picture())
    return path


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing serious, and nothing is wider than the page."""
    found = Axe().run(page).response["violations"]
    grave = [
        f"{one['id']}: {node['html'][:200]} ({node.get('failureSummary', '')[:300]})"
        for one in found
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]
    assert grave == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
