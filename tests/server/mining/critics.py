"""An endpoint that is critic and judge: one criterion explains what people chose, the others do not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from server.mining.critic import Choice
from tests.server.scorers.endpoint import PROMPT, verdict

PLANTED = "whether a colour is named"
"""What the people go by."""
THOROUGH = "whether it says much"
"""The same people go by this too."""
IDLE = "whether it is polite"
"""About nothing in these answers."""
BACKWARDS = "whether it is short"
"""What people choose against."""
VAGUE = "whether it is good"
"""Agrees as often as not; written anew, it becomes the planted one."""
LONG_SHOT = "whether it begins with a vowel"


def choice(number: int) -> Choice:
    """The preferred answer names a colour and is longer; every other one begins with an "a"."""
    begins = "a" if number % 2 else "the"
    return Choice(PROMPT, f"{begins} red cup, number {number}", f"{'the' if number % 2 else 'a'} cup {number}")


def _better(criterion: str, first: str, second: str) -> str:
    """What a judge that goes by the criterion says."""
    if "; " in criterion:  # of several the first that decides
        said = (_better(one, first, second) for one in criterion.split("; "))
        return next((one for one in said if one != "tie"), "tie")
    worth = {
        PLANTED: lambda text: "red" in text,
        THOROUGH: len,
        BACKWARDS: lambda text: -len(text),
        VAGUE: lambda text: text[0] == "a",
        LONG_SHOT: lambda text: text[0] == "a",
    }.get(criterion, lambda text: 0)
    one, other = worth(first), worth(second)
    return "tie" if one == other else "first" if one > other else "second"


@dataclass
class Critic:
    """`writes` what it is asked for; `improves` by what was there."""

    writes: list[Any] = field(default_factory=lambda: [IDLE, BACKWARDS, VAGUE, LONG_SHOT])
    improves: dict[str, str] = field(default_factory=lambda: {VAGUE: PLANTED, IDLE: ""})
    judged: int = 0
    wrong: dict[str, list[Any]] = field(default_factory=dict)
    """The pairs that it was shown with each criterion that failed."""

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        system, content = (message["content"] for message in body["messages"])
        document = json.loads(content if isinstance(content, str) else content[0]["text"])
        if "first" in document:
            self.judged += 1
            criterion = system.partition("Judge by: ")[2].partition(".\n")[0]
            return verdict(json.dumps({"better": _better(criterion, document["first"], document["second"])}))
        if "criterion" in document:
            self.wrong[document["criterion"]] = document["pairs"]
            better = self.improves.get(document["criterion"], document["criterion"])
            return verdict(json.dumps({"criterion": better}))
        return verdict(json.dumps({"criteria": self.writes}))
