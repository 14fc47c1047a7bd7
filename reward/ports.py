"""What a rule and a scorer promise. Implementations live in `rules/` and `scorers/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from reward.types import Action, Candidate, Prompt, Verdict


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
        is out by the time it applies; None: all of them.
        """
        ...

    def check(self, text: str) -> Verdict:
        """The rule's verdict. Its reason never quotes the text."""
        ...


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
