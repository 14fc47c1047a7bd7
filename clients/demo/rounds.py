"""Where the learning loop stands, read off the server's adapters and audit log. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from server.wire.adapters import AdapterReply
from server.wire.operate import AuditEntry

DECIDED: Final = frozenset({"active", "retired", "rejected", "rolled_back", "quarantined"})
UNPRODUCTIVE: Final = frozenset({"round.discarded", "round.skipped"})
GATE_STATES: Final = {"gated", "rejected"}


@dataclass(frozen=True, slots=True)
class Rounds:
    """The server's word on all rounds so far."""

    adapters: tuple[AdapterReply, ...] = ()
    audit: tuple[AuditEntry, ...] = ()

    @property
    def ended(self) -> int:
        """Rounds whose outcome is known: decided adapters, and rounds that made none."""
        return sum(one.state in DECIDED for one in self.adapters) + len(self.unproductive)

    @property
    def unproductive(self) -> list[AuditEntry]:
        return [entry for entry in self.audit if entry.action in UNPRODUCTIVE]

    @property
    def promoted(self) -> list[AdapterReply]:
        """Adapters that have been active, in the order of their creation."""
        served = {entry.subject for entry in self.audit if entry.action == "promote"}
        return [one for one in self.adapters if one.id in served or one.state in {"active", "retired"}]

    @property
    def undecided(self) -> AdapterReply | None:
        return next((one for one in self.adapters if one.state not in DECIDED and one.state != "ephemeral"), None)

    def state(self, *, is_rating: bool) -> str:
        """What the loop is doing, in words."""
        if self.undecided is not None:
            doing = {
                "staged": "being probed",
                "verified": "at the gate",
                "gated": "passed the gate",
                "canary": "canary",
            }
            return f"{self.undecided.id}: {doing.get(self.undecided.state, self.undecided.state)}"
        return "users rate" if is_rating else "the learner trains"


def gate_ms(adapter: str, audit: Sequence[AuditEntry]) -> float | None:
    """Milliseconds from publication to the gate's decision, probe included."""
    published = [entry.at for entry in audit if entry.subject == adapter and entry.action == "publish"]
    decided = [
        entry.at
        for entry in audit
        if entry.subject == adapter and entry.action == "advance" and entry.detail.get("state") in GATE_STATES
    ]
    return (decided[0] - published[0]) * 1000 if published and decided else None
