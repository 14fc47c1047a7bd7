"""Scorers that need nothing but the answer: each says what it promises, in a table, and survives any text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.ports import Scorer
from reward.scorers import (
    FormatScorer,
    ImplicitScorer,
    LanguageScorer,
    LengthScorer,
    LogprobScorer,
    RefusalScorer,
    RepetitionScorer,
    SchemaScorer,
    SelfCertaintyScorer,
)
from reward.scorers.cache import Cache, prompt_key
from reward.types import Candidate, Image, Message, Prompt, Tool, ToolCall

PROMPT = Prompt((Message("user", ("What is it?",)),))
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
}


def said(text: str, **changes: object) -> Candidate:
    return Candidate(**({"index": 0, "adapter": "a", "text": text, "token_ids": (1, 2), "logprobs": (-1.0, -1.0),
                         "finish_reason": "stop"} | changes))  # type: ignore[arg-type]  # fmt: skip


async def score(scorer: Scorer, text: str, prompt: Prompt = PROMPT) -> float | None:
    (value,) = await scorer.score(prompt, [said(text)])
    return value


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("json", '{"a": 1}', 1.0),
        ("json", "[1, 2]", 1.0),
        ("json", 'Here: {"a": 1}', 0.0),
        ("json", "7", 0.0),
        ("json", "[" * 100_000, 0.0),
        ("list", "- a\n- b", 1.0),
        ("list", "1. a\n   more of it\n2. b", 1.0),
        ("list", "- a", 0.0),
        ("list", "Here they are:\n- a\n- b", 0.0),
        ("one_sentence", "A red cup stands on 3.5 plates.", 1.0),
        ("one_sentence", "A cup. A plate.", 0.0),
        ("one_sentence", "A cup", 0.0),
        ("one_sentence", "A cup\nand more.", 0.0),
        ("markdown", "# Title\ntext", 1.0),
        ("markdown", "a **bold** word", 1.0),
        ("markdown", "```\ncode\n```", 1.0),
        ("markdown", "```\ncode", 0.0),
        ("markdown", "just words", 0.0),
        ("plain", "just words", 1.0),
        ("plain", "a **bold** word", 0.0),
        ("plain", "```\ncode", 0.0),
        ("plain", "", 0.0),
    ],
)
async def test_format(form: str, text: str, expected: float) -> None:
    """One where the answer has the form, nothing where not."""
    assert await score(FormatScorer(form), text) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "Ada", "age": 36}', 1.0),
        ('{"age": 36}', 0.5),
        ('{"name": "Ada", "more": 1}', 0.5),
        ("not JSON", 0.0),
        ("[" * 60_000, 0.0),
        ('{"name": "' + "a" * 70_000 + '"}', None),
        ("[" + "1," * 6_000 + "1]", None),
    ],
    ids=["fits", "misses", "more", "no JSON", "deep", "long", "many"],
)
async def test_json_schema(text: str, expected: float | None) -> None:
    """Fitting JSON is worth more than other JSON, which is worth more than none; what is too large is not scored."""
    assert await score(SchemaScorer(PERSON), text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I can't help with that.", -1.0),
        ("I can\u2019t help  with that.", -1.0),
        ("I'm sorry, but I'm unable to say.", -1.0),
        ("I'm sorry, but that is a cup.", -0.4),
        ("It is a red cup on a plate. " * 8 + "I can't see the label.", -0.2),
        ("It is a red cup.", 0.0),
    ],
)
async def test_refusal(text: str, expected: float) -> None:
    """What surely declines loses most; a phrase deep inside an answer loses half; an answer loses nothing."""
    assert await score(RefusalScorer(), text) == pytest.approx(expected)


async def test_refusal_with_phrases_of_ones_own() -> None:
    """They stand in place of the built-in ones, and the version tells."""
    own = RefusalScorer({"das kann ich nicht": 1.0})
    assert await score(own, "Das kann ich nicht beantworten.") == -1.0
    assert await score(own, "I can't help with that.") == 0.0
    assert own.version != RefusalScorer().version


ENGLISH, GERMAN = "There is a cup on the table and it is red.", "Auf dem Tisch steht eine Tasse und sie ist rot."
CHINESE, RUSSIAN = "桌子上有一个红色的杯子。", "На столе стоит красная чашка."


@pytest.mark.parametrize(
    ("language", "good", "bad"),
    [
        ("en", ENGLISH, GERMAN),
        ("de", GERMAN, ENGLISH),
        ("zh", CHINESE, ENGLISH),
        ("ru", RUSSIAN, CHINESE),
        ("en", ENGLISH, CHINESE),
        ("ja", "テーブルの上に赤いカップがあります。", ENGLISH),
    ],
)
async def test_language(language: str, good: str, bad: str) -> None:
    """The wanted language gets all, another script nothing, another language of the script less."""
    scorer = LanguageScorer(language)
    assert await score(scorer, good) == 1.0
    assert (await score(scorer, bad) or 0.0) < 0.5


async def test_language_of_the_prompt() -> None:
    """An answer in the script of the question; a question without letters asks for nothing."""
    scorer = LanguageScorer("prompt")
    asked = Prompt((Message("user", (ENGLISH,)), Message("assistant", (ENGLISH,)), Message("user", (RUSSIAN,))))
    assert await score(scorer, RUSSIAN, asked) == 1.0
    assert await score(scorer, ENGLISH, asked) == 0.0
    assert await score(scorer, CHINESE, Prompt((Message("user", ("1 + 1 = ?",)),))) == 1.0
    assert await score(LanguageScorer("en"), "42") == 1.0


def test_an_unknown_language_is_refused_by_name() -> None:
    """At the start, not at the first answer."""
    with pytest.raises(ValueError, match="xx"):
        LanguageScorer("xx")


async def test_repetition_finds_loops_without_a_full_stop() -> None:
    """A text that says it all once loses nothing."""
    assert await score(RepetitionScorer(), "a cup on a plate and a spoon beside it") == 0.0
    assert (await score(RepetitionScorer(), "a cup on a plate " * 20) or 0.0) < -0.7


async def test_self_certainty_by_hand() -> None:
    """Nothing where the k likeliest share evenly; more as one takes all; the mean over the tokens."""
    even, sharp = (math.log(0.5),) * 2, (math.log(0.9), math.log(0.1))
    scorer = SelfCertaintyScorer(top_k=2)
    answers = [
        said("a", alternatives=(even, even)),
        said("b", alternatives=(sharp, even)),
        said("c", alternatives=(sharp, sharp)),
        said("d"),
        said("e", alternatives=((0.0,),)),
    ]
    values = await scorer.score(PROMPT, answers)
    one = -(math.log(0.9) + math.log(0.1)) / 2 - math.log(2)
    assert values[:3] == [pytest.approx(0.0), pytest.approx(one / 2), pytest.approx(one)]
    assert values[3:] == [None, None], "without the alternatives there is nothing to say"
    forbidden = said("f", alternatives=((0.0, -9999.0),))
    assert await scorer.score(PROMPT, [forbidden]) == [pytest.approx(25 - math.log(2))]


async def test_the_base_half_is_asked_for_once_per_answer() -> None:
    """Also by later calls and for other adapters; another prompt is another answer."""
    asked: list[str] = []

    async def base(prompt: Prompt, answer: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        asked.append(prompt.messages[-1].text + answer)
        return (1, 2), (-2.0, -2.0)

    scorer = ImplicitScorer(base, "base", beta=0.5)
    assert await scorer.score(PROMPT, [said("x")]) == [1.0]
    assert await scorer.score(PROMPT, [said("x", adapter="b", logprobs=(-2.0, -2.0))]) == [0.0]
    assert await scorer.score(Prompt((Message("user", ("Else?",)),)), [said("x")]) == [1.0]
    assert asked == ["What is it?x", "Else?x"]


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    """It never holds more than it may."""
    cache: Cache[int, str] = Cache(2)
    cache.put(1, "a")
    cache.put(2, "b")
    assert cache.get(1) == "a"
    cache.put(3, "c")
    assert [cache.get(key) for key in (1, 2, 3)] == ["a", None, "c"]
    assert len(cache) == 2
    none: Cache[int, str] = Cache(0)
    none.put(1, "a")
    assert none.get(1) is None


def test_prompts_that_differ_in_anything_have_different_keys() -> None:
    """Role, text, image, place of the image, tools, calls."""
    image, other = Image("1" * 64, "image/png", b"1"), Image("2" * 64, "image/png", b"2")
    prompts = [
        PROMPT,
        Prompt((Message("system", ("What is it?",)),)),
        Prompt((Message("user", ("What is it?", image)),)),
        Prompt((Message("user", (image, "What is it?")),)),
        Prompt((Message("user", ("What is it?", other)),)),
        Prompt((Message("user", ("What is it?",), (ToolCall("1", "f", "{}"),)),)),
        Prompt(PROMPT.messages, (Tool("f", "", "{}"),)),
    ]
    assert len({prompt_key(one) for one in prompts}) == len(prompts)
    assert prompt_key(PROMPT) == prompt_key(Prompt((Message("user", ("What is it?",)),)))


@pytest.mark.parametrize(
    "scorer",
    [
        FormatScorer("markdown"),
        FormatScorer("list"),
        FormatScorer("one_sentence"),
        FormatScorer("json"),
        SchemaScorer(PERSON),
        LanguageScorer("en"),
        LanguageScorer("prompt"),
        RefusalScorer(),
        RepetitionScorer(),
        LengthScorer(3),
        LogprobScorer(),
    ],
    ids=lambda scorer: f"{scorer.name} {scorer.version}",
)
@given(text=st.text())
async def test_any_text_gets_a_finite_number(scorer: Scorer, text: str) -> None:
    """Nothing that a model can say makes one of them fail."""
    value = await score(scorer, text)
    assert value is not None
    assert math.isfinite(value)
