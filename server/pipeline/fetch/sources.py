"""An image's address: read once, compared with the operator's list, and then connected to as it was read.

There is one parser, yarl's: the object that is checked here is the object that the HTTP client is given. A second
reading of the same text is how allow-lists are got around.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from yarl import URL

from server.pipeline.refusals import forbidden

MAX_URL_CHARS: Final = 4096
MAX_HOST_CHARS: Final = 253
UNCLEAN = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
"""Control characters, blanks and backslashes: what parsers have disagreed about."""
NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label of this kind makes a host an IPv4 address in one of its spellings (WHATWG URL, "ends in a number")."""
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of the list. `host` is exact, or with `has_subdomains` what names must end in; "" for any name."""

    scheme: str
    host: str
    port: int
    has_subdomains: bool

    @classmethod
    def read(cls, text: str) -> Source:
        """From `scheme://host[:port]`, as the configuration admits it; `*` stands for names, `*.` for subdomains."""
        scheme, _, rest = text.partition("://")
        host, _, port = rest.partition(":")
        is_exact = not host.startswith("*")
        return cls(scheme, host if is_exact else host[1:], int(port or DEFAULT_PORTS[scheme]), not is_exact)

    def has(self, scheme: str, host: str, port: int) -> bool:
        if (scheme, port) != (self.scheme, self.port):
            return False
        if self.has_subdomains:
            return host.endswith(self.host) and not _is_number(host)
        return host == self.host


class Sources:
    """The operator's list. An empty one allows nothing."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._sources = tuple(map(Source.read, entries))

    def admit(self, text: str) -> URL:
        """The address, to be connected to as it is; raises `BadRequest` (`image_url_forbidden`)."""
        if not text[:8].lower().startswith(("http://", "https://")):
            raise forbidden("send the image as a data: URL (data:image/png;base64,...) or give an https address")
        if not self._sources:
            raise forbidden(
                "this service fetches no images; send it as a data: URL, or have its operator list the source in"
                " image_fetch.sources"
            )
        url, host, port = _parse(text)
        if len(host) > MAX_HOST_CHARS or not NAME.fullmatch(host):
            raise forbidden("its host is not a plain name")
        if not any(source.has(url.scheme, host, port) for source in self._sources):
            raise forbidden("its scheme, host and port are not among the sources that this service fetches from")
        return url


def _parse(text: str) -> tuple[URL, str, int]:
    """The URL with its host and port. An ASCII one stays as it is, byte for byte, since some are signed; others are
    encoded (IDNA, UTF-8).
    """
    if len(text) > MAX_URL_CHARS:
        raise forbidden(f"it is longer than {MAX_URL_CHARS} characters")
    if UNCLEAN.search(text):
        raise forbidden("it holds blanks, backslashes or control characters")
    try:
        url = URL(text, encoded=text.isascii())
        host, port, has_user = url.raw_host or "", url.port or 0, "@" in url.raw_authority  # read, and so parsed, here
    except ValueError:
        raise forbidden("it is not a well-formed URL") from None
    if has_user:
        raise forbidden("it holds a user name or password")
    return url, host.lower(), port


def _is_number(host: str) -> bool:
    return NUMBER.fullmatch(host.rpartition(".")[2]) is not None
