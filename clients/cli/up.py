"""`plumbline up`: keeps the whole stack running, and shows how to talk to it."""

from __future__ import annotations

import base64
import struct
import sys
import time
import tomllib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from clients.cli.configuration import effective
from clients.cli.session import fail
from clients.stack import Stack, StackError, interrupted_by_signals

SHIPPED_MODEL: Final = Path(__file__).parent.parent / "demo" / "shapes_vlm"
SAMPLE_SIDE_PX: Final = 64
CHECK_S: Final = 1.0
QUESTION: Final = "What is in this image?"


def up(
    *,
    model: Annotated[
        str | None,
        typer.Option(envvar="MODEL", help="Directory or Hugging Face name; if absent, the small shipped one."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            exists=True,
            dir_okay=False,
            help="TOML of further settings; --port and --state replace its own.",
        ),
    ] = None,
    alias: Annotated[
        str, typer.Option(help="The model name that apps send, where the configuration names none.")
    ] = "default",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API on 127.0.0.1.")] = 8400,
    state: Annotated[Path, typer.Option(help="Where everything is kept.", file_okay=False)] = Path("plumbline-state"),
    best_of: Annotated[
        int, typer.Option(min=1, max=32, help="Candidates when neither a request nor the configuration says.")
    ] = 4,
    dtype: Annotated[str, typer.Option(help="Weight type, as vLLM names it.")] = "auto",
    max_model_len: Annotated[int, typer.Option(min=16, help="Longest prompt plus answer, in tokens.")] = 4096,
    learner: Annotated[bool, typer.Option("--learner/--no-learner", help="Learn from feedback.")] = True,
) -> None:
    """Run engine, server and learner until Ctrl-C, and print calls that work as pasted."""
    console = Console(stderr=True)
    written = written_settings(file) if file is not None else {}
    settings = configuration(model, alias, best_of=best_of, dtype=dtype, max_model_len=max_model_len, written=written)
    aliases = [one["name"] for one in settings["aliases"]]
    try:
        with interrupted_by_signals(), Stack(state, settings, port=port) as stack:
            picture = state / "sample.png"
            picture.write_bytes(sample_image())
            wait_ready(stack, console)
            print(welcome(stack.url, aliases[0], picture), flush=True)
            for name in aliases if learner else ():
                stack.start_learner(name)
            while True:
                time.sleep(CHECK_S)
                stack.check()
    except KeyboardInterrupt:
        console.print("stopped; everything is kept in", str(state))
    except StackError as error:
        fail(str(error))


def written_settings(file: Path) -> dict[str, Any]:
    """What the file says, once a server would start with it; else the end, with the setting that is wrong."""
    effective(file)
    return tomllib.loads(file.read_text(encoding="utf-8"))


def configuration(
    model: str | None,
    alias: str,
    *,
    best_of: int,
    dtype: str,
    max_model_len: int,
    written: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The server's settings: a model that is named wins; for the rest what is `written` does.

    A directory is named absolutely: adapters name their base model for ever.
    """
    tree = {name: dict(value) if isinstance(value, dict) else value for name, value in (written or {}).items()}
    for section, option in (("http", "port"), ("store", "directory")):  # these two are options of the command
        tree.get(section, {}).pop(option, None)
    engine = tree.get("engine", {})
    name = model or engine.get("model") or str(SHIPPED_MODEL)
    name = str(Path(name).resolve()) if Path(name).is_dir() else name
    is_shipped = Path(name) == SHIPPED_MODEL.resolve()  # trained in float32, with a short context
    if engine.get("dtype", "auto") == "auto":
        engine["dtype"] = "float32" if is_shipped and dtype == "auto" else dtype
    if not engine.get("max_model_len"):
        engine["max_model_len"] = min(max_model_len, 512) if is_shipped else max_model_len
    tree["engine"] = {**engine, "model": name}
    tree["aliases"] = [{"name": alias, "best_of": best_of, **one} for one in tree.get("aliases") or [{}]]
    return tree


def wait_ready(stack: Stack, console: Console) -> None:
    """With a spinner that says what is going on and for how long."""
    started = time.monotonic()
    with console.status("the server starts") as status:
        stack.wait_ready(lambda doing: status.update(f"{doing} ({time.monotonic() - started:.0f} s)"))
    console.print(f"ready after {time.monotonic() - started:.0f} s; logs in {stack.directory / 'logs'}")


def welcome(url: str, alias: str, picture: Path) -> str:
    """The URLs, a curl call, an openai snippet and commands, each to be pasted as it is, in any directory."""
    image = f"data:image/png;base64,{base64.b64encode(sample_image()).decode('ascii')}"
    return f"""
Plumbline serves {url}/v1 (model "{alias}")
Chat: {url}/ui · watch and decide: {url}/ui/operate
In another terminal:

curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{{"model": "{alias}", "max_tokens": 64, \
"messages": [{{"role": "user", "content": [{{"type": "image_url", "image_url": {{"url": "{image}"}}}}, \
{{"type": "text", "text": "{QUESTION}"}}]}}]}}'

{sys.executable} - <<'END'
import base64
from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="none")
image = base64.b64encode(open("{picture.resolve()}", "rb").read()).decode()
answer = client.chat.completions.create(
    model="{alias}",
    max_tokens=64,
    messages=[{{"role": "user", "content": [
        {{"type": "image_url", "image_url": {{"url": f"data:image/png;base64,{{image}}"}}}},
        {{"type": "text", "text": "{QUESTION}"}},
    ]}}],
    extra_body={{"best_of": 4}},
)
print(answer.choices[0].message.content)
client.post("/feedback", cast_to=object, body={{"completion_id": answer.id, "rating": "up"}})
END

{_commands()}plumbline chat "{QUESTION}" --image {picture.resolve()} --best-of 4 --explain

Operate it: plumbline routing · adapters · report ID · promote ID · rollback · audit   (plumbline --help)
Ctrl-C stops everything.
"""


def _commands() -> str:
    """What puts `plumbline` on the path of another terminal, where it stands in an environment of its own."""
    activate = Path(sys.prefix) / "bin" / "activate"
    return f". {activate}\n" if activate.is_file() else ""


def sample_image() -> bytes:
    """A PNG of two blocks on a light ground, about a hundred bytes: something to ask about."""
    rows = [b"\xff\xff\xff" * SAMPLE_SIDE_PX] * SAMPLE_SIDE_PX
    for start, stop, colour in ((4, 18, b"\xd6\x22\x28"), (46, 60, b"\x24\x4c\xdc")):
        crossed = b"\xff\xff\xff" * start + colour * (stop - start) + b"\xff\xff\xff" * (SAMPLE_SIDE_PX - stop)
        rows[start:stop] = [crossed] * (stop - start)
    pixels = zlib.compress(b"".join(b"\x00" + row for row in rows), 9)
    header = struct.pack(">IIBBBBB", SAMPLE_SIDE_PX, SAMPLE_SIDE_PX, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
