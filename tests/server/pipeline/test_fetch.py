"""Images are fetched only from where the operator allows it, from public addresses, and within bounds."""

import asyncio
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.config import ImageFetchConfig
from server.errors import BadRequest, Busy
from server.pipeline.fetch.addresses import AddressGuard
from server.pipeline.fetch.fetcher import ImageFetcher
from server.pipeline.fetch.sources import Sources
from tests.image_server import GOOD, HOSTILE, Authority, ImageServer

MAX_BYTES = 256 * 1024
LOOPBACK = ["127.0.0.1"]


class Client:
    """A fetcher and what it counted."""

    def __init__(self, lookup: Callable[[str, int], Sequence[str]], **fetch: Any) -> None:
        self.outcomes: Counter[str] = Counter()
        self.taken = 0
        config = ImageFetchConfig(**({"timeout_s": 20.0, "connect_timeout_s": 20.0} | fetch))
        self.fetcher = ImageFetcher(config, max_bytes=MAX_BYTES, count=self.count, lookup=lookup)

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def take(self, size: int) -> None:
        self.taken += size

    async def fetch(self, url: str) -> bytes:
        return await self.fetcher.fetch(self.fetcher.admit(url), self.take)

    async def refused(self, url: str) -> tuple[str, str]:
        """The code and the message."""
        with pytest.raises(BadRequest) as caught:
            await self.fetch(url)
        return caught.value.code, caught.value.public


Opener = Callable[..., Client]


@pytest.fixture
async def open_client(authority: Authority) -> AsyncIterator[Opener]:
    """Clients that find every name on loopback, and may go there, unless told otherwise."""
    opened: list[Client] = []

    def open_one(**changes: Any) -> Client:
        lookup = changes.pop("lookup", lambda host, port: LOOPBACK)
        defaults = {"sources": ("https://*",), "networks": ("127.0.0.0/8",), "ca_file": authority.ca_file}
        opened.append(Client(lookup, **(defaults | changes)))
        return opened[-1]

    yield open_one
    for client in opened:
        await client.fetcher.close()


def sources_of(server: ImageServer, *hosts: str) -> tuple[str, ...]:
    return tuple(f"{server.scheme}://{host}:{server.port}" for host in hosts)


@pytest.fixture
async def client(open_client: Opener, image_server: ImageServer) -> Client:
    return open_client(sources=sources_of(image_server, "images.test", "*.images.test"))


@pytest.mark.parametrize("path", ["/good.png", "/called-html.png", "/chunked.png", "/good.png?signed=%2Fa%2f+b"])
async def test_an_allowed_image_is_fetched(client: Client, image_server: ImageServer, path: str) -> None:
    """Its bytes arrive; what the server calls them does not matter; the path goes out as it was written."""
    assert await client.fetch(image_server.url(path, "images.test")) == GOOD
    assert image_server.requests[0].startswith(f"GET {path} HTTP/1.1\r\n")
    assert (client.outcomes, client.taken) == ({"fetched": 1}, len(GOOD))


FORBIDDEN = {
    "no list": ((), "https://images.test/"),
    "another host": (("https://images.test",), "https://other.test/"),
    "the list's name as a prefix": (("https://images.test",), "https://images.test.evil.test/"),
    "the list's name as a suffix": (("https://*.images.test",), "https://evilimages.test/"),
    "the domain of the subdomains": (("https://*.images.test",), "https://images.test/"),
    "plain http": (("https://images.test", "https://*"), "http://images.test/"),
    "https where http is listed": (("http://images.test",), "https://images.test/"),
    "an odd port": (("https://images.test",), "https://images.test:8443/"),
    "port 0": (("https://images.test", "https://*"), "https://images.test:0/"),
    "a port that is none": (("https://*",), "https://images.test:99999/"),
    "metadata service": (("https://*",), "http://169.254.169.254/"),
    "metadata service, https": (("https://*",), "https://169.254.169.254/"),
    "loopback": (("https://*",), "https://127.0.0.1/"),
    "private": (("https://*",), "https://10.0.0.1/"),
    "this host": (("https://*",), "https://0.0.0.0/"),
    "a public address": (("https://*",), "https://8.8.8.8/"),
    "IPv6 loopback": (("https://*",), "https://[::1]/"),
    "IPv4 in IPv6": (("https://*",), "https://[::ffff:127.0.0.1]/"),
    "IPv6 with a zone": (("https://*",), "https://[fe80::1%25eth0]/"),
    "decimal": (("https://*",), "https://2130706433/"),
    "octal": (("https://*",), "https://0177.0.0.1/"),
    "hexadecimal": (("https://*",), "https://0x7f.0x0.0x0.0x1/"),
    "hexadecimal, whole": (("https://*",), "https://0x7f000001/"),
    "two parts": (("https://*",), "https://127.1/"),
    "full-width digits": (("https://*",), "https://１２７.０.０.１/"),
    "circled digits": (("https://*",), "https://①②⑦.⓪.⓪.①/"),
    "ideographic dots": (("https://*",), "https://127。0。0。1/"),
    "backslash before @": (("https://good.test", "https://*"), "https://good.test\\@evil.test/"),
    "user": (("https://*",), "https://good.test@evil.test/"),
    "user and password": (("https://*",), "https://good.test:pw@evil.test/"),
    "empty user": (("https://*",), "https://@evil.test/"),
    "homograph": (("https://images.test",), "https://imаges.test/"),  # the first a is Cyrillic
    "percent in the host": (("https://*",), "https://images%2etest/"),
    "tab in the host": (("https://*",), "https://images.te\tst/"),
    "line break": (("https://*",), "https://images.test/\r\nHost: evil.test"),
    "blank in front": (("https://*",), " https://images.test/"),
    "blank behind": (("https://*",), "https://images.test/ "),
    "no host": (("https://*",), "https:///etc/passwd"),
    "no slashes": (("https://*",), "https:images.test"),
    "empty label": (("https://*",), "https://images..test/"),
    "trailing dot": (("https://*",), "https://images.test./"),
    "very long": (("https://*",), "https://images.test/" + "a" * 5000),
    "very long host": (("https://*",), "https://" + "a." * 200 + "test/"),
    "file": (("https://*",), "file:///etc/passwd"),
    "gopher": (("https://*",), "gopher://images.test/"),
    "ftp": (("https://*",), "ftp://images.test/"),
    "no scheme": (("https://*",), "//images.test/"),
    "javascript": (("https://*",), "javascript:alert(1)"),
    "empty": (("https://*",), ""),
    "nothing but a port": (("https://*",), "HTTPS://::"),
}


@pytest.mark.parametrize(("sources", "url"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
async def test_an_address_off_the_list_is_refused_unasked(
    open_client: Opener,
    image_server: ImageServer,
    connected_to: list[str],
    sources: tuple[str, ...],
    url: str,
) -> None:
    """No name is looked up, no connection made; then a good address still works."""
    asked: list[str] = []
    strict = open_client(sources=sources, lookup=lambda host, port: asked.append(host) or LOOPBACK)
    assert (await strict.refused(url))[0] == "image_url_forbidden"
    assert (asked, connected_to) == ([], [])
    good = open_client(sources=sources_of(image_server, "images.test"))
    assert await good.fetch(image_server.url("/good.png", "images.test")) == GOOD


async def test_where_nothing_is_allowed_the_refusal_names_the_setting(open_client: Opener) -> None:
    """Fetching is off until an operator lists sources."""
    assert "image_fetch.sources" in (await open_client(sources=()).refused("https://images.test/a.png"))[1]


async def test_international_names_are_compared_as_they_are_asked_for(
    open_client: Opener, image_server: ImageServer
) -> None:
    """A name in Unicode matches its ASCII form in the list."""
    asked: list[str] = []
    client = open_client(
        sources=sources_of(image_server, "xn--bcher-kva.test"), lookup=lambda host, port: asked.append(host) or LOOPBACK
    )
    await client.refused(image_server.url("/good.png", "bücher.test"))  # the certificate is for other names
    assert asked == ["xn--bcher-kva.test"]


NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "not an address",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_a_name_that_leads_inside_is_refused(open_client: Opener, connected_to: list[str], address: str) -> None:
    """Alone, or beside a public address; no packet is sent; the answer is that for a name that does not exist."""
    inside = open_client(networks=(), lookup=lambda host, port: [address])
    mixed = open_client(networks=(), lookup=lambda host, port: ["8.8.8.8", address])
    nowhere = open_client(networks=(), lookup=lambda host, port: [])
    replies = [await one.refused("https://images.test/") for one in (inside, mixed, nowhere)]
    assert replies == [replies[0]] * 3
    assert replies[0][0] == "image_url_forbidden"
    assert address not in replies[0][1]
    assert connected_to == []


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::1"])
def test_public_addresses_are_allowed(address: str) -> None:
    """What the Internet uses is not shut out."""
    assert AddressGuard(()).allows(address)


async def test_a_listed_address_needs_its_network_too(
    open_client: Opener, plain_image_server: ImageServer, connected_to: list[str]
) -> None:
    """A source that is written as an address is met by no resolver; the last barrier stops it all the same."""
    sources = sources_of(plain_image_server, "127.0.0.1")
    url = plain_image_server.url("/good.png", "127.0.0.1")
    assert (await open_client(sources=sources, networks=()).refused(url))[0] == "image_url_forbidden"
    assert connected_to == []
    assert await open_client(sources=sources).fetch(url) == GOOD


async def test_a_name_that_changes_its_answer_gains_nothing(
    open_client: Opener, image_server: ImageServer, connected_to: list[str]
) -> None:
    """Each connection goes to the addresses that were checked for it; the second answer is checked like the first."""
    answers = [["127.0.0.1"], ["10.0.0.1"], ["127.0.0.1"], ["127.0.0.1"]]
    client = open_client(sources=sources_of(image_server, "images.test"), lookup=lambda host, port: answers.pop(0))
    image_server.redirect_to = "/good.png"
    moved = image_server.url("/moved", "images.test")
    assert (await client.refused(moved))[0] == "image_url_forbidden"
    assert connected_to == ["127.0.0.1"]
    assert await client.fetch(moved) == GOOD
    assert answers == []


REDIRECTS = {
    "to an unlisted host": ("https://other.test/", "image_url_forbidden"),
    "to the metadata service": ("http://169.254.169.254/latest/", "image_url_forbidden"),
    "to plain http": ("http://images.test/", "image_url_forbidden"),
    "to a file": ("file:///etc/passwd", "image_url_forbidden"),
    "with user": ("https://u:p@images.test/", "image_url_forbidden"),
    "nowhere": ("", "image_fetch_failed"),
    "in a circle": ("/moved", "image_fetch_failed"),
    "to no URL": ("https://images.test:x/", "image_fetch_failed"),
}


@pytest.mark.parametrize(("to", "code"), REDIRECTS.values(), ids=REDIRECTS.keys())
async def test_a_redirect_is_checked_from_the_start(
    client: Client, image_server: ImageServer, connected_to: list[str], to: str, code: str
) -> None:
    """It leads only to where the address itself might have led, a bounded number of times."""
    image_server.redirect_to = to
    assert (await client.refused(image_server.url("/moved", "images.test")))[0] == code
    assert 1 <= len(image_server.requests) <= 4
    assert set(connected_to) == {"127.0.0.1"}
    assert await client.fetch(image_server.url("/good.png", "images.test")) == GOOD


async def test_an_allowed_redirect_is_followed(client: Client, image_server: ImageServer) -> None:
    """Within the list, also to a subdomain."""
    image_server.redirect_to = image_server.url("/good.png", "cdn.images.test")
    assert await client.fetch(image_server.url("/moved", "images.test")) == GOOD


async def test_redirects_can_be_switched_off(open_client: Opener, image_server: ImageServer) -> None:
    """With `max_redirects = 0` the first one is the last."""
    client = open_client(sources=sources_of(image_server, "images.test"), max_redirects=0)
    image_server.redirect_to = "/good.png"
    assert (await client.refused(image_server.url("/moved", "images.test")))[0] == "image_fetch_failed"


@pytest.mark.parametrize("path", HOSTILE)
async def test_a_hostile_server_costs_little_and_ends(
    client: Client, open_client: Opener, image_server: ImageServer, path: str
) -> None:
    """Within the deadline, within the bytes, and the next image comes."""
    hurried = open_client(sources=sources_of(image_server, "images.test"), timeout_s=1.0)
    url = image_server.url(path, "images.test")
    await hurried.refused(url)  # imports and buffers that are made once
    hurried.taken = 0
    tracemalloc.start()
    started = time.monotonic()
    code, message = await hurried.refused(url)
    elapsed_s, (_, peak) = time.monotonic() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert code == "image_fetch_failed"
    assert "127.0.0.1" not in message
    assert elapsed_s < 4.0
    assert hurried.taken <= MAX_BYTES
    assert peak < MAX_BYTES + 2 * 1024 * 1024
    assert hurried.outcomes == {"image_fetch_failed": 2}
    assert await client.fetch(image_server.url("/good.png", "images.test")) == GOOD


async def test_the_certificate_must_be_for_the_name(open_client: Opener, image_server: ImageServer) -> None:
    """Nothing is asked of a server that cannot show who it is."""
    client = open_client(sources=sources_of(image_server, "other.test", "images.test"))
    assert (await client.refused(image_server.url("/good.png", "other.test")))[0] == "image_fetch_failed"
    assert image_server.requests == []
    stranger = open_client(sources=sources_of(image_server, "images.test"), ca_file=None)
    assert (await stranger.refused(image_server.url("/good.png", "images.test")))[0] == "image_fetch_failed"
    assert image_server.requests == []


async def test_plain_http_works_where_it_is_listed(open_client: Opener, plain_image_server: ImageServer) -> None:
    """And only there."""
    client = open_client(sources=sources_of(plain_image_server, "plain.test"))
    assert await client.fetch(plain_image_server.url("/good.png", "plain.test")) == GOOD
    assert (await client.refused(plain_image_server.url("/good.png", "images.test")))[0] == "image_url_forbidden"


async def test_requests_carry_nothing_of_ours(
    open_client: Opener,
    image_server: ImageServer,
    connected_to: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    """No proxy, no netrc, no cookies, no credentials: only what is needed to ask for an image."""
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.2:9")
    client = open_client(sources=sources_of(image_server, "images.test"))
    for _ in range(2):
        assert await client.fetch(image_server.url("/good.png", "images.test")) == GOOD
    names = [
        {line.partition(":")[0].lower() for line in head.splitlines()[1:] if line} for head in image_server.requests
    ]
    assert names == [{"host", "accept", "accept-encoding", "user-agent"}] * 2
    assert "Accept-Encoding: identity" in image_server.requests[0]
    assert set(connected_to) == {"127.0.0.1"}


async def test_connections_are_bounded(open_client: Opener, image_server: ImageServer) -> None:
    """In all, and to one host."""
    for bound in ({"max_concurrent": 3}, {"max_concurrent_per_host": 3}):
        client = open_client(sources=sources_of(image_server, "images.test"), **bound)
        image_server.most_open = image_server.open = 0
        url = image_server.url("/a-moment.png", "images.test")
        assert await asyncio.gather(*(client.fetch(url) for _ in range(9))) == [GOOD] * 9
        assert image_server.most_open == 3
        await client.fetcher.close()


async def test_a_slow_host_does_not_hold_the_others_up(open_client: Opener, image_server: ImageServer) -> None:
    """Its own bound leaves connections for the rest."""
    sources = sources_of(image_server, "images.test", "*.images.test")
    client = open_client(sources=sources, max_concurrent=4, max_concurrent_per_host=2, timeout_s=4.0)
    slow = [asyncio.create_task(client.refused(image_server.url("/silent", "images.test"))) for _ in range(8)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(3.5):
        assert await client.fetch(image_server.url("/good.png", "cdn.images.test")) == GOOD
    assert {code for code, _ in await asyncio.gather(*slow)} == {"image_fetch_failed"}


async def test_a_dead_name_server_blocks_nothing(open_client: Opener) -> None:
    """The loop goes on, and the deadline holds."""
    client = open_client(lookup=lambda host, port: time.sleep(0.6) or LOOPBACK, timeout_s=0.2)
    fetches = asyncio.gather(*(client.refused("https://images.test/") for _ in range(8)))
    lag_s = 0.0
    while not fetches.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        lag_s = max(lag_s, time.monotonic() - before - 0.01)
    assert {code for code, _ in fetches.result()} == {"image_fetch_failed"}
    assert lag_s < 0.4


async def test_bytes_are_announced_before_they_are_kept(client: Client, image_server: ImageServer) -> None:
    """Where the budget is used up, reading ends at once."""

    def refuse(size: int) -> None:
        raise Busy("full")

    with pytest.raises(Busy):
        url = client.fetcher.admit(image_server.url("/endless", "images.test"))
        await client.fetcher.fetch(url, refuse)
    assert client.outcomes == {"queue_full": 1}
    assert await client.fetch(image_server.url("/good.png", "images.test")) == GOOD


async def test_an_abandoned_fetch_is_counted_as_such(client: Client, image_server: ImageServer) -> None:
    """A caller that goes away leaves no connection behind."""
    task = asyncio.create_task(client.fetch(image_server.url("/silent", "images.test")))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.outcomes == {"abandoned": 1}


ALLOWED = ("https://images.test", "https://*.cdn.test", "http://plain.test:8080")
URL_PIECES = [
    "https://",
    "http://",
    "images.test",
    "a.cdn.test",
    ".cdn.test",
    "plain.test:8080",
    "@",
    ":",
    "\\",
    "/",
    "//",
    "?",
    "#",
    "%",
    "%40",
    "%2e",
    "[",
    "]",
    "[::1]",
    "127.0.0.1",
    "evil.test",
    ".",
    "。",
    "ä",
    "؉",
    ":443",
    "\t",
    " ",
]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(URL_PIECES), max_size=8).map("".join)))
def test_whatever_the_text_only_listed_sources_are_admitted(text: str) -> None:
    """Refused in the one way, or an address whose host other parsers see as well."""
    try:
        url = Sources(ALLOWED).admit(text)
    except BadRequest as error:
        assert error.code == "image_url_forbidden"
        return
    host, port = url.raw_host or "", url.port
    assert (url.scheme, host.lower(), port) in {("https", "images.test", 443), ("http", "plain.test", 8080)} or (
        url.scheme == "https" and host.lower().endswith(".cdn.test") and port == 443
    )
    assert text[:8].lower().startswith(url.scheme)
    if text.isascii():
        assert urlsplit(text).hostname == host.lower()


def _is_special(address: Any) -> bool:
    return not address.is_global or address.is_multicast


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.ip_addresses(), min_size=1, max_size=3).filter(lambda found: any(map(_is_special, found))))
def test_whatever_the_addresses_none_that_python_calls_special_is_allowed(found: list[Any]) -> None:
    """Our list covers at least the interpreter's."""
    guard = AddressGuard(())
    assert not all(guard.allows(str(address)) for address in found)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["::ffff:0:0", "2002::", "64:ff9b::", "::"]))
def test_no_ipv4_address_gets_in_inside_an_ipv6_one(number: int, prefix: str) -> None:
    """Mapped, 6to4, NAT64 or compatible."""
    shift = 80 if prefix == "2002::" else 0
    assert not AddressGuard(()).allows(str(IPv6Address(int(IPv6Address(prefix)) | number << shift)))


@pytest.mark.parametrize(
    "entry",
    [
        "http://*",
        "*",
        "images.test",
        "ftp://images.test",
        "https://images.test/",
        "https://u@images.test",
        "https://Ä.test",
        "https://*images.test",
        "https://images.*",
        "https://images.test:123456",
    ],
)
def test_a_source_that_cannot_be_meant_stops_the_start(entry: str) -> None:
    """The configuration refuses it, with the setting's name."""
    with pytest.raises(ValueError, match="sources"):
        ImageFetchConfig(sources=(entry,))
