"""The plot of `benchmarks.best_of_n`: right answers over the number of candidates, for each selection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks._best_of_n_pool import Adaptive, Floats, interval

COLOURS = {"argmax": "#c0392b", "soft": "#d98200", "mbr": "#6b6b6b", "pessimistic": "#1f6fb2"}
AUTO = "#2b7a3d"


def draw(path: Path, curves: Mapping[str, Mapping[int, Floats]], auto: Adaptive) -> None:
    """`curves`: by strategy and number of candidates, each prompt's chance of a right answer. Bands: 95%, over
    prompts.
    """
    # Imported late: matplotlib takes a second, and only the end needs it.
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "plumbline"})
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, by_size in curves.items():
        sizes = sorted(by_size)
        bands = [_interval(by_size[size]) for size in sizes]
        means = [by_size[size].mean() for size in sizes]
        axes.fill_between(sizes, [low for low, _ in bands], [high for _, high in bands], color=COLOURS[name], alpha=0.1)
        axes.plot(sizes, means, color=COLOURS[name], marker="o", markersize=4, label=name)
    low, high = _interval(auto.quality)
    mean = auto.quality.mean()
    axes.errorbar(
        auto.candidates.mean(),
        mean,
        yerr=[[mean - low], [high - mean]],
        color=AUTO,
        marker="*",
        markersize=11,
        capsize=3,
        label='best_of: "auto", argmax',
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="candidates", ylabel="right answers", title="A scorer with a blind spot: what choosing gains")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _interval(values: Floats) -> tuple[float, float]:
    return interval(len(values), lambda drawn: float(np.mean(values[drawn])))
