"""A safety policy: rules for what comes in and what goes out, and what follows from what they find. Fails closed.

What a rule finds is the rule's; what is done about it (penalty, replacement, instruction) are its `Terms`. A rule that
raises counts as `block`, whatever its action. So does a redaction that does not hold: where its rule still finds
something in what would be shown, for example in JSON's escapes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from reward import escapes
from reward.ports import Guard, ImageRule, Rule, Settling
from reward.redaction import Replacement, redact, redact_parts
from reward.types import Action, Message, Prompt, Verdict

UNTRUSTED_ROLES = frozenset({"user", "tool"})
"""Turns that the input rules read: what the app itself says is the app's."""
FAILED = "the rule failed"


class GuardDown(Exception):
    """A guard that has to read what comes in does not answer."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What follows where a rule applies."""

    penalty: float = 0.0
    """`penalise`: what is taken off the candidate's total."""
    replacement: str = "[removed]"
    """`redact`: what stands in the place of what was found."""
    instruction: str = ""
    """What a model is told to keep to when it answers again, in words."""
    version: str = ""
    """As declared by who wrote the rule; the rule's own version, of its content, goes behind it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a policy found in an answer. `shown_text`: what may be seen of it where something is redacted."""

    verdicts: tuple[Verdict, ...]
    shown_text: str | None = None

    @property
    def penalty(self) -> float:
        return sum(verdict.penalty for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class View:
    """What of a growing answer may leave: `text`, already redacted. Up to `plain_until` it is the answer's own."""

    text: str
    plain_until: int
    is_blocked: bool = False
    """It will never be shown as it is; nothing more may leave."""


@dataclass(frozen=True, slots=True)
class SafetyPolicy:
    """Which rules read what people say (`inputs`) and which the answers (`outputs`). Names of rules differ."""

    inputs: tuple[Rule, ...] = ()
    outputs: tuple[Rule, ...] = ()
    images: tuple[ImageRule, ...] = ()
    input_guards: tuple[Guard, ...] = ()
    output_guards: tuple[Guard, ...] = ()
    terms: Mapping[str, Terms] = field(default_factory=dict)
    """By the rule's name; a rule without an entry has the defaults."""
    version: str = ""
    image_timeout_s: float = 10.0

    @property
    def output_guard_names(self) -> frozenset[str]:
        return frozenset(guard.name for guard in self.output_guards)

    def check_input(self, text: str) -> tuple[Verdict, ...]:
        return self._apply(self.inputs, text)

    def admit(self, prompt: Prompt) -> tuple[Prompt, tuple[Verdict, ...]]:
        """The prompt with what the input rules redact in it, and their verdicts on each untrusted turn."""
        if not self.inputs:
            return prompt, ()
        verdicts: list[Verdict] = []
        messages: list[Message] = []
        for message in prompt.messages:
            if message.role in UNTRUSTED_ROLES:
                found = self.check_input(message.text)
                message, found = self._redacted_turn(message, found)  # noqa: PLW2901 - the turn as it goes on
                verdicts += found
            messages.append(message)
        return replace(prompt, messages=tuple(messages)), tuple(verdicts)

    async def check_request(self, prompt: Prompt) -> tuple[Verdict, ...]:
        """What the rules on images and the guards say of what comes in. Raises `GuardDown`."""
        if not self.images and not self.input_guards:
            return ()
        found = await asyncio.gather(
            *(self._look(rule, prompt) for rule in self.images if prompt.images),
            *(self._ask(guard, prompt, None) for guard in self.input_guards),
        )
        verdicts = tuple(found)
        guards = {guard.name for guard in self.input_guards}
        down = [one.rule for one in verdicts if one.has_failed and one.rule in guards]
        if down and not is_blocked(one for one in verdicts if not one.has_failed):
            raise GuardDown(down[0])
        return verdicts

    def check_output(self, text: str) -> tuple[Verdict, ...]:
        return self.read(text).verdicts

    def read(self, text: str) -> Reading:
        """What the rules find, also in what a JSON text says in escapes. Guards are not asked."""
        verdicts = self._apply(self.outputs, text)
        found = self._replacements(verdicts)
        shown = redact(text, found) if found else text
        readings = ([shown] if found else []) + ([escapes.without_escapes(shown)] if "\\" in shown else [])
        for reading in readings:
            again = self._apply(self.outputs, reading)
            verdicts = tuple(_stronger(*pair) for pair in zip(verdicts, again, strict=True))
        return Reading(verdicts, shown if found else None)

    async def judge(self, prompt: Prompt, text: str) -> Reading:
        """What rules and guards find in an answer. A text that a rule forbids already is shown to no guard."""
        reading = self.read(text)
        if not self.output_guards or is_blocked(reading.verdicts):
            return reading
        found = await asyncio.gather(*(self._ask(guard, prompt, text) for guard in self.output_guards))
        return replace(reading, verdicts=(*reading.verdicts, *found))

    def blocks_output(self, text: str) -> bool:
        return is_blocked(self.check_output(text))

    def view(self, text: str) -> View:
        """What may leave of an answer of which this is the beginning. It grows with the answer: what has left once is
        the beginning of every later view, and of the whole answer's `shown_text`.
        """
        frontier = 0 if self.output_guards else len(text)
        found: list[Replacement] = []
        for rule in self._binding:
            verdict, settled = self._apply_one(rule, text), _settled(rule, text)
            frontier = min(frontier, settled)
            if verdict.action.forbids:
                if _is_settled(verdict, settled):
                    return View("", 0, is_blocked=True)
                frontier = 0  # most likely it stays forbidden: nothing more leaves until that is known
            found += self._replacements([verdict])
        if "\\" in text:
            meant = escapes.without_escapes(escapes.finished(text))
            open_ = max((len(meant) - _settled(rule, meant) for rule in self._binding), default=0)
            frontier = min(frontier, max(0, len(text) - escapes.LONGEST * (open_ + 1)))
        shown = redact(text, found, until=frontier)
        if (found and self._applies(shown)) or (
            "\\" in shown and self._applies(escapes.without_escapes(escapes.finished(shown)))
        ):
            return View("", 0, is_blocked=True)
        if found:  # beside a replacement, something else may yet be found
            shown = shown[: min(_settled(rule, shown) for rule in self._binding)]
        return View(shown, min([frontier, *(start for start, _, _ in found)]))

    def instructions(self, verdicts: Iterable[Verdict]) -> tuple[str, ...]:
        """What the rules that forbid a text want kept to, in words; never anything of the text."""
        said = (
            self._terms(one).instruction or f"rule {one.rule}: {one.reason}"
            for one in verdicts
            if one.action.forbids and not one.has_failed
        )
        return tuple(dict.fromkeys(said))

    @property
    def _binding(self) -> tuple[Rule, ...]:
        """The rules for whose sake a growing answer has to wait."""
        return tuple(rule for rule in self.outputs if rule.action is Action.REDACT or rule.action.forbids)

    def _terms(self, verdict: Verdict) -> Terms:
        return self.terms.get(verdict.rule, Terms())

    def _replacements(self, verdicts: Iterable[Verdict]) -> list[Replacement]:
        return [
            (start, end, self._terms(verdict).replacement)
            for verdict in verdicts
            if verdict.action is Action.REDACT
            for start, end in verdict.spans
        ]

    def _redacted_turn(self, message: Message, found: tuple[Verdict, ...]) -> tuple[Message, tuple[Verdict, ...]]:
        replacements = self._replacements(found)
        if not replacements:
            return message, found
        texts = iter(redact_parts([part for part in message.parts if isinstance(part, str)], replacements))
        parts = tuple(next(texts) if isinstance(part, str) else part for part in message.parts)
        redacted = replace(message, parts=parts)
        again = self._apply(self.inputs, redacted.text)
        return redacted, tuple(_stronger(*pair) for pair in zip(found, again, strict=True))

    def _applies(self, text: str) -> bool:
        """Whether a binding rule applies to the beginning of a text, whatever comes behind it."""
        found = ((rule, self._apply_one(rule, text)) for rule in self._binding)
        return any(
            verdict.action is not Action.ALLOW and _is_settled(verdict, _settled(rule, text)) for rule, verdict in found
        )

    def _apply(self, rules: tuple[Rule, ...], text: str) -> tuple[Verdict, ...]:
        return tuple(self._apply_one(rule, text) for rule in rules)

    def _apply_one(self, rule: Rule, text: str) -> Verdict:
        try:
            return self._on_terms(rule.check(text))
        except Exception:
            return _failure(rule)

    async def _look(self, rule: ImageRule, prompt: Prompt) -> Verdict:
        try:
            async with asyncio.timeout(self.image_timeout_s):
                return self._on_terms(await asyncio.to_thread(rule.check, prompt.images))
        except Exception:
            return _failure(rule)

    async def _ask(self, guard: Guard, prompt: Prompt, answer: str | None) -> Verdict:
        try:
            return self._on_terms(await guard.check(prompt, answer))
        except Exception:
            return _failure(guard)

    def _on_terms(self, verdict: Verdict) -> Verdict:
        """With the declared version and the penalty. A redaction without a place is none."""
        terms = self._terms(verdict)
        version = f"{terms.version}+{verdict.version}" if terms.version else verdict.version
        if verdict.action is Action.REDACT and not verdict.spans:
            return replace(verdict, version=version, action=Action.BLOCK)
        penalty = terms.penalty if verdict.action is Action.PENALISE else 0.0
        return replace(verdict, version=version, penalty=penalty)


def is_blocked(verdicts: Iterable[Verdict]) -> bool:
    return any(verdict.action.forbids for verdict in verdicts)


def _failure(rule: Rule | ImageRule | Guard) -> Verdict:
    return Verdict(rule.name, rule.version, Action.BLOCK, FAILED, has_failed=True)


def _stronger(first: Verdict, again: Verdict) -> Verdict:
    """Of a text, and of the same text with what was found in it redacted: nothing of that may be left."""
    if again.action is Action.REDACT:
        return replace(again, action=Action.BLOCK, reason="what was redacted is still there", spans=())
    return again if again.action.strength > first.action.strength else first


def _settled(rule: Rule, text: str) -> int:
    if isinstance(rule, Settling):
        return rule.settled(text)
    return 0 if rule.reach is None else max(0, len(text) - rule.reach)


def _is_settled(verdict: Verdict, settled: int) -> bool:
    """Whether no further text can take back that the rule applies; one that names no place applies at once."""
    return not verdict.spans or any(start < settled for start, _ in verdict.spans)
