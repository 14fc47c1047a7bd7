"""What a run came to: the figures of the `RESULT` line, and each target beside what was reached. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rich.table import Table

from clients.demo.ledger import Ledger
from clients.demo.rounds import gate_ms
from clients.demo.run import Story, share
from clients.demo.statistics import Figure, mean_difference, ratio_of_shares, share_over_scenes

RATE_DIGITS: Final = 4


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on one figure of the result."""

    name: str
    text: str
    is_met: Callable[[float], bool]


TARGETS: Final = (
    Target("hallucination_before", "≥ 0.40", lambda x: x >= 0.40),
    Target("hallucination_after", "≤ 0.06", lambda x: x <= 0.06),
    Target("hallucination_after_best_of_8", "≤ 0.03", lambda x: x <= 0.03),
    Target("coverage_after", "≥ 0.96", lambda x: x >= 0.96),
    Target("skills_drop", "≤ 0.02", lambda x: x <= 0.02),
    Target("signals", "≤ 400", lambda x: x <= 400),
    Target("leak_rate_served", "= 0", lambda x: x == 0),
    Target("leak_rate_generated_ratio", "≤ 0.25", lambda x: x <= 0.25),
    Target("requests", "≥ 1500", lambda x: x >= 1500),
    Target("failed_requests", "= 0", lambda x: x == 0),
    Target("adapters_promoted", "≥ 2", lambda x: x >= 2),
    Target("seconds", "< 360", lambda x: x < 360),
)


def summarise(story: Story, ledger: Ledger, seconds: float) -> dict[str, Any]:
    """The result line's object; a figure that was not measured is None."""
    promoted = story.rounds.promoted
    served = [
        (ledger.first_served_at[one.id] - one.created_at) * 1000 for one in promoted if one.id in ledger.first_served_at
    ]
    gates = [ms for one in promoted if (ms := gate_ms(one.id, story.rounds.audit)) is not None]
    after, best = story.after, story.after_best_of_8
    leaks_before = story.before.blocked
    # Every candidate that the weights produced after learning, shown or not.
    leaks_after = _per_scene(after.blocked, best.blocked) if after and best else None
    skills = story.skills_after
    return {
        **_figure("hallucination_before", story.before.hallucination),
        **_figure("hallucination_after", after.hallucination if after else None),
        **_figure("hallucination_after_best_of_8", best.hallucination if best else None),
        **_figure("coverage_before", story.before.coverage),
        **_figure("coverage_after", after.coverage if after else None),
        **_figure("skills_before", share(story.skills_before)),
        **_figure("skills_after", share(skills) if skills else None),
        **_figure("skills_drop", mean_difference(story.skills_before, skills) if skills else None),
        "signals": ledger.signals,
        "leak_rate_served": round(ledger.leak_rate_served, RATE_DIGITS),
        **_figure("leak_rate_generated_before", share_over_scenes(leaks_before)),
        **_figure("leak_rate_generated_after", share_over_scenes(leaks_after) if leaks_after else None),
        **_figure("leak_rate_generated_ratio", ratio_of_shares(leaks_after, leaks_before) if leaks_after else None),
        "requests": ledger.requests,
        "failed_requests": ledger.failed,
        "adapters_promoted": len(promoted),
        "publish_to_served_ms": _median(served),
        "gate_ms": _median(gates),
        "rollback_ms": round(story.rollback.ms, 1) if story.rollback else None,
        "undo_ms": round(story.undo.ms, 1) if story.undo else None,
        "refused_after": round(after.refused.value, RATE_DIGITS) if after else None,
        "seconds": round(seconds, 1),
    }


def missed(result: dict[str, Any]) -> list[Target]:
    """The targets that were not reached; what was not measured was not reached."""
    return [target for target in TARGETS if result[target.name] is None or not target.is_met(result[target.name])]


def target_table(result: dict[str, Any]) -> Table:
    """Target, reached, met."""
    made = Table("figure", "target", "reached", "95% interval", "met", title="Targets")
    failures = {target.name for target in missed(result)}
    for target in TARGETS:
        interval = result.get(f"{target.name}_ci")
        shown = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        made.add_row(
            target.name, target.text, str(result[target.name]), shown, "no" if target.name in failures else "yes"
        )
    return made


def _per_scene(*runs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Counts of several runs over the same scenes, added up scene by scene."""
    return [(sum(n for n, _ in scene), sum(d for _, d in scene)) for scene in zip(*runs, strict=True)]


def _figure(name: str, figure: Figure | None) -> dict[str, Any]:
    if figure is None or not math.isfinite(figure.value):
        return {name: None, f"{name}_ci": None}
    return {name: round(figure.value, RATE_DIGITS), f"{name}_ci": figure.rounded()}


def _median(values: list[float]) -> float | None:
    return round(statistics.median(values), 1) if values else None
