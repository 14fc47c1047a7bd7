"""`plumbline reward`: how good the scorers of an alias are, before one trusts them; and what a judge should go by."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from clients.cli.criteria import criteria
from clients.cli.process import fed
from clients.cli.session import REFUSED, WRONG_ARGUMENTS, command, console, fail, table
from clients.exchange.formats import FORMATS, Format
from clients.exchange.rows import UnreadableFile, read_rows
from clients.exchange.sending import Problem, Reader, Summary, pairs_of
from server.wire.reward import CheckLine, RewardReport, ScorerReport

app = typer.Typer(name="reward", help="Scorers: how far they can be trusted.", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add the commands to the tree."""
    command(app, name="criteria")(criteria)
    root.add_typer(app)


@app.callback()
def _group() -> None:
    """Scorers: how far they can be trusted."""


@app.command("check")
def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="JSON lines, a JSON list, or Parquet.")
    ],
    *,
    config: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="The server's configuration, with the scorers.")
    ],
    alias: Annotated[str, typer.Option(help="Whose scorers; the configuration's first alias if absent.")] = "",
    format: Annotated[Format, typer.Option(help="Whose columns the file has.")] = Format.TRL,
    images: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Where the named images lie; FILE's directory if absent."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="URL of a running vLLM, for scorers that read the policy's log-probabilities.")
    ] = "",
    adapter: Annotated[str, typer.Option(help="The adapter on that engine whose log-probabilities are read.")] = "",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Pairs asked about at once; 1 times exactly.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Score preference pairs (TRL's format; the prompt may be implicit) with each scorer of an alias.

    Shows how often a scorer prefers the chosen answer, whether its margins tell how sure it is, where scorers agree,
    what they cost and why they fail. The scorers are built from the configuration here; no server has to run.
    """
    summary = Summary()
    arguments = ["--config", str(config), "--alias", alias, "--engine", engine, "--adapter", adapter]
    try:
        pairs = _Pairs(file, Reader(FORMATS[format], images or file.parent, summary))
        report = _run([*arguments, "--concurrency", str(concurrency)], pairs)
    except UnreadableFile as error:
        return fail(f"{file}: {error}", REFUSED)
    except OSError as error:
        return fail(f"{file}: {error.strerror}", REFUSED)
    for problem in [*summary.problems, *pairs.refused]:
        print(f"{problem.number}: {problem.reason}", file=sys.stderr)
    if isinstance(report, str):
        return fail(report, WRONG_ARGUMENTS)
    if json:
        print(report.model_dump_json(indent=2))
    else:
        _show(report)
    if not report.pairs - report.unusable:
        return fail("the file holds no pair that can be used", REFUSED)
    return None


class _Pairs:
    """The file's pairs, one line each for the checking process."""

    def __init__(self, file: Path, reader: Reader) -> None:
        self._file = file
        self._reader = reader
        self.numbers: list[int] = []
        """The row of each line that was sent."""
        self.refused: list[Problem] = []

    def lines(self) -> Iterator[bytes]:
        for number, group in self._reader.groups(read_rows(self._file)):
            pairs = list(pairs_of(group))
            if not pairs:
                self.refused.append(Problem(number, "the row holds no pair"))
            for pair in pairs:
                self.numbers.append(number)
                yield pair.model_dump_json(exclude_none=True).encode() + b"\n"


def _run(arguments: list[str], pairs: _Pairs) -> RewardReport | str:
    """The report, or why there is none. Raises what reading the file raised."""
    report: RewardReport | str = "the checking process ended without a report"
    with fed("server.checking", arguments, pairs.lines(), "pairs") as process:
        for text in process.lines:
            line = CheckLine.model_validate_json(text)
            if line.progress is not None:
                process.show(line.progress.done, len(pairs.numbers))
                if line.progress.problem is not None:
                    pairs.refused.append(Problem(pairs.numbers[line.progress.pair], line.progress.problem))
            report = line.report or line.error or report
    return report


def _show(report: RewardReport) -> None:
    columns = ["scorer", "pairs", "accuracy (95%)", "ties", "AUC", "ECE", "ms", "p95 ms", "failed"]
    screen = console()
    used = [one for one in report.scorers if one.skipped is None]
    if used:
        together = [report.ensemble] if report.ensemble is not None else []
        screen.print(table(columns, map(_row, [*used, *together])))
    if len(used) > 1:
        screen.print(_matrix(report, [one.name for one in used]))
    for one in report.scorers:
        if one.skipped is not None:
            screen.print(f"{one.name}: not applicable; {one.skipped}", markup=False)
        elif one.reason is not None:
            screen.print(f"{one.name}: failed {one.failures} times, mostly: {one.reason}", markup=False)
    if report.ensemble is not None and report.ensemble.reason is not None:
        screen.print(f"{report.ensemble.name}: {report.ensemble.reason}", markup=False)
    screen.print(f"{report.pairs - report.unusable} pairs of {report.alias}, {report.unusable} could not be used")


def _row(one: ScorerReport) -> list[str]:
    share = one.accuracy
    accuracy = "" if share is None else f"{share.value:.3f} ({share.low:.2f}-{share.high:.2f})"
    numbers = [f"{value:.2f}" if value is not None else "" for value in (one.auc, one.ece)]
    times = [f"{value:.1f}" if value is not None else "" for value in (one.ms_per_answer, one.ms_per_answer_p95)]
    return [one.name, str(one.pairs), accuracy, str(one.ties), *numbers, *times, str(one.failures)]


def _matrix(report: RewardReport, names: list[str]) -> Table:
    shares = {(one.first, one.second): one.share for one in report.agreement}

    def cell(row: str, column: str) -> str:
        if row == column:
            return "1"
        share = shares.get((row, column), shares.get((column, row)))
        return "" if share is None else f"{share:.3f}"

    return table(["agreement", *names], [[row, *(cell(row, column) for column in names)] for row in names])
