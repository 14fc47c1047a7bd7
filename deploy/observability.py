"""Writes the tables of docs/observability.md from what there is: `python -m deploy.observability`."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client import CollectorRegistry

from server.config import Config, EngineConfig, StoreConfig
from server.engine.fake import FakeEngine
from server.engine.supervisor import EngineSupervisor
from server.installation import Installation

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "observability.md"
ALERTS: Final = ROOT / "deploy" / "prometheus" / "alerts.yml"


def alerts() -> list[dict[str, Any]]:
    """Each alert as it is written in alerts.yml."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def alert_table() -> str:
    rows = []
    for one in alerts():
        name, severity, summary = one["alert"], one["labels"]["severity"], one["annotations"]["summary"]
        rows.append(f"| [{name}](runbooks/{name}.md) | {severity} | {summary} |")
    return _table("| alert | severity | says |", rows)


def metric_table(registry: CollectorRegistry) -> str:
    """Every `plumbline_*` metric of a server's registry."""
    labels = _labels(registry)
    rows = []
    for metric in sorted(registry.collect(), key=lambda one: one.name):
        if metric.name.startswith("plumbline_"):
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            named = ", ".join(f"`{label}`" for label in labels.get(metric.name, ()))
            rows.append(f"| `{name}` | {metric.type} | {named} | {metric.documentation} |")
    return _table("| metric | kind | labels | says |", rows)


def _labels(registry: CollectorRegistry) -> dict[str, tuple[str, ...]]:
    """By metric. Neither client nor exposition tell the labels of what has no series, so this looks inside."""
    parts = [*registry._collector_to_names, *registry.collect()]
    return {
        one._name if hasattr(one, "_name") else one.name: one._labelnames
        for one in parts
        if hasattr(one, "_labelnames")
    }


def _table(head: str, rows: Iterable[str]) -> str:
    return "\n".join([head, re.sub(r"[^|]+", "---", head), *rows])


def with_tables(text: str, **tables: str) -> str:
    """The page with these tables between their marks."""
    for name, table in tables.items():
        pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
        text, count = re.subn(pattern, lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text, flags=re.S)
        if count != 1:
            raise ValueError(f"{PAGE.name} has no place for {name}")
    return text


async def registry_of_a_server(directory: Path) -> CollectorRegistry:
    """What a server registers, as one that has just been opened there has it."""
    config = Config(engine=EngineConfig(model="base"), store=StoreConfig(directory=directory))
    engine = FakeEngine()
    installation = Installation(config, lambda _: [(engine, EngineSupervisor(engine, None))])
    try:
        return (await installation.open()).metrics.registry
    finally:
        await installation.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        registry = asyncio.run(registry_of_a_server(Path(directory)))
    PAGE.write_text(with_tables(PAGE.read_text(), alerts=alert_table(), metrics=metric_table(registry)))


if __name__ == "__main__":
    main()
