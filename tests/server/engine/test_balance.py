"""Which replica gets a request: pure."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from reward.types import Image, Message, Prompt
from server.engine.balance import affinity_of, choose, tokens_of

LOADS = st.dictionaries(st.integers(0, 9), st.integers(0, 10_000), min_size=1)


def picture(name: str) -> Image:
    return Image(name, "image/png", b"")


@given(LOADS, st.text(max_size=8), st.integers(1, 4000), st.floats(1, 8))
def test_no_replica_gets_more_than_its_share(loads: dict[int, int], affinity: str, tokens: int, factor: float) -> None:
    """With the request it has at most `factor` times what the least loaded one would have."""
    chosen = choose(loads, affinity, tokens, factor)
    assert loads[chosen] + tokens <= factor * (min(loads.values()) + tokens)


@given(LOADS, st.text(max_size=8), st.integers(1, 4000))
def test_without_affinity_the_least_loaded_gets_it(loads: dict[int, int], affinity: str, tokens: int) -> None:
    """Factor 1: nothing but the load counts."""
    assert loads[choose(loads, affinity, tokens, 1.0)] == min(loads.values())


def test_a_replica_that_goes_moves_only_its_own_share() -> None:
    """And the rest is spread over all: rendezvous hashing."""
    four, three = dict.fromkeys(range(4), 0), dict.fromkeys(range(3), 0)
    before = {key: choose(four, key, 10, 8.0) for key in map(str, range(2000))}
    after = {key: choose(three, key, 10, 8.0) for key in before}
    assert all(after[key] == number for key, number in before.items() if number != 3)
    assert all(400 < count < 600 for count in Counter(before.values()).values())
    assert set(Counter(after[key] for key, number in before.items() if number == 3)) == {0, 1, 2}


def test_the_image_decides_or_else_the_first_question() -> None:
    """Other questions about an image, and later turns of a conversation, stay where their caches are."""

    def about(name: str, text: str) -> Prompt:
        return Prompt((Message("user", (picture(name), text)),))

    assert affinity_of(about("one", "What?")) == affinity_of(about("one", "Where?"))
    assert affinity_of(about("one", "What?")) != affinity_of(about("two", "What?"))
    opening = (Message("system", ("Be brief.",)), Message("user", ("Hi",)))
    later = (*opening, Message("assistant", ("Hello",)), Message("user", ("And now?",)))
    assert affinity_of(Prompt(opening)) == affinity_of(Prompt(later))
    assert affinity_of(Prompt(opening)) != affinity_of(Prompt((opening[0], Message("user", ("Ho",)))))
    assert affinity_of(Prompt((Message("user", ("\ud800",)),)))


def test_a_request_weighs_its_prompt_once_and_every_answer() -> None:
    """Text, images and candidates add to it; nothing is free."""
    text, longer = Prompt((Message("user", ("x" * 400,)),)), Prompt((Message("user", ("x" * 800,)),))
    seen = Prompt((Message("user", (picture("one"), "x" * 400)),))
    assert tokens_of(longer, 10) - tokens_of(text, 10) == 100
    assert tokens_of(seen, 10) > tokens_of(text, 10)
    assert tokens_of(text, 80) - tokens_of(text, 10) == 70
    assert tokens_of(Prompt(()), 0) > 0
