"""Where the service listens, and the bounds of a chat request and of the images that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, IPvAnyNetwork

from server.config.base import Seconds, Section

SOURCE = r"^(https://\*|https?://(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:[0-9]{1,5})?$"
"""An origin that images may be fetched from."""


class HttpConfig(Section):
    """Where the service listens and what it accepts."""

    host: str = "127.0.0.1"
    """Address of the public API. Without keys only a loopback address is accepted."""
    port: int = Field(8400, ge=0, le=65535)
    """Port of the public API; 0 takes a free one."""
    metrics_port: int = Field(8401, ge=0, le=65535)
    """Port of the private listener that serves `/metrics`, on the same host."""
    require_keys: bool = False
    """Refuse requests without an API key. Off: local mode, loopback only."""
    max_body_bytes: int = Field(32 * 1024 * 1024, gt=0)
    """Largest request body; larger ones get 413 before they are read."""
    max_buffered_bytes: int = Field(1024**3, gt=0)
    """Bodies of all open requests together; what comes beyond gets 429 with Retry-After."""
    header_timeout_s: Seconds = 20.0
    """How long a request's headers may take; then 408."""
    body_timeout_s: Seconds = 30.0
    """How long a request's body may take, and for each KiB of it that has come a second more; then 408."""
    unread_timeout_s: Seconds = 60.0
    """A client that takes nothing of its reply for so long is cut off."""
    max_concurrent_requests: int = Field(256, gt=0)
    """Chat requests in work at once; more wait in the queue."""
    max_queued_requests: int = Field(1024, ge=0)
    """Chat requests that may wait; more get 429 with Retry-After. No tenant fills the queue while others ask."""
    keep_alive_s: Seconds = 75.0
    """How long an idle connection is kept. Longer than the usual clients keep theirs (5 s in httpx, 15 s in aiohttp):
    the side that closes first must not be the one that cannot know of a request on its way."""
    heartbeat_s: Seconds = 5.0
    """A stream that has had nothing to say for so long sends a comment, so that nobody on the way hangs up."""
    shutdown_grace_s: Seconds = 10.0
    """How long open requests may finish after a termination signal."""
    pages: Path = Path(__file__).resolve().parents[2] / "clients" / "ui"
    """Directory of the browser pages (`/ui`); where there is none, none are served."""


class ChatConfig(Section):
    """Bounds of one chat request."""

    max_best_of: int = Field(32, ge=1, le=256)
    """Largest number of candidates that one request may ask for."""
    default_max_tokens: int = Field(256, ge=1)
    """Length limit of an answer when the request names none."""
    max_tokens: int = Field(4096, ge=1)
    """Largest length limit that a request may name."""
    max_messages: int = Field(128, ge=1)
    """Largest number of messages in one conversation."""
    max_text_chars: int = Field(200_000, ge=1)
    """Largest number of characters in one conversation."""
    max_images: int = Field(16, ge=0)
    """Largest number of images in one conversation."""
    max_image_bytes: int = Field(16 * 1024 * 1024, ge=1)
    """Largest size of one image's container."""
    min_image_side_px: int = Field(16, ge=1)
    """Smallest width and height of an image."""
    max_image_pixels: int = Field(16_000_000, ge=1)
    """Largest width x height of an image."""
    max_image_side_px: int = Field(8192, ge=1)
    """Largest width and height of an image."""
    image_workers: int = Field(2, ge=1, le=64)
    """Images decoded at once, each on a thread. One takes about 12 bytes of memory a pixel at worst."""
    max_waiting_images: int = Field(1024, ge=1)
    """Images being fetched, being decoded, or waiting for it; requests beyond that get 429 with Retry-After."""
    max_image_bytes_in_flight: int = Field(1024 * 1024 * 1024, ge=1)
    """Bytes of images that requests may hold together, waiting ones included; beyond that 429 with Retry-After."""
    engine_timeout_s: Seconds = 120.0
    """How long the engine may take over one request."""
    feedback_wait_s: Seconds = 30.0
    """How long feedback on a streamed answer waits for the answer to be stored; then it gets 503 with Retry-After."""


class ImageFetchConfig(Section):
    """Images that requests name by an address in place of bringing them."""

    sources: tuple[Annotated[str, Field(pattern=SOURCE)], ...] = ()
    """Where images may be fetched from: `https://host`, `https://*.host` (its subdomains) or `https://*` (any public
    host), with `:port` where it is not 443; plain http only where it is written here (`http://host`). Names in ASCII.
    Empty: nothing is fetched, requests bring their images as data: URLs."""
    networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks of your own (CIDR) in which sources may lie. All other addresses have to be public."""
    ca_file: Path | None = None
    """PEM file of the authorities that the sources' certificates come from; none: the system's."""
    timeout_s: Seconds = 10.0
    """How long one image may take, redirects and waiting for a connection included."""
    connect_timeout_s: Seconds = 3.0
    """How long one connection may take to come about."""
    max_redirects: int = Field(3, ge=0, le=10)
    """Redirects that are followed; each must lead to one of `sources`."""
    max_concurrent: int = Field(64, ge=1)
    """Connections at once, over all requests."""
    max_concurrent_per_host: int = Field(16, ge=1)
    """Connections at once to one host, so that a slow one does not hold them all."""
    max_concurrent_per_request: int = Field(4, ge=1)
    """Images of one request that are fetched at once."""
