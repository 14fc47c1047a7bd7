"""What can be done about adapters that learned from somebody who was erased. Pure.

Weights cannot be made to forget one person here, so whatever learned from them, and all that grew from it, is taken out
for ever (`quarantined`: neither a rollback nor its undo nor a forced canary brings it back), and the newest clean
ancestor of the active adapter takes its place:

- `roll_back` does that and no more: what the others taught since is lost to the weights, and comes back only as new
  signals make new rounds;
- `retrain` has the learner read the feed again from where that ancestor's round had read it, so that the next round
  learns from everybody else once more. It starts as any round does, when enough people have said something.

The signals of others stay as they are: they were sound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from server.adapters import lineage
from server.store.records import AdapterRecord, AdapterState, Routing
from server.wire.base import BASE

Remedy = Literal["roll_back", "retrain"]


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What a remedy does to one alias."""

    alias: str
    adapters: tuple[str, ...]
    """Taken out for ever, oldest first."""
    active: str
    """Serves afterwards."""
    learned_upto: int
    """Seq of the feed up to which that one has learned: `retrain` reads on behind it."""


def with_descendants(adapter_ids: Collection[str], known: Mapping[str, AdapterRecord]) -> list[str]:
    """Those that are known, and all that grew from them, oldest first."""
    roots = {one for one in adapter_ids if one in known}
    below = {descendant for one in roots for descendant in lineage.descendants(one, known)}
    return sorted(roots | below, key=lambda one: known[one].number)


def plan(
    routing: Routing, tainted: Collection[str], known: Mapping[str, AdapterRecord], is_intact: Callable[[str], bool]
) -> Forgetting:
    """`tainted`: of any alias. `known`: the alias's adapters."""
    out = [one for one in with_descendants(tainted, known) if known[one].state is not AdapterState.QUARANTINED]
    active = routing.active if routing.active not in out else _clean_ancestor(routing.active, out, known, is_intact)
    upto = known[active].manifest.get("feed_upto") if active in known else 0
    return Forgetting(routing.alias, tuple(out), active, upto or 0)


def _clean_ancestor(
    adapter: str, out: Collection[str], known: Mapping[str, AdapterRecord], is_intact: Callable[[str], bool]
) -> str:
    """The nearest that served until its successor was promoted, and whose files are there; else base."""
    for one in lineage.ancestors(adapter, known):
        is_good = one in known and known[one].state is AdapterState.RETIRED and one not in out
        if is_good and is_intact(one):
            return one
    return BASE
