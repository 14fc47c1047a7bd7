"""Who has contributed to what already, in bounded memory. Pure."""

from __future__ import annotations

REMEMBERED = 500_000
"""Units of one generation: about 60 MB. Requests that name no user are units too, and a canary may run for long."""


class Users:
    """A unit's first contribution to each metric counts, the others do not.

    Two generations: when the young one is full it becomes the old one, and what the old one held is forgotten. So a
    unit may contribute again after `REMEMBERED` others have come, not before.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def known(self, unit: str) -> int:
        """The metrics to which the unit has contributed, as bits."""
        found = self._young.get(unit)
        return found if found is not None else self._old.get(unit, 0)

    def remember(self, unit: str, metrics: int) -> None:
        """Replace the unit's bits."""
        self._young[unit] = metrics
        if len(self._young) >= self._remembered:
            self._old, self._young = self._young, {}
