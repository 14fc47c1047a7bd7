"""The values that the alignment pipeline passes around: frozen, without I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Image:
    """One image exactly as the engine gets it: the original container, without metadata segments."""

    sha256: str
    mime: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that an assistant's turn called, with its arguments as JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called. `parameters`: the JSON schema of its arguments."""

    name: str
    description: str
    parameters: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: texts and images in the order in which they were given."""

    role: str
    parts: tuple[str | Image, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """Of a `tool` turn: the call that it answers."""

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for the assistant's next turn."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for message in self.messages for image in message.images)


REJECTED: Final = "rejected"
"""The finish reason of an answer that was given up half-way: never shown, never trained on."""
STEP: Final = "step"
"""The finish reason of an answer's beginning that paused behind a sentence: compared with its siblings, never shown."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled answer, with the token ids and log-probabilities as the engine drew them.

    `logprobs` are natural logarithms of the raw (temperature 1) distribution, one for each id of `token_ids`.
    """

    index: int
    adapter: str
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    """As the engine says it; `REJECTED` where the answer was given up half-way, `STEP` where it only paused."""
    variant: str = ""
    """Name of a hidden instruction that the prompt carried; empty for the user's own prompt."""
    alternatives: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    """At each token the log-probabilities of the likeliest ones, best first; empty where nobody asked for them."""
    shared_tokens: int = 0
    """So many first tokens are an earlier candidate's too, and were generated once."""

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end (or to `max_tokens`)."""
        return self.finish_reason not in {REJECTED, STEP}


class Action(StrEnum):
    """What a rule asks for when it applies, from the weakest to the strongest. The strongest of all rules' counts."""

    ALLOW = "allow"
    FLAG = "flag"
    """Nothing but a note."""
    PENALISE = "penalise"
    """Something is taken off the candidate's total."""
    REDACT = "redact"
    """What was found is replaced before anybody sees the text."""
    REVISE = "critique_and_revise"
    """Not shown as it is; the model may revise it once."""
    BLOCK = "block"

    @property
    def strength(self) -> int:
        return list(Action).index(self)

    @property
    def forbids(self) -> bool:
        """Whether the text must not be shown as it is."""
        return self in {Action.REVISE, Action.BLOCK}


Span = tuple[int, int]
"""A part of a text: its first character, and the one behind its last."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule said about one text. `reason` is for operators; it never quotes the text."""

    rule: str
    version: str
    action: Action
    reason: str = ""
    spans: tuple[Span, ...] = ()
    """Where it applies, in order, where the rule can tell; one that does not redact may tell the first place only."""
    penalty: float = 0.0
    """`penalise`: what is taken off the total."""
    has_failed: bool = False
    """The rule found nothing out (it raised, or its model did not answer); then it counts as `block`."""


@dataclass(frozen=True, slots=True)
class Score:
    """One scorer's value for one candidate; `value` None: the scorer failed or gave no finite number."""

    scorer: str
    version: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """All that was found about one candidate.

    `total` is what candidates of one prompt are chosen by, `value` what answers given at different times are compared
    by (`reward.ensemble`; None: not one scorer answered); `disagreement` is the standard deviation of the total's
    calibrated parts, 0 for a single scorer.
    """

    candidate: Candidate
    verdicts: tuple[Verdict, ...]
    scores: tuple[Score, ...]
    total: float | None
    disagreement: float = 0.0
    value: float | None = None
    shown_text: str | None = None
    """What people may see of the candidate where a rule redacted it; None: its text."""

    @property
    def is_blocked(self) -> bool:
        """Whether a rule forbids showing it as it is."""
        return any(verdict.action.forbids for verdict in self.verdicts)

    @property
    def is_feasible(self) -> bool:
        """Whether it may be chosen."""
        return not self.is_blocked and self.candidate.is_whole

    @property
    def visible_text(self) -> str:
        return self.candidate.text if self.shown_text is None else self.shown_text


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen candidate's index, its exact probability under the strategy, and why, in words."""

    index: int | None
    probability: float
    strategy: str
    reason: str
    probabilities: tuple[float, ...] = ()
    """One for each judged candidate, in order; 0 for those that are not feasible."""
