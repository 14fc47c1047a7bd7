"""Grafana's dashboards: they are what the generator makes, and ask for what there is."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from deploy.grafana import generate
from tests.observability.queries import DEPLOY, dashboards, expressions, names, rules

PROVISIONING = DEPLOY / "grafana" / "provisioning"


@pytest.mark.parametrize("board", generate.BOARDS, ids=lambda board: board.uid)
def test_a_dashboard_is_what_the_generator_makes(board: generate.Board) -> None:
    """`python -m deploy.grafana.generate` changes nothing."""
    assert (generate.DIRECTORY / f"{board.uid}.json").read_text() == generate.build(board)


def test_there_are_no_other_dashboards() -> None:
    assert set(dashboards()) == {f"{board.uid}.json" for board in generate.BOARDS}


@pytest.mark.parametrize("board", dashboards().values(), ids=lambda board: board["uid"])
def test_panels_fit_and_say_what_they_show(board: dict[str, Any]) -> None:
    """Ids differ, panels neither overlap nor stand out, and all ask the provisioned data source."""
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        where = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(where["x"], where["x"] + where["w"])
            for y in range(where["y"], where["y"] + where["h"])
        }
        assert not mine & places, panel["title"]
        assert where["x"] + where["w"] <= 24, panel["title"]
        places |= mine
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "prometheus"
            assert panel["targets"]


def test_recorded_series_are_recorded() -> None:
    """What a dashboard takes from a recording rule has one."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for board in dashboards().values() for one in expressions(board) for name in names(one)}
    assert {name for name in asked if name.startswith("plumbline:")} <= recorded


def test_grafana_is_provisioned_with_what_dashboards_ask() -> None:
    sources = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    (source,) = sources["datasources"]
    assert (source["uid"], source["type"]) == (generate.SOURCE.uid, generate.SOURCE.type_val)
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "plumbline.yaml").read_text())["providers"]
    assert provider["type"] == "file"
