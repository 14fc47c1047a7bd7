"""What a rule and a scorer promise. Implementations live in `rules/` and `scorers/`.

Rule        reads one text
Settling  a rule that can tell more closely than by its reach what of a growing text is settled
ImageRule   looks at the images of a conversation
Guard       a model that reads a conversation; does I/O
Scorer      a judge of taste; may do I/O
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from reward.types import Action, Candidate, Image, Prompt, Verdict


class Rule(Protocol):
    """A safety rule: a pure function of one text, in time linear in its length.

    Whatever it raises counts as `block` (fail closed).
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes whenever a verdict could."""
        ...

    @property
    def action(self) -> Action:
        """What it asks for where it applies."""
        ...

    @property
    def reach(self) -> int | None:
        """How many characters at a growing text's end have to be kept back, so that nothing of what the rule forbids
        is out by the time it applies, and what it redacts is known to its end; None: all of them.
        """
        ...

    def check(self, text: str) -> Verdict:
        """The rule's verdict. Its reason never quotes the text. With `redact` its spans are all that it found."""
        ...


@runtime_checkable
class Settling(Protocol):
    """A rule whose reach depends on how the text ends: of "Hello there, I am" no letter can become an address."""

    def settled(self, text: str) -> int:
        """Up to where a growing text is settled: what the rule finds that begins before it, no further text changes.

        At least `len(text) - reach`.
        """
        ...


class ImageRule(Protocol):
    """A safety rule about the images of a conversation. Pure, but may take a while: called on a worker thread.

    Whatever it raises counts as `block`.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def action(self) -> Action: ...

    def check(self, images: Sequence[Image]) -> Verdict: ...


class Guard(Protocol):
    """A model that reads a conversation and says whether its last turn is safe. Bounds its own time.

    Whatever it raises counts as `block`, marked as failed: nothing was found out.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes with the model, its address, and what it is asked."""
        ...

    @property
    def action(self) -> Action: ...

    async def check(self, prompt: Prompt, answer: str | None) -> Verdict:
        """Of the answer to the prompt; None: of what users and tools said in the prompt."""
        ...

    async def close(self) -> None: ...


class Scorer(Protocol):
    """A judge of taste: higher is better. May do I/O; the caller sets a deadline and cancels.

    Whatever it raises, a wrong number of values, or a value that is not finite leaves it out (fail open).
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes whenever a score could."""
        ...

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        """One value for each candidate, in order; None where this one cannot be scored."""
        ...
