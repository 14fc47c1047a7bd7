"""Personal data: each class finds its form, and nothing that only looks like it."""

from __future__ import annotations

import time

import pytest

from reward.rules.pii import CLASSES, PiiRule
from reward.rules.pii.card import luhn
from reward.rules.pii.iban import LENGTHS, checksum_holds
from reward.types import Action

FOUND = {
    "email": [
        ("write to bob@example.org.", "bob@example.org"),
        ("<mailto:a.b+c_d%e@mail.sub.example.co.uk>", "a.b+c_d%e@mail.sub.example.co.uk"),
        ("o'neill@example.com, please", "o'neill@example.com"),
        ("jörg@müller.de", "jörg@müller.de"),
        ("bob@example.org.5", "bob@example.org"),
        ("x@xn--bcher-kva.xn--p1ai!", "x@xn--bcher-kva.xn--p1ai"),
    ],
    "phone": [
        ("call +49 30 1234567 now", "+49 30 1234567"),
        ("+1 (415) 555-2671", "+1 (415) 555-2671"),
        ("0044 20 7946 0958", "0044 20 7946 0958"),
        ("Tel. (415) 555-2671.", "(415) 555-2671"),
        ("415-555-2671", "415-555-2671"),
        ("020 7946 0958", "020 7946 0958"),
        ("030/1234567", "030/1234567"),
        ("06 12 34 56 78", "06 12 34 56 78"),
    ],
    "iban": [
        ("DE89 3704 0044 0532 0130 00.", "DE89 3704 0044 0532 0130 00"),
        ("to gb82west12345698765432", "gb82west12345698765432"),
        ("NO93 8601 1117 947 is short", "NO93 8601 1117 947"),
        ("FR14-2004-1010-0505-0001-3M02-606", "FR14-2004-1010-0505-0001-3M02-606"),
    ],
    "credit_card": [
        ("card 4111 1111 1111 1111, 12/27", "4111 1111 1111 1111"),
        ("5555-5555-5555-4444", "5555-5555-5555-4444"),
        ("378282246310005", "378282246310005"),
        ("7 4111111111111111", "4111111111111111"),
    ],
    "ip_address": [
        ("from 8.8.8.8.", "8.8.8.8"),
        ("host 2001:4860:4860::8888 answers", "2001:4860:4860::8888"),
        ("at 2a00:1450::1: fine", "2a00:1450::1"),
    ],
    "us_ssn": [("SSN 219-09-9999.", "219-09-9999")],
}

NOT_FOUND = {
    "email": ["@bob", "user@localhost", "5@3.5", "a@b", "bob@example.", "bob@-x.org", "bob.@example.org", "a @ b.org"],
    "phone": [
        "on 2024-10-12 at 12:30:45",
        "01.02.2024 12:30",
        "01/02/2024",
        "1,234,567.89",
        "978-3-16-148410-0",
        "0.123456789",
        "order 123456789012",
        "+12",
        "192.168.100.200",
        "a+4930123456b",
        "+1234567890123456789",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 01",  # one digit off
        "DE89 3704 0044 0532 0130 0",
        "XX89 3704 0044 0532 0130 00",
        "DE89  3704 0044 0532 0130 00",
        "AB12 is a room",
        "the ADDE89370400440532013000 part",
    ],
    "credit_card": [
        "4111 1111 1111 1112",
        "1234 5678 9012 3452",
        "41111111111111111",
        "4111  1111  1111  1111",
        "2024",
    ],
    "ip_address": [
        "192.168.1.1",
        "127.0.0.1",
        "256.1.1.1",
        "1.2.3.4.5",
        "version 1.2.3",
        "12:30:45",
        "std::vector",
        "::1",
        "dead beef cafe",
    ],
    "us_ssn": [
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "123-45-67890",
        "1123-45-6789",
    ],
}


@pytest.mark.parametrize(("name", "text", "expected"), [(n, *case) for n, cases in FOUND.items() for case in cases])
def test_each_class_finds_its_form(name: str, text: str, expected: str) -> None:
    """All of it and nothing more."""
    assert [text[start:end] for start, end in CLASSES[name].find(text)] == [expected]


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in NOT_FOUND.items() for text in texts])
def test_what_looks_alike_is_let_pass(name: str, text: str) -> None:
    """A checksum that fails, a number that nobody has, a date, a version."""
    assert list(CLASSES[name].find(text)) == []


def test_a_rule_names_what_it_found_and_never_quotes_it() -> None:
    """A verdict can be shown to anyone."""
    verdict = PiiRule("pii", (CLASSES["email"], CLASSES["iban"])).check("bob@example.org")
    assert (verdict.action, verdict.reason) == (Action.BLOCK, "holds email")


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    "unit",
    ["@", "a@", "a.", "1 ", "0", "+1", "+1 2", "DE12 ", "4 ", "1.1.", "a:", "-", "beef ", "0123 456", "(0", "219-09-"],
)
def test_time_is_linear(name: str, unit: str) -> None:
    """Whatever is repeated, 100,000 characters take a moment."""
    text = unit * (100_000 // len(unit))
    started = time.perf_counter()
    list(CLASSES[name].find(text))
    assert time.perf_counter() - started < 3.0


def test_checksums() -> None:
    """As the standards' own examples say."""
    assert luhn("79927398713")
    assert not luhn("79927398710")
    assert checksum_holds("GB82WEST12345698765432")
    assert not checksum_holds("GB82WEST12345698765433")
    assert all(15 <= length <= 32 for length in LENGTHS.values())
