"""Commands that carry preference data: out to other trainers, and in from elsewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from clients.cli.session import REFUSED, Session, command, fail
from clients.client import PlumblineClient
from clients.exchange.formats import FORMATS, Format
from clients.exchange.rows import UnreadableFile, read_rows
from clients.exchange.sending import Reader, Sender, Summary
from server.wire.chat import TextPart
from server.wire.exchange import ImportGroup, ImportRating


class Kind(StrEnum):
    PAIRS = "pairs"
    UNPAIRED = "unpaired"


class Split(StrEnum):
    TRAIN = "train"
    HOLDOUT = "holdout"
    ALL = "all"


class Images(StrEnum):
    EMBED = "embed"
    FILES = "files"


AliasOption = Annotated[str | None, typer.Option(help="Whose preferences; the server's first alias if absent.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    command(app, name="export")(export_preferences)
    command(app, name="import")(import_preferences)


def export_preferences(
    session: Session,
    *,
    to: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="JSON lines to write.")],
    alias: AliasOption = None,
    kind: Annotated[
        Kind, typer.Option(help="Pairs (DPO and its kin), or single answers with a label (KTO).")
    ] = Kind.PAIRS,
    images: Annotated[
        Images, typer.Option(help="Images inside the rows, or as files in images/ beside FILE.")
    ] = Images.EMBED,
    split: Annotated[Split, typer.Option(help="What may be trained on, what is held out, or both.")] = Split.TRAIN,
) -> None:
    """Write what the alias's users taught as a file for TRL: DPOTrainer (pairs) or KTOTrainer (unpaired).

    Load it with `load_dataset("json", data_files=FILE)`. An export that was broken off goes on where it was when it
    is run again.
    """
    with session.client() as client:
        name = alias or client.models().data[0].id
        options = hashlib.sha256(repr((name, kind, images, split)).encode()).hexdigest()[:8]
        part = to.with_name(f".{to.name}.{options}.part")
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            after = rewind(part)
            rows = client.export_preferences(
                name,
                kind=kind.value,
                images="embed" if images is Images.EMBED else "reference",
                split=split.value,
                after=after,
            )
            with part.open("ab") as file, _progress() as progress:
                task = progress.add_task("rows", total=None)
                for row in rows:
                    if images is Images.FILES:
                        _fetch_images(client, row, to.parent)
                    file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
                    progress.advance(task)
            part.replace(to)
            with to.open("rb") as file:
                count = sum(1 for _ in file)
        except OSError as error:
            return fail(f"{error.filename}: {error.strerror}", REFUSED)
    if session.as_json:
        return print(json.dumps({"file": str(to), "rows": count}))
    return print(f"{count} rows in {to}")


def rewind(part: Path) -> str | None:
    """Cut a broken-off export back to whole groups; the last of them. Of the newest group rows may be missing."""
    if not part.exists():
        return None
    whole: tuple[str | None, int] = (None, 0)
    newest: tuple[str | None, int] = (None, 0)
    with part.open("r+b") as file:
        position = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            position += len(line)
            group = json.loads(line)["group_id"]
            if group != newest[0]:
                whole = newest
            newest = (group, position)
        file.truncate(whole[1])
    return whole[0]


def _fetch_images(client: PlumblineClient, row: dict[str, Any], directory: Path) -> None:
    for name in row.get("images", []):
        path = directory / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_name(f".{path.name}")
            temporary.write_bytes(client.media(path.stem))
            temporary.replace(path)


def import_preferences(
    session: Session,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="JSON lines, a JSON list, or Parquet.")
    ],
    format: Annotated[Format, typer.Option(help="Whose columns the file has.")],
    alias: AliasOption = None,
    images: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Where the named images lie; FILE's directory if absent."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="The annotator of rows that name none; the format's name if absent.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read only; show what would be imported.")] = False,
    show: Annotated[int, typer.Option(min=0, help="Rows that a dry run shows.")] = 20,
) -> None:
    """Bring preference data into an alias: public sets, other systems' feedback, TRL's files, or your own.

    Each row that cannot be imported is named on standard error with its reason, and the others are imported; then the
    exit status is 1. Running the command again imports nothing twice, so one that was broken off is simply run again.

    Formats: plain (one object a line: prompt, images, then chosen and rejected, or ranking, or answer and rating), trl
    (also `plumbline export`), rlhf-v, mm-rlhf (dpo_pairs.jsonl or data.jsonl), vlfeedback, preference-10k, open-webui,
    tensorzero.
    """
    summary = Summary()
    reader = Reader(FORMATS[format], images or file.parent, summary)
    try:
        with _progress(DownloadColumn()) as progress:
            task = progress.add_task(file.name, total=file.stat().st_size)
            groups = reader.groups(read_rows(file, lambda size: progress.advance(task, size)))
            if dry_run:
                _show(groups, 0 if session.as_json else show)
            else:
                with session.client() as client:
                    name = alias or client.models().data[0].id
                    Sender(client, name, source or format.value, summary).send_all(groups)
    except UnreadableFile as error:
        _finish(session, summary, dry_run=dry_run)
        return fail(f"{file}: {error}", REFUSED)
    except OSError as error:
        return fail(f"{file}: {error.strerror}", REFUSED)
    _finish(session, summary, dry_run=dry_run)
    return None if not summary.problems else fail(f"{len(summary.problems)} rows could not be imported", REFUSED)


def _show(groups: Iterator[tuple[int, ImportGroup]], count: int) -> None:
    for number, group in islice(groups, count):
        print(f"{number}: {_described(group)}")
    for _ in groups:
        pass  # the rest is read for what is wrong with it


def _described(group: ImportGroup) -> str:
    """A group in one line."""
    parts = [part for message in group.messages if isinstance(message.content, list) for part in message.content]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    texts += [message.content for message in group.messages if isinstance(message.content, str)]
    ratings = sum(isinstance(one, ImportRating) for one in group.opinions)
    counts = {
        "images": len(parts) - sum(isinstance(part, TextPart) for part in parts),
        "answers": len(group.candidates),
        "pairs": len(group.opinions) - ratings,
        "ratings": ratings,
    }
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    asked = " ".join(" ".join(texts).split())
    return f"{said} · {asked[:60]}{'…' if len(asked) > 60 else ''}"


def _finish(session: Session, summary: Summary, *, dry_run: bool) -> None:
    for problem in sorted(summary.problems, key=lambda one: one.number):
        print(f"{problem.number}: {problem.reason}", file=sys.stderr)
    if session.as_json:
        return print(json.dumps({**dataclasses.asdict(summary), "dry_run": dry_run}))
    if dry_run:
        good = summary.rows - len(summary.problems)
        return print(f"{summary.rows} rows: {good} can be imported, {len(summary.problems)} cannot")
    kept = f"{summary.new} new ({summary.holdout} of them held out), {summary.changed} with new opinions"
    away = f"{summary.known} known, {summary.gone} erased or expired before, {len(summary.problems)} refused"
    return print(f"{summary.rows} rows: {kept}, {away}")


def _progress(*columns: Any) -> Progress:
    """On standard error, and only where somebody watches."""
    console = Console(stderr=True)
    shown = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}"), TimeRemainingColumn())
    if columns:
        shown = (shown[0], shown[1], *columns, shown[3])
    return Progress(*shown, console=console, transient=True, disable=not console.is_terminal)
