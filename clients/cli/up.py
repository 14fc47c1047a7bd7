"""`plumbline up`: keeps the whole stack running, and shows how to talk to it."""

from __future__ import annotations

import base64
import struct
import time
import zlib
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from clients.cli.session import fail
from clients.stack import Stack, StackError, interrupted_by_signals

SHIPPED_MODEL: Final = Path(__file__).parent.parent / "demo" / "shapes_vlm"
CHECK_S: Final = 1.0
QUESTION: Final = "What is in this image?"


def up(
    *,
    model: Annotated[
        str, typer.Option(envvar="MODEL", help="Directory or Hugging Face name; the small shipped model if absent.")
    ] = str(SHIPPED_MODEL),
    alias: Annotated[str, typer.Option(help="The model name that apps send.")] = "default",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API on 127.0.0.1.")] = 8400,
    state: Annotated[Path, typer.Option(help="Where everything is kept.", file_okay=False)] = Path("plumbline-state"),
    best_of: Annotated[int, typer.Option(min=1, max=32, help="Candidates when a request does not say.")] = 4,
    dtype: Annotated[str, typer.Option(help="Weight type, as vLLM names it.")] = "auto",
    max_model_len: Annotated[int, typer.Option(min=16, help="Longest prompt plus answer, in tokens.")] = 4096,
    learner: Annotated[bool, typer.Option("--learner/--no-learner", help="Learn from feedback.")] = True,
) -> None:
    """Run engine, server and learner until Ctrl-C, and print calls that work as pasted."""
    console = Console(stderr=True)
    settings = configuration(model, alias, best_of=best_of, dtype=dtype, max_model_len=max_model_len)
    try:
        with interrupted_by_signals(), Stack(state, settings, port=port) as stack:
            wait_ready(stack, console)
            print(welcome(stack.url, alias), flush=True)
            if learner:
                stack.start_learner(alias)
            while True:
                time.sleep(CHECK_S)
                stack.check()
    except KeyboardInterrupt:
        console.print("stopped; everything is kept in", str(state))
    except StackError as error:
        fail(str(error))


def configuration(model: str, alias: str, *, best_of: int, dtype: str, max_model_len: int) -> dict[str, Any]:
    """The server's settings. A directory is named absolutely: adapters name their base model for ever."""
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    if Path(name) == SHIPPED_MODEL.resolve():  # trained in float32, with a short context
        dtype, max_model_len = "float32" if dtype == "auto" else dtype, min(max_model_len, 512)
    engine = {"model": name, "dtype": dtype, "max_model_len": max_model_len}
    return {"engine": engine, "aliases": [{"name": alias, "best_of": best_of}]}


def wait_ready(stack: Stack, console: Console) -> None:
    """With a spinner that says what is going on and for how long."""
    started = time.monotonic()
    with console.status("the server starts") as status:
        stack.wait_ready(lambda doing: status.update(f"{doing} ({time.monotonic() - started:.0f} s)"))
    console.print(f"ready after {time.monotonic() - started:.0f} s; logs in {stack.directory / 'logs'}")


def welcome(url: str, alias: str) -> str:
    """The URLs, a curl call and an openai snippet, each to be pasted as it is."""
    image = f"data:image/png;base64,{base64.b64encode(sample_image()).decode('ascii')}"
    return f"""
Plumbline serves {url}/v1 (model "{alias}")
Chat: {url}/ui · watch and decide: {url}/ui/operate

curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{{"model": "{alias}", "max_tokens": 64, \
"messages": [{{"role": "user", "content": [{{"type": "image_url", "image_url": {{"url": "{image}"}}}}, \
{{"type": "text", "text": "{QUESTION}"}}]}}]}}'

python - <<'END'
from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="none")
image = "{image}"
answer = client.chat.completions.create(
    model="{alias}",
    max_tokens=64,
    messages=[{{"role": "user", "content": [
        {{"type": "image_url", "image_url": {{"url": image}}}},
        {{"type": "text", "text": "{QUESTION}"}},
    ]}}],
    extra_body={{"best_of": 4}},
)
print(answer.choices[0].message.content)
client.post("/feedback", cast_to=object, body={{"completion_id": answer.id, "rating": "up"}})
END

Operate it: plumbline routing · adapters · report ID · rollback · audit   (plumbline --help)
Ctrl-C stops everything.
"""


def sample_image(side_px: int = 64) -> bytes:
    """A PNG of a dark block on a light ground, a few dozen bytes: something to ask about."""
    light, dark = b"\xff\xff\xff", b"\xd6\x22\x28"
    lower, upper = side_px // 4, side_px - side_px // 4
    empty = light * side_px
    crossed = light * lower + dark * (upper - lower) + light * (side_px - upper)
    rows = (crossed if lower <= y < upper else empty for y in range(side_px))
    pixels = zlib.compress(b"".join(b"\x00" + row for row in rows), 9)
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
