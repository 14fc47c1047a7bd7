"""What the commands share: the options of a connection, how errors end, how results are shown."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Concatenate, Final, ParamSpec, get_type_hints

import httpx
import typer
from openai import OpenAI
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.table import Table

from clients.client import PlumblineClient, PlumblineError

DEFAULT_SERVER: Final = "http://127.0.0.1:8400"
REFUSED: Final = 1
WRONG_ARGUMENTS: Final = 2
NO_CONNECTION: Final = 3

ServerOption = Annotated[str, typer.Option("--server", envvar="PLUMBLINE_SERVER", help="The server's URL.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", envvar="PLUMBLINE_KEY", help="API key.", show_envvar=True, metavar="KEY")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the server's reply as JSON.")]

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation: where the server is, and how to print. `transport` replaces the network (tests)."""

    server: str
    key: str | None
    as_json: bool
    transport: httpx.BaseTransport | None = None

    def client(self, *, timeout_s: float = 60.0) -> PlumblineClient:
        return PlumblineClient(self.server, self.key, timeout_s=timeout_s, transport=self.transport)

    def openai(self) -> OpenAI:
        """The stock client, for chat."""
        base_url = f"{self.server.rstrip('/').removesuffix('/v1')}/v1"
        return OpenAI(base_url=base_url, api_key=self.key or "none", max_retries=0)

    def show(self, reply: BaseModel, table: Callable[[], RenderableType]) -> None:
        """Print a reply: as JSON when asked to, else as people read it."""
        if self.as_json:
            print(reply.model_dump_json(indent=2))
        else:
            console().print(table())


def command(app: typer.Typer, **settings: Any) -> Callable[[Callable[Concatenate[Session, P], None]], None]:
    """Register a function of a `Session` and its own parameters; `--server`, `--key` and `--json` are added."""

    def register(function: Callable[Concatenate[Session, P], None]) -> None:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]

        def run(
            ctx: typer.Context,
            *args: Any,
            server: str,
            key: str | None,
            json: bool,
            **kwargs: Any,
        ) -> None:
            session = Session(server, key, json, ctx.obj)
            with errors_end_the_command():
                function(session, *args, **kwargs)

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("ctx", keyword, annotation=typer.Context),
            *(one.replace(kind=keyword, annotation=hints[one.name]) for one in own),
            inspect.Parameter("server", keyword, annotation=ServerOption, default=DEFAULT_SERVER),
            inspect.Parameter("key", keyword, annotation=KeyOption, default=None),
            inspect.Parameter("json", keyword, annotation=JsonOption, default=False),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(**settings)(run)

    return register


class errors_end_the_command:
    """A failed call becomes one line on standard error and an exit status."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PlumblineError):
            fail(str(error), NO_CONNECTION if error.status == 0 else REFUSED)


def fail(message: str, status: int = REFUSED) -> None:
    """One line (or a log's end) on standard error, then the end."""
    print(f"plumbline: {message}", file=sys.stderr)
    raise typer.Exit(status)


def console() -> Console:
    """Made when it is used, so that it prints to what is standard output then."""
    return Console(soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    made = Table(title=title)
    for column in columns:
        made.add_column(column, overflow="fold")  # an id that is cut off cannot be copied
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    return made


def when(at: float) -> str:
    """A UTC time of the wire in the reader's own clock."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short_json(value: object) -> str:
    text = json.dumps(value, separators=(", ", ": "), default=str)
    return text if len(text) <= 120 else f"{text[:117]}..."
