"""docs/observability.md lists what there is."""

from __future__ import annotations

from pathlib import Path

from deploy import observability


async def test_the_page_lists_every_metric_and_alert(tmp_path: Path) -> None:
    """`python -m deploy.observability` changes nothing: its tables hold a server's registry and alerts.yml."""
    registry = await observability.registry_of_a_server(tmp_path)
    tables = {"alerts": observability.alert_table(), "metrics": observability.metric_table(registry)}
    page = observability.PAGE.read_text()
    assert observability.with_tables(page, **tables) == page
