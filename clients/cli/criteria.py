"""`plumbline reward criteria`: what people choose by, found in their choices and written down for a judge."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape

from clients.cli.exchange import AliasOption
from clients.cli.process import fed
from clients.cli.session import REFUSED, WRONG_ARGUMENTS, Session, fail, table
from clients.client import PlumblineClient
from clients.exchange.formats import FORMATS, Format
from clients.exchange.rows import FileRow
from clients.exchange.sending import Reader, Summary, pairs_of
from clients.toml import to_toml
from server.wire.mining import MinedCriterion, MiningLine, MiningReport
from server.wire.reward import PreferencePair

CHOSEN_BY_PEOPLE: Final = frozenset({"choice", "ranking", "correction"})
FEWEST: Final = 20
"""Pairs without which nothing can be told from chance."""


def criteria(
    session: Session,
    *,
    endpoint: Annotated[str, typer.Option(metavar="URL", help="Base URL of an OpenAI-style chat endpoint, with /v1.")],
    model: Annotated[str, typer.Option(help="Critic and judge: a model that is better than the alias's own.")],
    key_env: Annotated[
        str, typer.Option(metavar="NAME", help="Environment variable that holds the endpoint's API key.")
    ] = "",
    alias: AliasOption = None,
    pairs: Annotated[int, typer.Option(min=10, max=200, help="Pairs that the critic reads.")] = 30,
    held: Annotated[int, typer.Option(min=10, max=1000, help="Further pairs that decide what is kept.")] = 60,
    most: Annotated[int, typer.Option(min=1, max=50, help="Most criteria.")] = 10,
    rounds: Annotated[int, typer.Option(min=0, max=10, help="Rounds in which failing criteria are rewritten.")] = 2,
    threshold: Annotated[
        float, typer.Option(min=0.5, max=0.99, help="What the lower end of an accuracy's 95% interval must exceed.")
    ] = 0.5,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests to the endpoint at once.")] = 8,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Show the images of the pairs.")] = True,
    structured: Annotated[
        bool, typer.Option("--structured/--loose", help="Ask for replies by a strict JSON schema, or by words.")
    ] = True,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the judge's settings here.")] = None,
) -> None:
    """Find criteria that explain what an alias's users chose, as settings of the `judge` scorer.

    A critic writes criteria from some of the pairs, a judge goes by each, and those that fail are rewritten. Kept is
    what agrees with people on pairs that the critic has not seen. The settings are TOML, on standard output. The
    endpoint gets what users asked and were answered.
    """
    with session.client() as client:
        name = alias or client.models().data[0].id
        rows = choices_of(client, name, pairs + held)
    if len(rows) < FEWEST:
        return fail(f"{name} has {len(rows)} pairs that people chose, of {FEWEST} needed; let people compare answers")
    read = min(pairs, len(rows) // 2)
    arguments = ["--endpoint", endpoint, "--model", model, "--key-env", key_env, "--read", str(read)]
    arguments += ["--criteria", str(most), "--rounds", str(rounds), "--threshold", str(threshold)]
    arguments += ["--concurrency", str(concurrency)]
    arguments += [] if images else ["--no-images"]
    arguments += [] if structured else ["--loose"]
    report = _run(arguments, rows)
    if isinstance(report, str):
        return fail(report, WRONG_ARGUMENTS)
    if session.as_json:
        print(report.model_dump_json(indent=2))
    else:
        _show(report)
    if report.together is None:
        return fail(
            "no criterion agrees with people more than chance would, on the pairs that were held apart", REFUSED
        )
    judge: dict[str, Any] = {"url": endpoint, "model": model, "key_env": key_env or None, "mode": "pairwise"}
    judge |= {"criteria": report.together.text, "images": images, "structured": structured}
    settings = to_toml({"aliases": [{"name": name, "scorers": [{"kind": "judge", "judge": judge}]}]})
    return _write(out, settings, session)


def choices_of(client: PlumblineClient, alias: str, most: int) -> list[PreferencePair]:
    """The newest pairs that people chose, one of each prompt's, in an order of their own."""
    newest: deque[Mapping[str, Any]] = deque(maxlen=most)
    group = None
    for row in client.export_preferences(alias, kind="pairs", images="embed", split="train"):
        if row["source"] in CHOSEN_BY_PEOPLE and row["group_id"] != group:
            group = row["group_id"]
            newest.append(row)
    reader = Reader(FORMATS[Format.TRL], Path(), Summary())
    numbered = (FileRow(number, dict(row)) for number, row in zip(count(1), newest, strict=False))
    found = [pair for _, one in reader.groups(numbered) for pair in pairs_of(one)]
    random.Random(0).shuffle(found)  # neither half is of another time
    return found


def _run(arguments: list[str], pairs: Iterable[PreferencePair]) -> MiningReport | str:
    """The report, or why there is none."""
    report: MiningReport | str = "the mining process ended without a report"
    given = (pair.model_dump_json(exclude_none=True).encode() + b"\n" for pair in pairs)
    with fed("server.mining", arguments, given, "reading") as process:
        for text in process.lines:
            line = MiningLine.model_validate_json(text)
            if (one := line.progress) is not None:
                process.show(one.done, one.total, one.doing)
            report = line.report or line.error or report
    return report


def _show(report: MiningReport) -> None:
    """On standard error: what is on standard output is a file."""
    together = [report.together] if report.together is not None and len(report.together.text) else []
    rows = [_row(one, "kept" if one.is_kept else "-") for one in report.criteria]
    rows += [_row(one.model_copy(update={"text": "all that are kept"}), "together") for one in together]
    screen = Console(stderr=True)
    screen.print(table(("", "agrees (95%)", "decided", "criterion"), rows))
    screen.print(f"{report.read} pairs read, {report.held} held apart, {report.unusable} could not be used")


def _row(one: MinedCriterion, what: str) -> tuple[str, ...]:
    share = one.accuracy
    agrees = "" if share is None else f"{share.value:.2f} ({share.low:.2f}-{share.high:.2f})"
    return what, agrees, f"{one.decided}/{one.pairs}", escape(one.text)


def _write(out: Path | None, settings: str, session: Session) -> None:
    if out is None:
        if not session.as_json:
            print(settings, end="")
        return
    try:
        out.write_text(settings, encoding="utf-8")
    except OSError as error:
        fail(f"{out}: {error.strerror}", WRONG_ARGUMENTS)
