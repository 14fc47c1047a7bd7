"""Everything that exists is in the docs: commands, flags, settings, metrics, routes. And what the pages name exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clients.cli import app
from docs.reference import PAGES, commands
from server.config import Config
from tests.api.conftest import Stack
from tests.docs.snippets import PAGES as WRITTEN
from tests.docs.snippets import ROOT

HIDDEN_FLAGS = {"--help", "--install-completion", "--show-completion"}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: write() for name, write in PAGES.items()}


def leaves(value: Any, path: str = "") -> list[str]:
    """Every setting of a dumped configuration, as `http.port`."""
    if not isinstance(value, dict):
        return [path]
    return [leaf for name, inner in value.items() for leaf in leaves(inner, f"{path}.{name}" if path else name)]


def documented_settings(page: str) -> set[str]:
    found, section = set(), ""
    for line in page.splitlines():
        if heading := re.fullmatch(r"## `\[+([^\]]+)\]+`", line):
            section = f"{heading[1]}."
        elif row := re.match(r"\| `(\w+)` \|", line):
            found.add(f"{section}{row[1]}")
    return found


def test_every_setting_is_documented(pages: dict[str, str]) -> None:
    """Against the JSON schema of the tree, which is made by other hands than the page."""
    schema = Config.model_json_schema()
    found: set[str] = set()

    def walk(node: dict[str, Any], path: str) -> None:
        for name, one in node.get("properties", {}).items():
            whole = f"{path}.{name}" if path else name
            refs = re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(one))
            is_open = "additionalProperties" in json.dumps(one) and refs
            for ref in refs:
                walk(schema["$defs"][ref], f"{whole}.NAME" if is_open else whole)
            if not refs:
                found.add(whole)

    walk(schema, "")
    documented = documented_settings(pages["reference/configuration.md"])
    assert found == documented
    assert {"http.port", "aliases.learner.beta", "limits.tenants.NAME.tokens_per_minute"} <= found
    assert all(
        meaning for meaning in re.findall(r"^\| `\w+` \|.*\| ([^|]*) \|$", pages["reference/configuration.md"], re.M)
    )


def test_the_defaults_are_those_of_the_program(pages: dict[str, str]) -> None:
    """Plain ones, against what `--check-config` prints."""
    printed = subprocess.run(
        [sys.executable, "-m", "server", "--check-config"], capture_output=True, text=True, check=True
    ).stdout
    for section, values in json.loads(printed).items():
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, bool | int | float) and section != "limits":
                row = rf"## `\[{section}\]`(?:(?!\n## ).)*\n\| `{name}` \| [^\n|]* \| `([^`]*)` \|"
                found = re.search(row, pages["reference/configuration.md"], re.DOTALL)
                assert found is not None and json.loads(found[1]) == value, (section, name, value)


def test_every_command_and_flag_is_documented(pages: dict[str, str]) -> None:
    """Against what `--help` says."""
    sections = dict(re.findall(r"^### `(plumbline [^`]+)`\n(.*?)(?=^##)", pages["reference/commands.md"], re.M | re.S))
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    names = re.findall(r"^│ (\S+) ", shown.partition("Commands")[2], re.M)
    assert len(names) > 15
    assert {name.split()[1] for name in sections} == set(names)
    for name, section in sections.items():
        help_text = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "200"}).stdout
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", help_text.partition("Options")[2])) - HIDDEN_FLAGS
        assert flags, name
        assert flags <= set(re.findall(r"`(--[a-z-]+)`", section)), name


def test_every_program_is_documented_as_it_describes_itself(pages: dict[str, str]) -> None:
    """Whatever reads arguments of its own, wherever it lies."""
    files = [path for part in ("reward", "server", "clients", "learner") for path in (ROOT / part).rglob("*.py")]
    parsing = [path.relative_to(ROOT).with_suffix("") for path in files if "ArgumentParser(" in path.read_text()]
    assert {".".join(path.parts).removesuffix(".__main__") for path in parsing} == set(commands.PROGRAMS)
    for module in commands.PROGRAMS:
        assert f"usage: python -m {module}" in pages["reference/commands.md"]


def test_every_route_is_documented(stack: Stack, pages: dict[str, str]) -> None:
    """Against the routes of the application that is served; the written page names them all too."""
    routes = {
        (method, route.path_format)
        for route in stack.app.routes
        for method in (getattr(route, "methods", None) or ())
        if getattr(route, "include_in_schema", False) and method != "HEAD"
    }
    documented = set(re.findall(r"^## `([A-Z]+) ([^`]+)`$", pages["reference/api.md"], re.M))
    assert len(documented) > 25
    assert routes <= documented
    prose = (ROOT / "docs" / "api.md").read_text()
    for _, path in documented:
        last = [part for part in path.split("/") if part and "{" not in part][-1]
        assert last in prose, path


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_type_exists(page: Path, pages: dict[str, str]) -> None:
    """Each `plumbline ...` in running text names a command, and flags that it has."""
    sections = dict(re.findall(r"^### `plumbline ([^`]+)`\n(.*?)(?=^##)", pages["reference/commands.md"], re.M | re.S))
    for typed in re.findall(r"`plumbline\s+([a-z][^`]*)`", page.read_text(encoding="utf-8")):
        words = typed.split()
        name = " ".join(words[:2]) if " ".join(words[:2]) in sections else words[0]
        group = [section for whole, section in sections.items() if whole == name or whole.startswith(f"{name} ")]
        assert group, typed
        for flag in re.findall(r"(?<!\S)--[a-z-]+", typed):
            assert any(f"`{flag}`" in section for section in group), typed


def test_links_to_types_lead_somewhere(pages: dict[str, str]) -> None:
    """Links between pages are checked by the strict build."""
    page = pages["reference/api.md"]
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", page, re.M)}
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= headings
