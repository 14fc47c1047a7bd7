"""Every method says where it comes from, what it computes and what it needs; the page and the command tell it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import learner.methods
import server.methods
from clients.cli import app
from deploy import methods as writing
from learner.augmentation import AUGMENTATIONS
from learner.objectives import OBJECTIVES
from learner.objectives.base import Objective
from learner.objectives.policy_gradient.advantages import ADVANTAGES
from learner.objectives.policy_gradient.filtration import FILTRATIONS
from learner.weighting import WEIGHTINGS
from reward.ensemble import COMBINERS
from reward.selection import STRATEGIES
from server.wire.methods import METHODS, Method, source_of

ALL = writing.methods()
TABLES = {
    "weighting": WEIGHTINGS,
    "augmentation": AUGMENTATIONS,
    "advantage": ADVANTAGES,
    "filtration": FILTRATIONS,
    "combiner": COMBINERS,
}
NEEDED = {"pairs", "thumbs", "ranks", "rewards", "images", "scorers", "candidates"}
RESULTS = {
    "sigmoid": {"hallucination": [0.2, 0.15, 0.25], "coverage": [0.97, 0.95, 0.99], "kl": 0.03, "vs_dpo": "same"},
    "sigmoid + sft": {"hallucination": [0.1, 0.08, 0.12], "skills_drop": [0.0, -0.01, 0.01], "seconds": 12.0},
}


def of_kinds(*kinds: str) -> list[str]:
    return [one.name for one in ALL if one.kind in kinds]


def test_every_entry_of_every_table_is_told() -> None:
    """Whatever table an entry is put in, by that alone it is listed; and once."""
    other = {*TABLES, "round", "selection", "best_of", "compare", "explore"}
    objectives = {one.kind for one in ALL} - other
    assert of_kinds(*objectives) == list(OBJECTIVES)
    assert of_kinds("selection") == [*STRATEGIES, "stepwise"]
    for kind, entries in TABLES.items():
        assert of_kinds(kind) == list(entries)


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.kind}-{one.name}")
def test_a_method_says_where_it_is_from_what_it_computes_and_needs(one: Method) -> None:
    """In its docstrings, by the conventions of `server.wire.methods` and `learner.objectives`."""
    assert one.what
    assert re.fullmatch(r"https?://\S+[\w)/]", one.url), "the module's docstring names no source with its address"
    assert one.source, "nobody is named before the source's address"
    assert one.formula and one.formula != Objective.losses.__doc__
    assert not re.match(r"One (loss|surrogate) for each", one.formula), "the first line of `losses` is the formula"
    assert one.needs and set(one.needs) <= NEEDED


def test_a_source_is_read_as_it_is_written() -> None:
    """With the place in the paper, in a first line or below it, in brackets, behind abbreviations."""
    url = "https://arxiv.org/abs/1"
    assert source_of(f"IPO. Azar et al. 2023, {url}, eq. 17.\n\nMore. See {url}2.") == (
        "IPO",
        "Azar et al. 2023, eq. 17",
        url,
    )
    assert source_of(f"Dr. X: less. Liu et al. 2025,\n{url}.") == ("Dr. X: less", "Liu et al. 2025", url)
    assert source_of(f"What it is: so.\n\nAs others do (Lee 2024, {url} (eq. 4)).") == (
        "What it is: so",
        "Lee 2024, eq. 4",
        url,
    )
    assert source_of(f"What it is. Pal et al. 2024 (Smaug), {url}, eq. 3.")[1] == "Pal et al. 2024 (Smaug), eq. 3"
    assert source_of("Nobody's.") == ("Nobody's", "", "")


def test_the_page_is_as_the_registry_has_it() -> None:
    """`python -m deploy.methods` writes it."""
    text = writing.PAGE.read_text(encoding="utf-8")
    assert text == writing.page(text), "run `python -m deploy.methods`"
    for one in ALL:
        assert f"| `{one.name}` |" in text
        assert one.url in text


def test_results_come_onto_the_page(tmp_path: Path) -> None:
    """A row each, compositions too, with what was measured; before the first run the page says that there was none."""
    assert writing.results_table(None) == writing.NOT_RUN
    rows = writing.results_table(RESULTS).splitlines()
    assert rows[2] == "| `sigmoid` | 0.200 (0.150 to 0.250) | 0.970 (0.950 to 0.990) |  | 0.03 |  | same |"
    assert rows[3] == "| `sigmoid + sft` | 0.100 (0.080 to 0.120) |  | 0.000 (-0.010 to 0.010) |  | 12 |  |"
    file = tmp_path / "results.json"
    assert writing.read_results(file) is None
    file.write_text(json.dumps(RESULTS))
    assert writing.read_results(file) == RESULTS


def part(directory: Path, name: str, program: str) -> None:
    """A part of an installation, of which there is only what tells its methods."""
    (directory / name).mkdir()
    (directory / name / "__init__.py").touch()
    (directory / name / "methods.py").write_text(program)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts, without the seconds that their libraries take to load."""
    for name, told in (("learner", learner.methods.methods()), ("server", server.methods.methods())):
        part(tmp_path, name, f"print({METHODS.dump_json(told).decode()!r})")
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["methods", *arguments], env={"COLUMNS": "100"})
    return result.exit_code, result.output


@pytest.mark.usefixtures("installed")
def test_the_command_lists_them_within_a_hundred_columns() -> None:
    """Each with its source in one piece, so that it can be copied."""
    status, text = run()
    assert status == 0
    assert max(map(len, text.splitlines())) <= 100
    for one in ALL:
        assert one.name in text
        assert one.url in text


@pytest.mark.usefixtures("installed")
def test_the_command_shows_one_in_full() -> None:
    status, text = run("kto")
    assert status == 0
    assert "https://arxiv.org/abs/2402.01306" in text
    assert "desirable_weight" in text
    assert "thumbs" in text
    assert "npo" not in text


@pytest.mark.usefixtures("installed")
def test_the_command_filters_by_kind_and_need() -> None:
    for arguments, wanted in (
        (("--needs", "thumbs"), [one.name for one in ALL if "thumbs" in one.needs]),
        (("--kind", "combiner"), list(COMBINERS)),
        (("--kind", "pairwise", "--needs", "images"), ["mdpo"]),
    ):
        status, text = run("--json", *arguments)
        assert status == 0
        assert set(wanted) <= {one.name for one in METHODS.validate_json(text)}
        assert "sigmoid" not in text


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["kot"], 2, "no method has the name 'kot'; there are: kto"),
        (["--needs", "stars"], 2, "there are: candidates, images, pairs"),
        (["--kind", "pairs"], 2, "there are: advantage, augmentation"),
        (["kto", "--needs", "images"], 1, "no method is all of that"),
    ],
)
def test_what_there_is_not_is_named_with_what_there_is(arguments: list[str], status: int, said: str) -> None:
    assert run(*arguments)[0] == status
    assert said in run(*arguments)[1]


def test_a_missing_part_is_named_with_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the learner's libraries are not installed: here, a learner that imports one that there is not."""
    part(tmp_path, "learner", "import torch_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    status, text = run()
    assert status == 1
    assert "torch_that_is_not_there is not installed; `pip install 'plumbline[learner]'` brings it" in text


def test_the_processes_tell_what_the_code_does() -> None:
    """The real ones."""
    status, text = run("--json")
    assert status == 0
    assert METHODS.validate_json(text) == ALL
