"""Word lists: whole words, whatever their case and form; and rules about scripts and images."""

from __future__ import annotations

import time

import pytest

from reward.policy import SafetyPolicy
from reward.rules import ImageLimitRule, KnownImageRule, LanguageRule, WordsRule
from reward.types import Action, Image, Message, Prompt, Verdict

RULE = WordsRule("w", ("ass", "straße", "New York", "zoë"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ASS", "ASS"),
        ("an assistant, a class", None),
        ("in der STRASSE", "STRASSE"),
        ("ｓｔｒａｓｓｅ", "ｓｔｒａｓｓｅ"),  # full width
        ("Zoe\u0308!", "Zoe\u0308"),
        ("zoe", None),
        ("a\u200bs\u00ads", "a\u200bs\u00ads"),  # invisible characters inside
        ("new\nYORK city", "new\nYORK"),
        ("new old york", None),
        ("new ........... york", None),
        ("", None),
    ],
)
def test_words_are_found_whole_and_folded(text: str, found: str | None) -> None:
    """The place is that of the original text."""
    verdict = RULE.check(text)
    assert [text[start:end] for start, end in verdict.spans] == ([] if found is None else [found])


def test_a_list_without_words_is_refused() -> None:
    """An entry of signs alone would match nothing, and nobody would notice."""
    for phrases in ((), ("ok", "!?")):
        with pytest.raises(ValueError, match="rule w"):
            WordsRule("w", phrases)


def test_a_long_list_and_a_long_text_take_a_moment() -> None:
    """Linear in the text, whatever the list."""
    rule = WordsRule("w", tuple(f"word{number} more" for number in range(20_000)))
    text = "word5 word6 é " * 8_000
    started = time.perf_counter()
    assert rule.check(text).action is Action.ALLOW
    assert time.perf_counter() - started < 3.0


def test_versions_follow_the_content() -> None:
    """Not the order, nor the case."""
    assert WordsRule("a", ("x", "Y")).version == WordsRule("b", ("y", "X")).version != RULE.version


@pytest.mark.parametrize(
    ("text", "applies"),
    [
        ("An answer in English, à la française.", False),
        ("Это ответ на русском языке.", True),
        ("这是用中文写的回答，不是别的语言，也不是英文的回答。", True),
        ("Ответ: yes", False),
        ("1234567890 !?… 😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀", False),
        ("𝐀𝐧 𝐚𝐧𝐬𝐰𝐞𝐫 𝐢𝐧 𝐦𝐚𝐭𝐡𝐞𝐦𝐚𝐭𝐢𝐜𝐚𝐥 𝐥𝐞𝐭𝐭𝐞𝐫𝐬 𝐨𝐟 𝐋𝐚𝐭𝐢𝐧", False),
    ],
)
def test_scripts_are_told_apart(text: str, applies: bool) -> None:
    """A name or a word in another script is let pass, a text is not."""
    assert (LanguageRule("l", ("latin",), 10).check(text).action is Action.BLOCK) is applies


def image(name: str, size: int = 10) -> Image:
    return Image(name, "image/png", b"x" * size)


def test_image_rules() -> None:
    """Count, size, digest, and a fingerprint with some bits off."""
    assert ImageLimitRule("i", max_images=1).check([image("a"), image("b")]).action is Action.BLOCK
    assert ImageLimitRule("i", max_bytes=9).check([image("a")]).action is Action.BLOCK
    assert ImageLimitRule("i", max_images=1, max_bytes=10).check([image("a")]).action is Action.ALLOW
    looks = {"a": 0b1111, "b": 0b1000, "c": 1 << 63}
    rule = KnownImageRule("k", frozenset({"d"}), (0b1100,), max_distance=2, fingerprint=lambda one: looks[one.sha256])
    assert [rule.check([image(name)]).action is Action.BLOCK for name in "abc"] == [True, True, False]
    assert rule.check([image("d")]).action is Action.BLOCK


async def test_an_image_that_cannot_be_read_blocks() -> None:
    """Safety fails closed (I7): what raises, and what takes too long."""

    def broken(one: Image) -> int:
        raise OSError("damaged")

    def slow(one: Image) -> int:
        time.sleep(0.3)
        return 0

    prompt = Prompt((Message("user", (image("a"), "What is this?")),))
    for looks_like in (broken, slow):
        rule = KnownImageRule("k", frozenset(), (1 << 60,), max_distance=0, fingerprint=looks_like)
        policy = SafetyPolicy(images=(rule,), image_timeout_s=0.05)
        verdicts: tuple[Verdict, ...] = await policy.check_request(prompt)
        assert [(one.action, one.has_failed) for one in verdicts] == [(Action.BLOCK, True)]
    assert await SafetyPolicy(images=(rule,)).check_request(Prompt((Message("user", ("Hi",)),))) == ()
