"""What the commands share: the options of a connection, how errors end, how results are shown."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Concatenate, Final, ParamSpec, get_type_hints

import httpx
import openai
import typer
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

from clients.client import PlumblineClient, PlumblineError
from clients.sdk import Plumbline
from clients.sdk.client import DEFAULT_SERVER

_WORD: Final = re.compile(r"\S*|[\d-]+ [\d:]+")
"""A cell that is one thing: an id, a state, a time."""
REFUSED: Final = 1
WRONG_ARGUMENTS: Final = 2
NO_CONNECTION: Final = 3
REMEDIES: Final = {
    0: "start one with `plumbline up`, or name it with --url or PLUMBLINE_URL",
    401: "give yours with --key or PLUMBLINE_KEY",
    403: "`plumbline keys create --role operator`, run by an operator, makes one",
}
"""What mends a failure of this status, where the server cannot know it."""

UrlOption = Annotated[str, typer.Option("--url", envvar="PLUMBLINE_URL", help="The server's URL.", metavar="URL")]
KeyOption = Annotated[
    str | None, typer.Option("--key", envvar="PLUMBLINE_KEY", help="API key.", show_envvar=True, metavar="KEY")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the server's reply as JSON.")]

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation: where the server is, and how to print. `transport` replaces the network (tests)."""

    url: str
    key: str | None
    as_json: bool
    transport: httpx.BaseTransport | None = None

    def client(self, *, timeout_s: float = 60.0) -> PlumblineClient:
        return PlumblineClient(self.url, self.key, timeout_s=timeout_s, transport=self.transport)

    def plumbline(self) -> Plumbline:
        """The app's client, for chat. Nothing is repeated: whoever sits there sees what happens."""
        return Plumbline(self.url, self.key, max_retries=0)

    def fail(self, status: int, message: str) -> None:
        """What the server said, or that it said nothing, with what mends it."""
        said = f"{self.url} does not answer · {message}" if status == 0 else f"{status} · {message}"
        remedy = f" · {REMEDIES[status]}" if status in REMEDIES else ""
        fail(said + remedy, NO_CONNECTION if status == 0 else REFUSED)

    def show(self, reply: BaseModel, table: Callable[[], RenderableType]) -> None:
        """Print a reply: as JSON when asked to, else as people read it."""
        if self.as_json:
            print(reply.model_dump_json(indent=2))
        else:
            shown = table()
            console(at_least=_narrowest(shown)).print(shown)


def command(app: typer.Typer, **settings: Any) -> Callable[[Callable[Concatenate[Session, P], None]], None]:
    """Register a function of a `Session` and its own parameters; `--url`, `--key` and `--json` are added."""

    def register(function: Callable[Concatenate[Session, P], None]) -> None:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]

        def run(
            ctx: typer.Context,
            *args: Any,
            url: str,
            key: str | None,
            json: bool,
            **kwargs: Any,
        ) -> None:
            session = Session(url if "://" in url else f"http://{url}", key, json, ctx.obj)
            with errors_end_the_command(session):
                function(session, *args, **kwargs)

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("ctx", keyword, annotation=typer.Context),
            *(one.replace(kind=keyword, annotation=hints[one.name]) for one in own),
            inspect.Parameter("url", keyword, annotation=UrlOption, default=DEFAULT_SERVER),
            inspect.Parameter("key", keyword, annotation=KeyOption, default=None),
            inspect.Parameter("json", keyword, annotation=JsonOption, default=False),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(**settings)(run)

    return register


@contextmanager
def errors_end_the_command(session: Session) -> Iterator[None]:
    """A failed call becomes one line on standard error and an exit status."""
    try:
        yield
    except PlumblineError as error:
        session.fail(error.status, str(error).partition(" · ")[2])
    except openai.APIStatusError as error:
        session.fail(error.status_code, _words(error))
    except openai.APIConnectionError as error:
        session.fail(0, str(error.__cause__ or error))
    except openai.APIError as error:
        fail(error.message)


def _words(error: openai.APIStatusError) -> str:
    """The server's own, without the client's dressing."""
    body = error.body
    return str(body.get("message", error.message)) if isinstance(body, dict) else error.message


def fail(message: str, status: int = REFUSED) -> None:
    """One line (or a log's end) on standard error, then the end."""
    print(f"plumbline: {message}", file=sys.stderr)
    raise typer.Exit(status)


def console(at_least: int = 0) -> Console:
    """Made when it is used, so that it prints to what is standard output then."""
    made = Console(soft_wrap=True)
    made.width = max(made.width, at_least)
    return made


def _narrowest(shown: RenderableType) -> int:
    """Columns that it takes; a table that is wider than the screen is wrapped by the screen, its cells stay whole."""
    return Console(width=1000).measure(shown).minimum if isinstance(shown, Table) else 0


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """Columns in which no row says anything are left out, so that the others have room."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    made = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    said = [number for number in range(len(columns)) if not cells or any(row[number] for row in cells)]
    for number in said:
        is_word = all(_WORD.fullmatch(row[number]) for row in cells)  # an id that is cut in two cannot be copied
        widest = max((len(row[number]) for row in cells), default=0) if is_word else 0
        made.add_column(columns[number], overflow="fold", min_width=max(widest, len(columns[number])))
    for row in cells:
        made.add_row(*(row[number] for number in said))
    return made


def pairs(values: Mapping[str, object]) -> str:
    """A mapping as people read it: one line for each entry."""
    return "\n".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "?" if value is None else str(value)


def when(at: float) -> str:
    """A UTC time of the wire in the reader's own clock."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short_json(value: object) -> str:
    text = json.dumps(value, separators=(", ", ": "), default=str)
    return text if len(text) <= 120 else f"{text[:117]}..."
