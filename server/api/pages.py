"""The browser pages: static files under a strict policy, the chat at `/ui`, the operators' console at `/ui/operate`.

They are read once, when the service starts, so that no path of a request ever reaches the disk. They hold no data:
what they show they ask of the API, with the key that somebody enters. The server does not import them; they lie in
`http.pages`, and where that directory is not there, there are no pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from server.errors import NotFound

POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
)
"""Content-Security-Policy: nothing inline, nothing from elsewhere, and no text ever becomes markup."""

HEADERS: Final = {
    "cache-control": "no-cache",  # kept, and asked about each time: after an update no page runs with older scripts
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
PAGES: Final = {"": "chat.html", "operate": "operate.html"}
"""Below `/ui`; every other path is that of a file."""
TYPES: Final = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""What is served, whatever else lies there. Not by the machine's own table, which may say otherwise."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, ready to be sent."""

    body: bytes
    media_type: str
    etag: str


def load(directory: Path) -> dict[str, Asset]:
    """Every file that is served, by its path below `/ui`; empty where there is no such directory."""
    found = {
        path.relative_to(directory).as_posix(): _asset(path)
        for path in sorted(directory.rglob("*"))
        if path.suffix in TYPES and path.is_file()
    }
    return {**found, **{path: found[name] for path, name in PAGES.items() if name in found}}


def build_router(assets: Mapping[str, Asset]) -> APIRouter:
    """The routes of these files. They are no part of the API, and not in its document."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def lead_to_page(request: Request) -> Response:
        if "" not in assets:
            raise _no_page()
        return RedirectResponse("ui")

    @router.get("/ui")
    async def get_page(request: Request) -> Response:
        return _reply(request, assets.get(""))

    @router.get("/ui/{path:path}")
    async def get_asset(request: Request, path: str) -> Response:
        return _reply(request, assets.get(path))

    return router


def _no_page() -> NotFound:
    return NotFound("There is no such page. The chat is at /ui, the operators' console at /ui/operate.")


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    return Asset(body, f"{TYPES[path.suffix]}; charset=utf-8", f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _reply(request: Request, asset: Asset | None) -> Response:
    if asset is None:
        raise _no_page()
    headers = HEADERS | {"etag": asset.etag}
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if asset.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)
