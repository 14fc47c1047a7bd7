"""What objectives need and the signals do not hold, in words that say how to mend it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from learner.examples import Example
from learner.objectives import OBJECTIVES, Needs
from learner.objectives.listwise import LISTWISE
from server.wire.training import TrainingGroup

CALLED: Final = {Needs.PAIRS: "pairs", Needs.UNPAIRED: "thumbs", Needs.REWARDED: "rewards"}
REMEDIES: Final = {
    Needs.PAIRS: "let people choose between answers, or set [aliases.signals] ai_pairs = true",
    Needs.UNPAIRED: "let people give thumbs",
    Needs.REWARDED: "set [aliases.signals] reward_groups = true with scorers and best_of above 1",
}


def idle(objectives: Mapping[str, float], examples: Iterable[Example]) -> list[str]:
    """The objectives that none of these examples is for; one of no weight asks for nothing."""
    held = set[Needs]()
    for one in examples:
        kinds = ((Needs.PAIRS, one.pairs), (Needs.UNPAIRED, one.unpaired), (Needs.REWARDED, one.rewarded))
        held.update(kind for kind, labels in kinds if labels)
    return [name for name, weight in objectives.items() if weight and OBJECTIVES[name].needs not in held]


def explained(names: Iterable[str], groups: Iterable[TrainingGroup]) -> str:
    """One line: which of these objectives needs what, what the signals hold, and how to get the rest."""
    by_need: dict[Needs, list[str]] = {}
    for name in names:
        by_need.setdefault(OBJECTIVES[name].needs, []).append(name)
    held: Counter[Needs] = Counter()
    for group in groups:
        held[Needs.PAIRS] += len(group.pairs)
        held[Needs.UNPAIRED] += len(group.unpaired)
        held[Needs.REWARDED] += sum(one.total is not None for one in group.candidates) if group.rewarded else 0
    wanted = [
        f"{_listed(which)} {'needs' if len(which) == 1 else 'need'} {CALLED[need]}" for need, which in by_need.items()
    ]
    there = [f"{count} {CALLED[need]}" for need, count in held.items() if count]
    signals = f"the signals hold {_listed(there)}" if there else "there are no signals"
    lacking = [REMEDIES[need] for need in by_need if not held[need]]
    if held[Needs.PAIRS] and not held[Needs.REWARDED] and LISTWISE.keys() & set(by_need.get(Needs.REWARDED, ())):
        lacking.append("or set [aliases.learner] rank_rewards = true, which ranks by people's pairs")
    if held[Needs.PAIRS] and not held[Needs.UNPAIRED] and Needs.UNPAIRED in by_need:
        lacking.append("or set [aliases.learner] unpair = true, which takes people's choices for thumbs")
    unused = [] if lacking else ["none of them can be used, see what was skipped"]
    return "; ".join([*wanted, signals, *lacking, *unused])


def _listed(names: list[str]) -> str:
    """a, b and c."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
