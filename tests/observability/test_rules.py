"""Recording rules, alerts and their runbooks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from typer.main import get_command

from clients.cli.app import app
from deploy.observability import alerts
from tests.observability.prometheus import promtool
from tests.observability.queries import PROMETHEUS

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUNBOOKS = DOCS / "runbooks"
PARTS = ["What it means", "What users notice", "How to look", "What to do"]
COMMAND = re.compile(r"^ +(plumbline .*)$|`(plumbline [^`]*)`", re.M)


def test_prometheus_takes_the_configuration() -> None:
    """Promtool has nothing against configuration and rules, lint included."""
    assert "SUCCESS" in promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    for name in ("rules.yml", "alerts.yml"):
        promtool("check", "rules", "--lint=all", "--lint-fatal", str(PROMETHEUS / name))


def test_alerts_fire_where_they_should_and_nowhere_else() -> None:
    """Each alert's own case in tests.yml, quiet first, then firing."""
    promtool("test", "rules", "tests.yml", cwd=PROMETHEUS)
    tried = (PROMETHEUS / "tests.yml").read_text()
    for one in alerts():
        quiet = rf'alertname="{one["alert"]}",alertstate="firing"}}\n +eval_time: \S+\n +exp_samples: \[\]'
        firing = rf"exp_samples: \[\{{labels: 'ALERTS\{{alertname=\"{one['alert']}\""
        assert re.search(firing, tried), f"{one['alert']}: tests.yml has no case in which it fires"
        is_short = "for" not in one and "increase" not in one["expr"]
        assert is_short or re.search(quiet, tried), f"{one['alert']}: tests.yml has no case in which it is quiet"


@pytest.mark.parametrize("alert", alerts(), ids=lambda one: one["alert"])
def test_an_alert_says_what_to_do(alert: dict[str, dict[str, str]]) -> None:
    """Summary, description, severity, and a runbook with all of its parts."""
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{alert['alert']}.md"
    text = (RUNBOOKS / f"{alert['alert']}.md").read_text()
    assert text.startswith(f"# {alert['alert']}\n")
    assert re.findall(r"^## (.*)$", text, re.M) == PARTS
    assert all(part.strip() for part in re.split(r"^## .*$", text, flags=re.M))


def test_every_runbook_belongs_to_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {one["alert"] for one in alerts()}


def commands() -> list[tuple[str, str]]:
    texts = {path: path.read_text() for path in (*sorted(RUNBOOKS.glob("*.md")), DOCS / "observability.md")}
    found = [(path.name, one or other) for path, text in texts.items() for one, other in COMMAND.findall(text)]
    assert len(found) > 20
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_of_runbooks_exist(page: str, line: str) -> None:
    """Each `plumbline ...` is a command of ours, with options that it has."""
    _, *words = shlex.split(line)
    command = get_command(app)
    while isinstance(command, typer.core.TyperGroup) and words:
        name = words.pop(0)
        assert name in command.commands, f"{page}: {line}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options, f"{page}: {line}"


def test_links_of_runbooks_lead_somewhere() -> None:
    for path in (*RUNBOOKS.glob("*.md"), DOCS / "observability.md"):
        for target in re.findall(r"\]\(([^)#]+\.md)", path.read_text()):
            assert (path.parent / target).is_file(), f"{path.name}: {target}"


def test_settings_that_runbooks_name_exist() -> None:
    """`section.name` of the configuration, where a runbook says what to change."""
    from server.config import AliasConfig, Config

    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    sections |= {name: field.annotation for name, field in AliasConfig.model_fields.items()}
    for path in (*RUNBOOKS.glob("*.md"), DOCS / "observability.md"):
        for section, name in re.findall(r"`([a-z_]+)\.([a-z_]+)`", path.read_text()):
            fields = getattr(sections.get(section), "model_fields", None)
            assert fields is None or name in fields, f"{path.name}: {section}.{name}"


def test_prometheus_scrapes_where_the_server_listens() -> None:
    """The job names are those that alerts and dashboards ask for."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert {one["job_name"] for one in config["scrape_configs"]} >= {"plumbline", "vllm"}
