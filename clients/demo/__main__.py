"""`python -m clients.demo`: the whole loop in a few minutes, measured; or, provoked, what the gate is for.

Exit status: 0 every target reached (or the over-optimised adapter refused), 1 not, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from clients.cli.operate import report_table
from clients.cli.up import wait_ready
from clients.client import PlumblineError
from clients.demo import plot
from clients.demo.budget import Budget
from clients.demo.dashboard import Dashboard
from clients.demo.ledger import Ledger
from clients.demo.measure import MeasurementFailed
from clients.demo.result import missed, summarise, target_table
from clients.demo.run import open_run
from clients.demo.settings import (
    LEARNER,
    MODEL,
    ORDINARY,
    OVER_OPTIMISING,
    OVER_OPTIMISING_LEARNER,
    SUITE_DESCRIPTIONS,
    SUITE_SKILLS,
    server_settings,
)
from clients.demo.suites import write_suites
from clients.stack import Stack, StackError, interrupted_by_signals


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m clients.demo",
        description="Serve the shapes model, let simulated users rate it, learn, swap, roll back; measured throughout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--over-optimise", action="store_true", help="provoke an adapter that the gate has to refuse")
    parser.add_argument("--out", type=Path, default=Path("plumbline-demo.png"), help="where the plot goes")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in this new directory and keep it")
    parser.add_argument("--model", type=Path, default=MODEL, metavar="DIR", help="another training of the shapes model")
    return parser.parse_args()


@contextlib.contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """A fresh directory for state and logs."""
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="plumbline-demo-") as directory:
        yield Path(directory)


def main() -> int:
    given = arguments()
    console = Console()
    if not given.model.is_dir():
        console.print(f"the demo's model is missing ({given.model}): make demo-model", soft_wrap=True)
        return 1
    try:
        with interrupted_by_signals(), workplace(given.keep) as directory:
            if given.over_optimise:
                return over_optimise(directory, console, given.model)
            return demo(directory, console, given)
    except KeyboardInterrupt:
        console.print("interrupted")
    except FileExistsError as error:
        console.print(f"{error.filename} is there already; --keep wants a new directory", soft_wrap=True)
    except (StackError, PlumblineError, MeasurementFailed) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
    return 1


def demo(directory: Path, console: Console, given: argparse.Namespace) -> int:
    """The ordinary run."""
    started = time.monotonic()
    ledger, budget = Ledger(), Budget(ORDINARY.signals, ORDINARY.round_size)
    write_suites(directory / "suites", SUITE_DESCRIPTIONS, SUITE_SKILLS)
    with Stack(directory, server_settings(ORDINARY, LEARNER, directory / "suites", given.model)) as stack:
        wait_ready(stack, console)
        board = Dashboard(console, ledger, budget, started)
        with board:
            story = asyncio.run(open_run(stack, ORDINARY, board, ledger, budget).play())
    measured = {0: (story.before.hallucination, story.before.coverage)}
    if story.after is not None:
        measured[ledger.signals] = (story.after.hallucination, story.after.coverage)
    plot.draw(given.out, ledger, measured)
    result = summarise(story, ledger, time.monotonic() - started)
    for name, seconds in board.phases.items():
        console.print(f"{seconds:6.1f} s  {name}", highlight=False)
    for reason in ledger.failures:
        console.print(f"failed: {reason}", markup=False, soft_wrap=True)
    console.print(target_table(result))
    console.print(f"plot: {given.out}", soft_wrap=True)
    print(f"RESULT {json.dumps(result)}", flush=True)
    return 1 if missed(result) else 0


def over_optimise(directory: Path, console: Console, model: Path) -> int:
    """Users who like it short, a learner that holds nothing back, and a gate that sees the lost coverage."""
    sizes = OVER_OPTIMISING
    ledger, budget = Ledger(), Budget(sizes.signals, sizes.round_size)
    write_suites(directory / "suites", SUITE_DESCRIPTIONS, SUITE_SKILLS)
    with Stack(directory, server_settings(sizes, OVER_OPTIMISING_LEARNER, directory / "suites", model)) as stack:
        wait_ready(stack, console)
        with Dashboard(console, ledger, budget) as board:
            run = open_run(stack, sizes, board, ledger, budget)
            asyncio.run(run.provoke())
        refused = [one for one in run.rounds.adapters if one.state == "rejected"]
        for one in refused:
            console.print(report_table(one.id, run.server.adapter_report(one.id).reports))
        state = run.rounds
    console.print("the gate refused the adapter" if refused else f"no adapter was refused: {state.adapters}")
    return 0 if refused else 1


if __name__ == "__main__":
    sys.exit(main())
