"""Redaction of whole texts and of growing ones: what leaves of a stream is the beginning of the whole redacted text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.policy import SafetyPolicy, Terms, is_blocked
from reward.redaction import redact, redact_parts
from reward.rules import LengthRule, PatternRule, PiiRule, WordsRule
from reward.rules.pii import CLASSES
from reward.types import Action, Message, Prompt

PII = PiiRule("pii", tuple(CLASSES.values()), Action.REDACT)
CODE = PatternRule("code", r"code \d{1,6}\b", Action.REDACT)
NAMES = WordsRule("names", ("ass", "New York", "Zoë"), Action.REDACT)
POLICY = SafetyPolicy(
    outputs=(PII, CODE, NAMES),
    terms={"pii": Terms(replacement="<P>"), "code": Terms(replacement="<C>"), "names": Terms(replacement="<N>")},
)


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        ("abcdef", [(1, 3, "X")], "aXdef"),
        ("abcdef", [(3, 5, "Y"), (1, 4, "X")], "aXf"),
        ("abcdef", [(1, 2, "X"), (2, 3, "Y")], "aXYdef"),
        ("abcdef", [(0, 6, "X"), (2, 3, "Y")], "X"),
        ("abcdef", [], "abcdef"),
    ],
)
def test_what_overlaps_is_replaced_once(text: str, found: list[tuple[int, int, str]], expected: str) -> None:
    """By the one that begins first; neighbours stay apart."""
    assert redact(text, found) == expected


def test_a_find_across_parts_is_replaced_where_it_begins() -> None:
    """A secret that is split over the parts of a message is found, and nothing of it is left in any of them."""
    message = Message("user", ("my co", "de 12", "34, ok"))
    policy = SafetyPolicy(inputs=(CODE,), terms={"code": Terms(replacement="X")})
    admitted, verdicts = policy.admit(Prompt((message,)))
    assert admitted.messages[0].parts == ("my X", "", ", ok")
    assert not is_blocked(verdicts)
    assert redact_parts(["ab", "cd"], [(0, 4, "X")]) == ("X", "")
    assert redact_parts(["ab", "cd"], [(0, 3, "X"), (2, 4, "Y")]) == ("X", "")


def streamed(policy: SafetyPolicy, pieces: list[str]) -> tuple[str, bool]:
    """What has left by the end, and whether it was cut."""
    text, sent = "", ""
    for piece in pieces:
        text += piece
        view = policy.view(text)
        if view.is_blocked:
            return sent, True
        if len(view.text) > len(sent):
            assert view.text.startswith(sent)
            sent = view.text
    reading = policy.read(text)
    if is_blocked(reading.verdicts):
        return sent, True
    whole = text if reading.shown_text is None else reading.shown_text
    assert whole.startswith(sent)
    return whole, False


PERSONAL = ["bob@example.org", "+49 30 1234567", "4111 1111 1111 1111", "(415) 555-2671", "GB82WEST12345698765432"]
PERSONAL += ["DE89 3704 0044 0532 0130 00", "8.8.8.8", "2a00:1450::1", "078-05-1120"]
LISTED = ["code 1", "code ", "ass", "assistant", "new", "york", "New York", "Zoe\u0308", "zoë", "\u200b", "\u0301"]
ESCAPED = ["\\", "\\u0061ss", "\\n", '"', "\\u00", "\\ud83d\\ude00"]
FRAGMENTS = st.sampled_from([*PERSONAL, *LISTED, *ESCAPED, *"@. +0-:1x|é😀", "4111", "12", "\n"])


@settings(max_examples=400, deadline=None)
@given(st.lists(FRAGMENTS, max_size=12).map("".join), st.data())
def test_a_stream_is_the_whole_redacted_text_however_it_is_split(text: str, data: st.DataObject) -> None:
    """For all splits; and where the whole is forbidden, what left of it is the beginning of what a redaction leaves."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=20)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    reading = POLICY.read(text)
    sent, is_cut = streamed(POLICY, pieces)
    assert is_cut is is_blocked(reading.verdicts)
    if not is_cut:
        assert sent == (text if reading.shown_text is None else reading.shown_text)


@settings(max_examples=200, deadline=None)
@given(st.lists(FRAGMENTS, max_size=10).map("".join))
def test_letter_by_letter_no_find_is_ever_out(text: str) -> None:
    """Nothing that a rule finds in the whole text has left as it was, after any letter."""
    sent, is_cut = streamed(POLICY, list(text))
    if not is_cut:
        assert not any(verdict.spans for verdict in POLICY.check_output(sent) if verdict.action is Action.BLOCK)
        assert PII.check(sent).action is Action.ALLOW


@settings(max_examples=200, deadline=None)
@given(st.lists(FRAGMENTS, max_size=10).map("".join))
def test_a_blocked_stream_is_blocked_as_the_whole_is(text: str) -> None:
    """A word is whole only once it has ended: "ass" in a stream may become "assistant"."""
    policy = SafetyPolicy(outputs=(WordsRule("w", ("ass", "new york")), PatternRule("p", r"\bcode\b")))
    sent, is_cut = streamed(policy, list(text))
    assert is_cut is policy.blocks_output(text)
    if is_cut:
        assert not policy.blocks_output(sent)


def test_text_leaves_as_soon_as_it_can_be_no_part_of_a_find() -> None:
    """A policy that redacts addresses does not hold back a sentence without one."""
    policy = SafetyPolicy(outputs=(PiiRule("pii", (CLASSES["email"],), Action.REDACT),))
    assert policy.view("Hello there, I am").text == "Hello there, I "
    assert policy.view("Hello there, I am bob@exa").text == "Hello there, I am "
    assert policy.view("Hello there, I am bob@example.org, ").text == "Hello there, I am [removed], "
    assert policy.view("Hello there, I am bob@example.org, ").plain_until == len("Hello there, I am ")


def test_a_redaction_that_does_not_hold_blocks() -> None:
    """What a rule finds in JSON's escapes cannot be replaced in place, and is not shown."""
    policy = SafetyPolicy(outputs=(CODE,))
    assert policy.read('{"a": "code 12"}').shown_text == '{"a": "[removed]"}'
    escaped = '{"a": "c\\u006fde 12"}'
    assert policy.blocks_output(escaped)
    assert policy.view(escaped + " " * 200).is_blocked
    assert "12" not in policy.view(escaped).text


def test_an_emoji_in_escapes_is_no_failure() -> None:
    """A surrogate pair is one character."""
    assert not POLICY.blocks_output('{"a": "\\ud83d\\ude00 \\ud83d"}')


def test_who_finds_no_place_cannot_redact() -> None:
    """Then the whole text is kept back."""
    assert SafetyPolicy(outputs=(LengthRule("l", 3, Action.REDACT),)).blocks_output("abcd")


@pytest.mark.parametrize("pattern", [r"a.*b", r"a+", r"\d*"])
def test_a_pattern_without_a_longest_match_cannot_redact(pattern: str) -> None:
    """Said at the start, by name."""
    with pytest.raises(ValueError, match="rule r"):
        PatternRule("r", pattern, Action.REDACT)
