"""A safety policy: rules for what comes in and what goes out. Fails closed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from reward.ports import Rule
from reward.types import Action, Verdict


@dataclass(frozen=True, slots=True)
class SafetyPolicy:
    """Which rules read the user's texts (`inputs`) and which the answers (`outputs`)."""

    inputs: tuple[Rule, ...] = ()
    outputs: tuple[Rule, ...] = ()

    @property
    def hold_back(self) -> int | None:
        """How many characters of a growing answer have to wait at its end; None: the whole answer."""
        reaches = [rule.reach for rule in self.outputs if rule.action is Action.BLOCK]
        return None if None in reaches else max(filter(None, reaches), default=0)

    def check_input(self, text: str) -> tuple[Verdict, ...]:
        return _apply(self.inputs, text)

    def check_output(self, text: str) -> tuple[Verdict, ...]:
        """Also of what a JSON text says in escapes: whoever parses it reads them."""
        verdicts = _apply(self.outputs, text)
        if "\\" not in text:
            return verdicts
        meant = _apply(self.outputs, _without_escapes(text))
        return tuple(max(pair, key=lambda one: _STRENGTH[one.action]) for pair in zip(verdicts, meant, strict=True))

    def blocks_output(self, text: str) -> bool:
        return is_blocked(self.check_output(text))


_STRENGTH = {Action.ALLOW: 0, Action.FLAG: 1, Action.BLOCK: 2}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([\"\\/bfnrt]))")
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _without_escapes(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _SHORT.get(found[2], found[2]), text)


def is_blocked(verdicts: Iterable[Verdict]) -> bool:
    return any(verdict.action is Action.BLOCK for verdict in verdicts)


def _apply(rules: tuple[Rule, ...], text: str) -> tuple[Verdict, ...]:
    return tuple(_apply_one(rule, text) for rule in rules)


def _apply_one(rule: Rule, text: str) -> Verdict:
    try:
        return rule.check(text)
    except Exception:
        return Verdict(rule.name, rule.version, Action.BLOCK, "the rule failed")
