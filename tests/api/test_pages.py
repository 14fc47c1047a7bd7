"""The browser pages as files: what is served, under which policy, and that nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.app import create_app
from server.config import Config, HttpConfig
from tests.api.conftest import Opener, Stack, assert_openai_error, config_for

UI = Path(__file__).parents[2] / "clients" / "ui"


async def test_the_pages_need_no_key_and_allow_nothing_foreign(stack: Stack) -> None:
    """Whoever comes gets the page; it runs its own scripts alone, and turns no text into markup."""
    for path in ("/ui", "/ui/operate"):
        page = await stack.client.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "style=" not in page.text and "<style" not in page.text and "onclick" not in page.text


async def test_the_address_alone_leads_to_the_chat(stack: Stack) -> None:
    """Whoever opens what `make serve` prints without a path; below a proxy's prefix too."""
    led = await stack.client.get("/")
    assert (led.status_code, led.headers["location"]) == (307, "ui")


async def test_every_file_is_served_and_asked_about_again(stack: Stack) -> None:
    """With a tag; who has the file already gets 304 without it."""
    for path in (one for one in UI.rglob("*") if one.is_file()):
        name = path.relative_to(UI).as_posix()
        first = await stack.client.get(f"/ui/{name}")
        assert (first.status_code, first.content) == (200, path.read_bytes()), name
        again = await stack.client.get(f"/ui/{name}", headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize("path", ["../cli/app.py", "%2e%2e/cli/app.py", "/etc/passwd", "chat/nothing.js", "shared"])
async def test_nothing_else_is(stack: Stack, path: str) -> None:
    """No way leads out of the directory."""
    assert_openai_error(await stack.client.get(f"/ui/{path}"), 404, "not_found")


async def test_without_the_directory_there_are_no_pages(open_stack: Opener, tmp_path: Path) -> None:
    """The service is whole without them."""
    http = HttpConfig(metrics_port=0, pages=tmp_path / "nothing")
    stack: Stack = await open_stack(Config(http=http, store=config_for(tmp_path).store))
    assert_openai_error(await stack.client.get("/ui"), 404, "not_found")
    assert create_app(stack.services)


def test_the_scripts_make_no_markup() -> None:
    """No script has a way from a text to an element but `textContent`, and none remembers a key."""
    for path in UI.rglob("*.js"):
        text = path.read_text()
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "localStorage",
            "cookie",
        ):
            assert word not in text, f"{path}: {word}"
