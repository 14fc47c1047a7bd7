"""`plumbline-demo.png`: hallucination and coverage over the signals given, with the swaps marked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clients.demo.ledger import WINDOW, Ledger
from clients.demo.statistics import Figure

INVENTED, NAMED, SWAP = "#c0392b", "#1f6fb2", "#555555"


def draw(path: Path, ledger: Ledger, measured: Mapping[int, tuple[Figure, Figure]]) -> None:
    """`measured`: signals given → (hallucination, coverage) with intervals, as measured on unseen scenes."""
    # Imported late: matplotlib takes a second, and only the end needs it.
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    signals = [point.signals for point in ledger.points]
    for values, colour, name in (
        ([point.hallucination for point in ledger.points], INVENTED, "answers that invent an object"),
        ([point.coverage for point in ledger.points], NAMED, "objects named"),
    ):
        axes.plot(signals, values, color=colour, alpha=0.75, linewidth=1.2, label=f"{name}, last {WINDOW} answers")
    for index, (colour, name) in enumerate(((INVENTED, "invented"), (NAMED, "named"))):
        for count, figures in measured.items():
            one = figures[index]
            spread = [[one.value - one.low], [one.high - one.value]]
            axes.errorbar(
                count,
                one.value,
                yerr=spread,
                color=colour,
                marker="o",
                capsize=4,
                label=f"{name}, weights alone, unseen scenes",
            )
    # The first at each place: rollback and undo at the end swap without a signal in between.
    for signals_given, swap in {one.signals: one for one in reversed(ledger.swaps)}.items():
        axes.axvline(signals_given, color=SWAP, linestyle="--", linewidth=1)
        axes.text(signals_given, 0.5, f"{swap.adapter} ", rotation=90, color=SWAP, fontsize=8, ha="right", va="center")
    axes.set(
        xlabel="signals given by users",
        ylabel="share",
        ylim=(-0.02, 1.04),
        title="Learning from feedback while serving",
    )
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=2, fontsize=8)
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    plt.close(figure)
