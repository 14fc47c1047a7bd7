"""The plot of `benchmarks.methods`: what each method invents against what it leaves unsaid."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from server.wire.base import BASE

if TYPE_CHECKING:
    from benchmarks.methods import Result

METHOD, COMPOSITION, PEER, FRONT = "#1f6fb2", "#2e8b57", "#c0392b", "#888888"


def draw(path: Path, results: Mapping[str, Result], dpo: str, compositions: Collection[str]) -> None:
    """Names where there is room: of the Pareto front, of DPO and of the base."""
    # Imported late: matplotlib takes a second, and only the end needs it.
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "plumbline"})
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    best = front(results)
    for name, one in results.items():
        colour = PEER if name in {dpo, BASE} else COMPOSITION if name in compositions else METHOD
        x, y = one.hallucination.value, one.coverage.value
        spread = [[x - one.hallucination.low], [one.hallucination.high - x]]
        axes.errorbar(x, y, xerr=spread, fmt="o", markersize=4, color=colour, elinewidth=0.6, alpha=0.8)
        if name in {dpo, BASE, *best}:
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(4, 5), fontsize=7, color=colour)
    line = sorted((results[name].hallucination.value, results[name].coverage.value) for name in best)
    axes.plot(*zip(*line, strict=True), color=FRONT, linewidth=0.8, linestyle="--", zorder=0)
    axes.axhline(0.95, color=FRONT, linewidth=0.8, linestyle=":")
    axes.set(xlabel="answers that invent an object (95% interval)", ylabel="true objects named")
    axes.set_title("One round on the same signals: blue methods, green compositions, red plain DPO and the base")
    axes.grid(alpha=0.25)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def front(results: Mapping[str, Result]) -> list[str]:
    """Those that nothing else beats in both."""
    points = {name: (one.hallucination.value, -one.coverage.value) for name, one in results.items()}

    def is_beaten(point: tuple[float, float]) -> bool:
        return any(x <= point[0] and y <= point[1] and (x, y) != point for x, y in points.values())

    return [name for name, point in points.items() if not is_beaten(point)]
