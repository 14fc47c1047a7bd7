"""The metrics reference, from the server's own registry."""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CollectorRegistry

from docs.reference.markdown import code, inline, table
from server.metrics import Metrics

INTRODUCTION: Final = """# Metrics

Prometheus format, on the private listener (`http.metrics_port`, path `/metrics`). Base units; a counter's name ends in
`_total`, a histogram has `_bucket`, `_sum` and `_count`. Values of labels come from the configuration and from closed
lists, whatever else arrives is `other`, so hostile names make no series.
"""


def page() -> str:
    rows = ((code(name), kind, ", ".join(map(code, labels)), inline(what)) for name, kind, labels, what in families())
    return "\n".join([INTRODUCTION, *table(("metric", "kind", "labels", "what it says"), rows)])


def families() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Name as it is scraped, kind, labels and meaning of every metric."""
    registry = Metrics(aliases=["default"], version="0").registry
    found = []
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append((name, family.type, _labels(registry, family.name), family.documentation))
    return sorted(found)


def _labels(registry: CollectorRegistry, name: str) -> tuple[str, ...]:
    collector: Any = registry._names_to_collectors[name]
    return tuple(getattr(collector, "_labelnames", ()))
