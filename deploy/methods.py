"""Writes the tables of docs/methods.md from the registry and the last run: `python -m deploy.methods`.

What was measured stands in docs/methods-results.json, which `python -m benchmarks.methods` writes: by name of a method
or composition, `hallucination`, `coverage` and `skills_drop` as [value, low, high], `kl`, `seconds`, and `vs_dpo` as
"better", "same" or "worse". Without that file the page says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import learner.methods
import server.methods
from deploy.observability import with_tables
from docs.reference.markdown import code, inline, table
from server.wire.methods import Method, MethodOption

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "methods.md"
RESULTS: Final = ROOT / "docs" / "methods-results.json"
NOT_RUN: Final = "The benchmark was not run yet."


def methods() -> list[Method]:
    """Of the learner, then of the server."""
    return [*learner.methods.methods(), *server.methods.methods()]


def registry_tables(known: Iterable[Method]) -> str:
    """A heading and a table for each kind."""
    lines: list[str] = []
    for kind, group in groupby(known, key=lambda one: one.kind):
        lines += [f"### {kind.replace('_', ' ').capitalize()}", ""]
        lines += table(("name", "what it is", "formula", "options and defaults", "needs"), map(_row, group))
    return "\n".join(lines).rstrip()


def _row(one: Method) -> tuple[str, ...]:
    what = "" if one.what == one.formula else f"{one.what}. "
    source = f"[{one.source or one.url}]({one.url})"
    options = ", ".join(f"{code(option.name)} {_default(option)}".strip() for option in one.options)
    return code(one.name), what + source, inline(one.formula).replace("*", r"\*"), options, ", ".join(one.needs)


def _default(option: MethodOption) -> str:
    return "" if option.default is None else json.dumps(option.default, ensure_ascii=False).strip('"')


def results_table(results: dict[str, dict[str, Any]] | None) -> str:
    """What the benchmark measured, in its order."""
    if results is None:
        return NOT_RUN
    columns = ("name", "hallucination", "coverage", "skills lost", "KL", "s", "than plain DPO")
    rows = [
        (
            code(name),
            *(_interval(one.get(metric)) for metric in ("hallucination", "coverage", "skills_drop")),
            *(_number(one.get(metric)) for metric in ("kl", "seconds")),
            str(one.get("vs_dpo", "")),
        )
        for name, one in results.items()
    ]
    return "\n".join(table(columns, rows)).rstrip()


def _interval(measured: Sequence[float] | None) -> str:
    return "" if measured is None else "{:.3f} ({:.3f} to {:.3f})".format(*measured)


def _number(measured: float | None) -> str:
    return "" if measured is None else f"{measured:.3g}"


def read_results(path: Path = RESULTS) -> dict[str, dict[str, Any]] | None:
    """None: there are none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def page(text: str) -> str:
    """The page with both tables as they have to be."""
    return with_tables(text, methods=registry_tables(methods()), results=results_table(read_results()))


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
