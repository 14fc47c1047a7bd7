"""An adapter's reports as readable text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from server.store.records import AdapterRecord, Report


def markdown(adapter: AdapterRecord, reports: Sequence[Report]) -> str:
    lines = [
        f"# {adapter.id}",
        "",
        f"Alias {adapter.alias}, state {adapter.state.value}, parent {adapter.parent}.",
    ]
    for report in reports:
        at = datetime.fromtimestamp(report.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        lines += ["", f"## {report.kind}: {report.outcome} ({at})", ""]
        body = dict(report.body)
        checks = body.pop("checks", None)
        if checks:
            lines += _table(checks)
            lines.append("")
        lines += [f"- {name}: {_cell(value)}" for name, value in body.items()]
    return "\n".join(lines) + "\n"


def _table(checks: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| check | outcome | value | 95% interval | margin | n | detail |", "|---|---|---|---|---|---|---|"]
    for check in checks:
        interval = f"{_number(check.get('low'))} to {_number(check.get('high'))}"
        cells = [
            check["name"],
            check["outcome"],
            _number(check.get("value")),
            interval,
            _number(check.get("margin")),
            str(check.get("count", 0)),
            check.get("detail", ""),
        ]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
