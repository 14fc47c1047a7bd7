"""The plot of `benchmarks.continual`: what is served over the signals given, for each way to go on learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks._continual import Served
from benchmarks._continual_world import Timeline

COLOURS = {"ours": "#1f6fb2", "from_scratch": "#d98200", "no_replay": "#c0392b"}
CHANGE = "#555555"


def draw(path: Path, found: Mapping[str, Sequence[Served]], timeline: Timeline, targets: Mapping[str, float]) -> None:
    """`targets`: a level for `hallucination`, `short` and `tilted`, as a dotted line. Bands: 95%."""
    # Imported late: matplotlib takes a second, and only the end needs it.
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "plumbline"})
    from matplotlib import pyplot as plt  # noqa: PLC0415

    titles = {
        "hallucination": "answers that invent an object",
        "short": "answers in the short style",
        "tilted": "triangles on their tips named rightly",
    }
    figure, panels = plt.subplots(3, 1, figsize=(9, 9), sharex=True, layout="constrained")
    for (name, title), axes in zip(titles.items(), panels, strict=True):
        for arm, served in found.items():
            points = [(one.signals, getattr(one.said, name)) for one in served]
            points = [(signals, level) for signals, level in points if level is not None]
            signals = [at for at, _ in points]
            low, high = [level.low for _, level in points], [level.high for _, level in points]
            axes.fill_between(signals, low, high, color=COLOURS[arm], alpha=0.1)
            values = [level.value for _, level in points]
            axes.plot(signals, values, color=COLOURS[arm], marker="o", markersize=3, label=arm.replace("_", " "))
        ours = next(iter(found.values()))
        for change, what in (
            (timeline.taste_changes, "people like it short"),
            (timeline.shape_appears, "triangles on their tips appear"),
        ):
            given = next(one.signals for one in ours if one.number == change - 1)
            axes.axvline(given, color=CHANGE, linestyle="--", linewidth=1)
            place = axes.get_xaxis_transform()  # signals across, the panel's height upwards
            axes.text(given, 0.97, f" {what}", transform=place, color=CHANGE, fontsize=8, va="top")
        axes.axhline(targets[name], color=CHANGE, linestyle=":", linewidth=1)
        axes.set(title=title, ylabel="share")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    panels[0].legend(fontsize=9)
    panels[-1].set(xlabel="signals given by people")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
