"""Images of a request: bounded before they are touched, fetched or unpacked, decoded fully once, stripped and hashed.

Called before a request is admitted, so a slow image server holds no place at the engine. What may be in work at once
is bounded in number and in bytes; the rest is told to come back. The engine never fetches anything.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from yarl import URL

from reward.types import Image
from server.config import ChatConfig
from server.errors import BadRequest, Busy
from server.pipeline.aside import Aside
from server.pipeline.budget import ByteBudget
from server.pipeline.containers import is_webp
from server.pipeline.decoding import verify
from server.pipeline.fetch.fetcher import ImageFetcher
from server.pipeline.refusals import invalid

TYPES = ("image/png", "image/jpeg", "image/jpg", "image/webp")
"""What a data: URL may call itself. Which of them it is, its bytes say."""
SLICE_CHARS = 1024 * 1024
"""A multiple of four, so that slices can be decoded one by one."""


class MediaIntake:
    """Turns image URLs into verified images, on a bounded pool of worker threads."""

    def __init__(
        self, limits: ChatConfig, fetcher: ImageFetcher, *, has_vision: bool, fetches_per_request: int
    ) -> None:
        self._limits = limits
        self._fetcher = fetcher
        self._has_vision = has_vision
        self._fetches_per_request = fetches_per_request
        self._workers = ThreadPoolExecutor(limits.image_workers, thread_name_prefix="media")
        self._aside = Aside(limits.image_workers)
        self.budget = ByteBudget(limits.max_image_bytes_in_flight)
        self.waiting = 0
        """Images being fetched or decoded, or waiting for it."""

    async def take(self, urls: Sequence[str]) -> list[Image]:
        """The images in order; raises `BadRequest` or `Busy`.

        Their number, and the form and size of every URL, are checked before the first is fetched or unpacked.
        """
        if not urls:
            return []
        if not self._has_vision:
            raise BadRequest("This model takes no images.", param="messages", code="model_has_no_vision")
        if len(urls) > self._limits.max_images:
            raise invalid(f"a request may hold {self._limits.max_images} images", "too_many_images")
        sources = [self._source(url) for url in urls]
        if self.waiting + len(sources) > self._limits.max_waiting_images:
            raise Busy("Too many images are waiting; try again after the time in Retry-After.")
        free = asyncio.Semaphore(self._fetches_per_request)
        work = [asyncio.ensure_future(self._take_one(source, free)) for source in sources]
        self.waiting += len(work)
        for one in work:
            one.add_done_callback(self._leave)
        try:
            return list(await asyncio.gather(*work))
        finally:
            for one in work:
                one.cancel()

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._aside.close()

    def _leave(self, _: asyncio.Future[Image]) -> None:
        self.waiting -= 1

    def _source(self, url: str) -> str | URL:
        """The base64 text of a data: URL, or an address to fetch from."""
        if url[:5].lower() == "data:":
            return base64_of(url, self._limits.max_image_bytes)
        return self._fetcher.admit(url)

    async def _take_one(self, source: str | URL, free: asyncio.Semaphore) -> Image:
        loop = asyncio.get_running_loop()
        with self.budget.share() as share:
            if isinstance(source, str):
                share.take(len(source) * 3 // 4)
                image = await loop.run_in_executor(self._workers, self._unpack, source)
            else:
                async with free:
                    data = await self._fetcher.fetch(source, share.take)
                image = await loop.run_in_executor(self._workers, self._verified, data)
            share.pass_to(image)
            return image

    def _unpack(self, text: str) -> Image:
        return self._verified(unpack(text))

    def _verified(self, data: bytes) -> Image:
        data, mime = self._verify_aside(data) if is_webp(data) else verify(data, self._limits)
        return Image(hashlib.sha256(data).hexdigest(), mime, data)

    def _verify_aside(self, data: bytes) -> tuple[bytes, str]:
        """Pillow lets go of the interpreter's lock while it decodes, but for WebP: 25 ms for a million pixels."""
        try:
            return self._aside.run(verify, data, self._limits)
        except BrokenProcessPool:
            raise invalid("it is damaged or cut short") from None


def unpack(text: str) -> bytes:
    """Base64 as it should be written (RFC 4648, section 4); raises `BadRequest`.

    In slices: each holds the interpreter's lock for two milliseconds, all of a large image for a hundred.
    """
    try:
        if text.find("=", 0, len(text) - 2) != -1:
            raise ValueError
        slices = range(0, len(text), SLICE_CHARS)
        return b"".join(base64.b64decode(text[at : at + SLICE_CHARS], validate=True) for at in slices)
    except ValueError:
        raise invalid("its base64 text is damaged") from None


def base64_of(url: str, max_bytes: int) -> str:
    """The text of `data:image/...;base64,...`, which is yet to be decoded; raises `BadRequest`."""
    head, comma, body = url.partition(",")
    kind, _, coding = head.lower().removeprefix("data:").rpartition(";")
    if not comma or kind not in TYPES or coding != "base64":
        raise invalid(f"a data: URL reads data:image/png;base64,... with one of {', '.join(TYPES)}")
    if len(body) > max_bytes * 4 // 3 + 4:
        raise invalid(f"it is larger than {max_bytes} bytes", "image_too_large")
    return body
