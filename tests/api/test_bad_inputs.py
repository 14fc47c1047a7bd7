"""Bad HTTP, bad JSON, bad credentials: each gets a clear refusal in the one shape, and the next good request works.

One table over the real server, bytes in and bytes out. What is wrong inside a chat request is in `test_bad_chat`, what
is wrong with images in `test_images`, feedback in `test_bad_feedback`, adapters in `tests/server/adapters`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from server.api.connection import LINGER_S, MAX_PIPELINED
from server.keys import make_key
from server.logs import JsonFormatter
from server.store import adapters
from server.store.keys import KeyRecord
from server.store.records import AdapterRecord, AdapterState
from tests.api.conftest import CHAT
from tests.api.served import GOOD, Served, assert_refused, read_answer, request, served

MAX_BODY = 256 * 1024
SLOW_S = 0.6


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    http = {"max_body_bytes": MAX_BODY, "header_timeout_s": SLOW_S, "body_timeout_s": SLOW_S}
    with served(tmp_path_factory.mktemp("bad"), http=http) as site:
        yield site


def chat(body: Any = None, **headers: str) -> bytes:
    return request("POST", CHAT, GOOD if body is None else body, **headers)


def said(**changes: Any) -> bytes:
    """A chat request, as text that JSON's writer would not write."""
    return json.dumps(GOOD | changes).encode()


def chunked(size: int) -> bytes:
    head = chat(b"", content_length="", transfer_encoding="chunked")
    return head + b"".join(b"2000\r\n" + b" " * 0x2000 + b"\r\n" for _ in range(size // 0x2000 + 1)) + b"0\r\n\r\n"


WITHOUT_END = said()[:-1] + b","
LEARNER, OPERATOR = "default-learner", "default-operator"

TABLE: dict[str, tuple[bytes, int, str | None]] = {
    "1 empty body": (chat(b""), 400, "invalid_json"),
    "2 truncated": (chat(said()[:-9]), 400, "invalid_json"),
    "2 no JSON": (chat(b"model=default"), 400, "invalid_json"),
    "2 a list": (chat(b"[]"), 400, "invalid_request"),
    "3 nested 100,000 deep": (chat(b"[" * 100_000), 400, "invalid_json"),
    "3 nested in a field": (chat(WITHOUT_END + b'"metadata":' + b'{"a":' * 40_000), 400, "invalid_json"),
    "5 NaN": (chat(WITHOUT_END + b'"temperature": NaN}'), 400, "invalid_request"),
    "5 Infinity": (chat(WITHOUT_END + b'"top_p": -Infinity}'), 400, "invalid_request"),
    "5 1e999": (chat(WITHOUT_END + b'"temperature": 1e999}'), 400, "invalid_request"),
    "5 NaN in words of the sender's own": (
        request(
            "POST",
            "/v1/training/report",
            b'{"alias": "default", "token": 1, "outcome": "skipped", "detail": {"loss": NaN}}',
            who=LEARNER,
        ),
        400,
        "invalid_request",
    ),
    "6 invalid UTF-8": (chat(said().replace(b"Hi", b"\xff")), 400, "invalid_encoding"),
    "6 lone surrogate": (chat(said().replace(b"Hi", rb"\ud800")), 400, "invalid_encoding"),
    "6 NUL": (chat(said().replace(b"Hi", rb"\u0000")), 400, "invalid_encoding"),
    "6 NUL in a path": (request("GET", "/v1/adapters/a%00b", who=LEARNER), 400, "invalid_encoding"),
    "6 NUL in a query": (request("GET", "/v1/audit?subject=%00", who=OPERATOR), 400, "invalid_encoding"),
    "7 body over the limit": (chat(b" " * (MAX_BODY + 1)), 413, "request_too_large"),
    "7 only announced": (chat(b"", content_length=str(10**12)), 413, "request_too_large"),
    "8 chunked body over the limit": (chunked(MAX_BODY), 413, "request_too_large"),
    "9 length too short": (chat(said(), content_length="20"), 400, "invalid_json"),
    "9 length too long": (chat(said(), content_length="5000"), 408, "request_timeout"),
    "9 length is no number": (chat(said(), content_length="12a"), 400, "invalid_http"),
    "9 length below zero": (chat(said(), content_length="-5"), 400, "invalid_http"),
    "9 length and chunks": (chat(b"0\r\n\r\n", transfer_encoding="chunked"), 400, "invalid_http"),
    "9 two lengths": (chat(b"{}", content_length="2, 3"), 400, "invalid_http"),
    "10 gzip": (chat(gzip.compress(b" " * 10**7), content_encoding="gzip"), 415, "unsupported_encoding"),
    "11 form": (chat(b"a=b", content_type="application/x-www-form-urlencoded"), 415, "unsupported_media_type"),
    "11 multipart": (chat(b"--x", content_type="multipart/form-data; boundary=x"), 415, "unsupported_media_type"),
    "11 XML": (chat(b"<a/>", content_type="text/xml"), 415, "unsupported_media_type"),
    "12 header of 64 KiB": (request("GET", "/v1/models", x_long="x" * 65_536), 431, "headers_too_large"),
    "12 1,000 headers": (
        request("GET", "/v1/models", **{f"x_{number}": "x" for number in range(1000)}),
        431,
        "headers_too_large",
    ),
    "12 header that never ends": (b"GET / HTTP/1.1\r\nx-long: " + b"x" * 65_536, 431, "headers_too_large"),
    "14 Host with a path": (request("GET", "/v1/audit", host="localhost/health?", who=None), 400, "invalid_host"),
    "14 Host with a fragment": (request("GET", "/v1/audit", host="a#b", who=None), 400, "invalid_host"),
    "14 Host with userinfo": (request("GET", "/v1/audit", host="a@b", who=None), 400, "invalid_host"),
    "14 empty Host": (b"GET /v1/audit HTTP/1.1\r\nhost: \r\n\r\n", 400, "invalid_host"),
    "14 no Host": (b"GET /v1/audit HTTP/1.1\r\n\r\n", 400, "invalid_http"),
    "14 two Hosts": (b"GET /v1/audit HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "invalid_http"),
    "14 another Host": (request("GET", "/v1/audit", host="healthz", who=None), 401, "invalid_api_key"),
    "14 absolute URL": (request("GET", "http://x/healthz", who=None), 400, "invalid_http"),
    "15 double slash": (request("GET", "//v1/audit", who=OPERATOR), 404, "not_found"),
    "15 way up": (request("GET", "/v1/../v1/audit", who=OPERATOR), 404, "not_found"),
    "15 encoded way up": (request("GET", "/v1/models/%2e%2e/audit", who=OPERATOR), 404, "not_found"),
    "15 encoded slash": (request("GET", "/v1%2Faudit%2F", who=OPERATOR), 404, "not_found"),
    "15 other case": (request("GET", "/V1/Audit", who=OPERATOR), 404, "not_found"),
    "15 slash at the end": (request("GET", "/v1/audit/", who=OPERATOR), 404, "not_found"),
    "16 wrong method": (request("GET", CHAT), 405, "method_not_allowed"),
    "unknown query parameter": (request("GET", "/v1/adapters?stat=served", who=OPERATOR), 400, "unknown_parameter"),
    "unknown query parameter of the chat": (request("POST", CHAT + "?n=2", GOOD), 400, "unknown_parameter"),
    "unknown query parameter of feedback": (request("POST", "/v1/feedback?x=2", GOOD), 400, "unknown_parameter"),
    "16 method of another protocol": (request("PROPFIND", CHAT), 405, "method_not_allowed"),
    "16 made-up method": (request("BREW", CHAT), 400, "invalid_http"),
    "17 no key": (request("GET", "/v1/models", who=None), 401, "invalid_api_key"),
    "17 another scheme": (
        request("GET", "/v1/models", authorization="Basic ZGVmYXVsdC1hcHA6"),
        401,
        "invalid_api_key",
    ),
    "17 empty bearer": (request("GET", "/v1/models", who=""), 401, "invalid_api_key"),
    "17 unknown key": (request("GET", "/v1/models", who="pk-" + "x" * 43), 401, "invalid_api_key"),
    "18 SQL": (request("GET", "/v1/models", who="' OR '1'='1' --"), 401, "invalid_api_key"),
    "18 not ASCII": (request("GET", "/v1/models", who="\xfc\xff"), 401, "invalid_api_key"),
    "18 30 KB": (request("GET", "/v1/models", who="x" * 30_000), 401, "invalid_api_key"),
    "18 1 MB": (request("GET", "/v1/models", who="x" * 10**6), 431, "headers_too_large"),
    "19 app at the audit trail": (request("GET", "/v1/audit"), 403, "insufficient_scope"),
    "19 app at the export": (request("GET", "/v1/preferences?alias=default"), 403, "insufficient_scope"),
    "19 app at the feed": (request("GET", "/v1/training/feed?alias=default"), 403, "insufficient_scope"),
    "19 app at a rollback": (request("POST", "/v1/rollback", {}), 403, "insufficient_scope"),
    "19 learner at a rollback": (request("POST", "/v1/rollback", {}, who=LEARNER), 403, "insufficient_scope"),
    "19 learner at the keys": (request("GET", "/v1/keys", who=LEARNER), 403, "insufficient_scope"),
    "20 unknown model": (chat(GOOD | {"model": "gpt-x"}), 404, "model_not_found"),
    "20 path as a model": (chat(GOOD | {"model": "../../etc/passwd"}), 404, "model_not_found"),
    "20 model of 10 KB": (chat(GOOD | {"model": "m" * 10_000}), 404, "model_not_found"),
    "20 unknown adapter": (request("GET", "/v1/adapters/none", who=LEARNER), 404, "adapter_not_found"),
    "21 retired adapter, app": (chat(GOOD | {"model": "a-retired"}), 404, "model_not_found"),
    "21 retired adapter, operator": (chat(GOOD | {"model": "a-retired"}, who=OPERATOR), 404, "model_not_found"),
    "64 page of another site": (
        request("POST", "/v1/rollback", {}, who=OPERATOR, origin="https://evil.example", sec_fetch_site="cross-site"),
        403,
        "cross_origin",
    ),
    "64 without what browsers say of themselves": (
        request("POST", "/v1/rollback", {}, who=OPERATOR, origin="https://evil.example"),
        403,
        "cross_origin",
    ),
    "64 key in a cookie": (
        request("POST", "/v1/rollback", {}, who=None, cookie="authorization=Bearer default-operator"),
        401,
        "invalid_api_key",
    ),
    "65 metrics": (request("GET", "/metrics", who=OPERATOR), 404, "not_found"),
    "65 docs": (request("GET", "/docs", who=OPERATOR), 404, "not_found"),
    "65 OpenAPI": (request("GET", "/openapi.json", who=OPERATOR), 404, "not_found"),
    "66 line break in a header": (
        b"GET /v1/models HTTP/1.1\r\nhost: a\r\nx-request-id: a\r\n b\r\n\r\n",
        400,
        "invalid_http",
    ),
    "66 bare line feed in a header": (b"GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n", 400, "invalid_http"),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "invalid_http"),
}


@pytest.mark.parametrize(("data", "status", "code"), TABLE.values(), ids=TABLE.keys())
def test_bad_input_is_refused_and_the_next_works(site: Served, data: bytes, status: int, code: str | None) -> None:
    """Each row: a refusal that says what was wrong and repeats nothing, then a good request."""
    assert_refused(site.exchange(data), status, code)
    site.still_serves()


@pytest.fixture(scope="module", autouse=True)
def retired(site: Served) -> None:
    record = AdapterRecord("a-retired", 1, "default", AdapterState.RETIRED, "base", {}, 1.0, 1.0)
    site.run(site.services.database.write(lambda c: adapters.insert_adapter(c, record)))


def test_deep_nesting_is_refused_quickly(site: Served) -> None:
    """Row 3: the parser gives up, no recursion of ours."""
    started = time.perf_counter()
    site.exchange(chat(b"[" * 100_000))
    assert time.perf_counter() - started < 0.5  # 50 ms of ours, on a busy machine


def test_of_a_key_that_is_given_twice_the_last_counts(site: Served) -> None:
    """Row 4, and docs/api.md: for every model alike, with and without a look at the whole body first."""
    chatted = site.exchange(chat(b'{"model": "none",' + said()[1:]))
    assert chatted.status == 200
    assert_refused(site.exchange(chat(WITHOUT_END + b'"model": "none"}')), 404, "model_not_found")
    path, who = "/v1/keys", OPERATOR
    made = site.exchange(request("POST", path, b'{"role": "operator", "role": "app"}', who=who))
    assert json.loads(made.body)["role"] == "app"


def test_a_body_over_the_limit_is_refused_before_it_is_read(site: Served) -> None:
    """Row 7: the reply comes while nothing of the body was sent; then the connection is closed, not kept for ever."""
    with site.connect() as connection:
        connection.sendall(request("POST", CHAT, b"", content_length=str(10**12)))
        assert_refused(read_answer(connection), 413, "request_too_large")
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 4 * LINGER_S:
                connection.sendall(b" ")
                time.sleep(0.1)
        assert time.monotonic() - started < 2 * LINGER_S


def test_what_follows_a_short_length_is_no_request(site: Served) -> None:
    """Row 9: the rest of a body is refused as HTTP, and nothing behind it is answered."""
    smuggled = request("GET", "/v1/audit", who=OPERATOR)
    with site.connect() as connection:
        connection.sendall(chat(said() + smuggled, content_length=str(len(said()))) + b"rest")
        assert read_answer(connection).status == 200  # pipelined, and allowed: the length is right
    with site.connect() as connection:
        connection.sendall(chat(said() + b"\r\n\r\n" + smuggled, content_length=str(len(said()) - 3)))
        told = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert told.count(b"HTTP/1.1 ") == told.count(b"HTTP/1.1 400") == 2
        assert told.count(b"invalid_json") == told.count(b"invalid_http") == 1


def test_requests_sent_at_once_are_answered_in_order(site: Served) -> None:
    """And what follows them that is none is refused after them."""
    good, unknown = request("POST", CHAT, GOOD), request("GET", "/made-up")
    with site.connect() as connection:
        connection.sendall(good + unknown + good + b"\x00\r\n\r\n")
        told = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert [answer[:3] for answer in told.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200", b"400"]


def test_few_requests_wait_on_one_connection(site: Served) -> None:
    """Thousands in one piece are not all kept; those that were taken are answered first."""
    with site.connect() as connection:
        connection.sendall(request("GET", "/made-up", who=None) * 2000)
        told = b"".join(iter(lambda: connection.recv(65_536), b""))
    statuses = [answer[:3] for answer in told.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"404"] * (MAX_PIPELINED + 1) + [b"400"]


def test_an_offer_of_another_protocol_is_passed_over(site: Served) -> None:
    """As `curl --http2` and Java's client make it: answered in this one, once, and the connection closed."""
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMA"}
    whole = request("POST", CHAT, GOOD, **offer)
    for sent in (whole, whole * 3):
        with site.connect() as connection:
            connection.sendall(sent[:-5])
            time.sleep(0.05)
            connection.sendall(sent[-5:])
            told = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert [answer[:3] for answer in told.split(b"HTTP/1.1 ")[1:]] == [b"200"]
        assert b"connection: close" in told
    assert_refused(site.exchange(request("CONNECT", "/v1/models")), 400, "invalid_http")


@pytest.mark.parametrize("kind", ["headers", "body", "second request's headers"])
def test_a_slow_client_is_told_and_let_go(site: Served, kind: str) -> None:
    """Row 13: a byte now and then keeps no connection; 408 within the deadline, which small bytes do not put off."""
    whole = chat(said())
    with site.connect() as connection:
        if kind.startswith("second"):
            connection.sendall(whole)
            assert read_answer(connection).status == 200
        connection.sendall(whole[:40] if "headers" in kind else whole[:-30])
        started = time.monotonic()
        connection.settimeout(0.05)
        while time.monotonic() - started < 10 * SLOW_S:
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                connection.sendall(b" " if kind == "body" else b"x")
        connection.settimeout(10)
        assert_refused(read_answer(connection), 408, "request_timeout")
        assert SLOW_S * 0.8 < time.monotonic() - started < SLOW_S + 2
    site.still_serves()


def test_a_connection_that_asks_nothing_is_closed(site: Served) -> None:
    """Without a word."""
    with site.connect() as connection:
        assert connection.recv(1) == b""


def test_the_allow_header_names_every_method_of_the_path(site: Served) -> None:
    """Row 16, also where two routes share a path."""
    assert site.ask("GET", CHAT).headers["allow"] == "POST"
    assert site.ask("DELETE", "/v1/preferences").headers["allow"] == "GET, POST"


def test_unknown_names_make_no_metric_series(site: Served) -> None:
    """Row 20 and paths: what clients make up stays out of the labels."""
    before = len(list(site.services.metrics.registry.collect()))
    names = {sample.labels.get("route") for one in site.services.metrics.registry.collect() for sample in one.samples}
    for number in range(20):
        site.ask("POST", CHAT, GOOD | {"model": f"made-up-{number}"})
        site.ask("GET", f"/made-up-{number}")
    after = {sample.labels.get("route") for one in site.services.metrics.registry.collect() for sample in one.samples}
    assert len(list(site.services.metrics.registry.collect())) == before
    assert after - names <= {"other", CHAT}


def test_a_refusal_takes_as_long_whatever_the_key_has_in_common(site: Served) -> None:
    """Row 17: keys are found by their hash, so no prefix is compared with anything."""
    assert_refused(site.ask("GET", "/v1/models", who="default-ap"), 401, "invalid_api_key")
    assert_refused(site.ask("GET", "/v1/models", who="default-appx"), 401, "invalid_api_key")


def test_what_clients_write_never_shapes_the_log(site: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Row 66: one JSON object a line; hostile ids are replaced, and users' names are in none."""
    with caplog.at_level(logging.INFO):
        answer = site.ask("POST", CHAT, GOOD | {"user": "a\r\nINJECTED \x1b[31m"}, x_request_id='id [31m "}')
    assert answer.status == 200
    assert answer.headers["x-request-id"].startswith("req-")
    for record in caplog.records:
        line = JsonFormatter().format(record)
        assert json.loads(line)
        assert "\n" not in line and "INJECTED" not in line and "\x1b" not in line
    assert site.ask("GET", "/healthz", x_request_id="abc-1").headers["x-request-id"] == "abc-1"


def test_a_reader_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    """A client that stops reading does not hold its reply for ever."""
    wanted = KeyRecord("", "default", "app", name="x" * 128)

    def fill(connection: Connection) -> None:
        for _ in range(1000):
            make_key(connection, wanted, 0.0)

    with served(tmp_path, http={"unread_timeout_s": 0.3}) as site:
        site.run(site.services.database.write(fill))
        with site.connect() as connection:
            connection.sendall(request("GET", "/v1/keys", who=OPERATOR) * 100)  # some 480 KB each, far over all buffers
            time.sleep(5)
            taken = 0
            with contextlib.suppress(ConnectionError):
                while piece := connection.recv(1 << 20):
                    taken += len(piece)
            assert taken < 20_000_000
        site.still_serves()


def test_bodies_of_all_requests_together_are_bounded(tmp_path: Path) -> None:
    """Many at once get 429 and no memory; when they are gone there is room again."""
    with served(tmp_path, http={"max_buffered_bytes": 100_000}) as site:
        with site.connect() as first:
            first.sendall(chat(b" " * 80_000, content_length="90000"))
            time.sleep(0.3)
            refused = site.exchange(chat(said(user="x" * 100) + b" " * 40_000))
            assert_refused(refused, 429, "queue_full")
            assert refused.headers["retry-after"] == "1"
        time.sleep(0.3)
        assert site.exchange(chat(said() + b" " * 40_000)).status == 200


def test_a_crowd_gets_its_answers_or_is_told_to_come_back(tmp_path: Path) -> None:
    """Row 46, scaled: 600 at once for 8 places and a queue of 32. Whoever is admitted is served, soon; the rest get 429
    with Retry-After, also those that asked for a stream.
    """
    with served(tmp_path, http={"max_concurrent_requests": 8, "max_queued_requests": 32}) as site:
        site.engine.delay_s = 0.05

        def ask(number: int) -> tuple[int, float]:
            started = time.monotonic()
            answer = site.ask("POST", CHAT, GOOD | {"stream": number % 2 == 0})
            if answer.status == 429:
                assert_refused(answer, 429, "queue_full")
                assert answer.headers["retry-after"] == "1"
            elif number % 2 == 0:
                assert answer.body.endswith(b"data: [DONE]\n\n")
            return answer.status, time.monotonic() - started

        with ThreadPoolExecutor(120) as pool:
            told = list(pool.map(ask, range(600)))
        counts = Counter(status for status, _ in told)
        assert counts.keys() == {200, 429}, counts
        assert counts[200] >= 40
        served_s = sorted(waited for status, waited in told if status == 200)
        assert served_s[int(len(served_s) * 0.99)] < 10
        assert site.services.admission.present == 0
        site.still_serves()
