"""Which metrics PromQL names, in dashboards, rules and alerts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"

NOT_NAMES = re.compile(r'"[^"]*"|\{[^}]*\}|\b(?:by|on|ignoring|group_left|group_right) *\([^)]*\)|\[[^\]]*\]')
NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_:]*")
WORDS = {
    "absent", "and", "by", "count", "histogram_quantile", "increase", "label_values", "max", "min", "on", "or", "rate",
    "sum", "time", "unless", "vector", "group_left", "alias",
}  # fmt: skip
"""Functions and operators; `alias` is the second argument of `label_values`."""
PARTS = ("_bucket", "_sum", "_count")


def names(expression: str) -> set[str]:
    """The metrics that an expression names."""
    return {one for one in NAME.findall(NOT_NAMES.sub(" ", expression)) if one not in WORDS}


def rules() -> Iterator[dict[str, Any]]:
    for file in ("rules.yml", "alerts.yml"):
        for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"]:
            yield from group["rules"]


def dashboards() -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def expressions(board: dict[str, Any]) -> Iterator[str]:
    """Of a dashboard: its panels' queries, and its variables'."""
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    yield from (one["query"] for one in board.get("templating", {}).get("list", []))


def named() -> set[str]:
    """Every metric that a dashboard, rule or alert asks for, recorded ones left out."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = [rule["expr"] for rule in rules()] + [one for board in dashboards().values() for one in expressions(board)]
    return {name for expression in asked for name in names(expression)} - recorded - {"up"}


def families(series: Iterable[str]) -> set[str]:
    """Series' names and the names of what they belong to: a histogram's buckets, a counter without `_total`."""
    found = set(series)
    for name in list(found):
        found |= {f"{name}{part}" for part in (*PARTS, "_total")}
    return found
