"""Every block of code in the README and the docs runs as it stands, against the service on a fake engine.

What stands for something of the reader's own is put in its place: the address of `make serve`, an image's `...`.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clients.cli.up import sample_image
from server.config import load_config
from tests.api.conftest import data_url
from tests.api.served import Served, served
from tests.docs.snippets import PAGES, ROOT, Snippet, snippets

MOST_NOT_RUN = 12
RUN = [(page, blocks) for page in PAGES if (blocks := list(snippets(page)))]
HELD = {"[aliases.scorers.judge]": '[[aliases]]\nname = "default"\n[[aliases.scorers]]\nkind = "judge"\n'}
"""What a fragment of a configuration stands below."""
ALIAS = '[[aliases]]\nname = "default"\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("docs"), require_keys=False) as one:
        yield one


@pytest.fixture
def reader(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's directory: an image, what `make serve` left, and the commands on the path."""
    Image.new("RGB", (48, 48), "red").save(tmp_path / "cup.png")
    (tmp_path / "plumbline-state").mkdir()
    (tmp_path / "plumbline-state" / "sample.png").write_bytes(sample_image())
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, arguments in (("plumbline", "-m clients.cli"), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PLUMBLINE_URL", server.url)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def here(snippet: Snippet, server: Served) -> str:
    text = snippet.text.replace("http://127.0.0.1:8400", server.url)
    return text.replace("data:image/png;base64,...", data_url())


def run_bash(text: str) -> None:
    """Except for `make`, which builds and serves for minutes; its targets exist."""
    lines = []
    for line in text.splitlines():
        if made := re.match(r"make ([a-z-]+)", line):
            assert re.search(rf"^{made[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        else:
            lines.append(line)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check_toml(text: str) -> None:
    """A configuration that a server would start with; one that names its file is kept there for the next."""
    named = re.match(r"# (\S+\.toml)", text)
    if named is not None:
        Path(named[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(named[1]).write_text(text)
        tomllib.loads(text)
        return
    first = text.split("\n", 1)[0]
    above = HELD.get(first, "" if "aliases" not in first or first == "[[aliases]]" else ALIAS)
    Path("plumbline.toml").write_text(above + text)
    load_config(Path("plumbline.toml"))


@pytest.mark.parametrize(("page", "blocks"), RUN, ids=[str(page.relative_to(ROOT)) for page, _ in RUN])
def test_every_snippet_runs(page: Path, blocks: list[Snippet], server: Served, reader: Path) -> None:
    """A page's blocks in their order: what an earlier one defines, a later one may use."""
    names: dict[str, Any] = {"__name__": "snippet"}
    for snippet in blocks:
        if snippet.why_not is not None:
            continue
        text = here(snippet, server)
        try:
            if snippet.language == "bash":
                run_bash(text)
            elif snippet.language == "toml":
                check_toml(text)
            else:
                with redirect_stdout(io.StringIO()):
                    exec(compile(text, snippet.page, "exec", dont_inherit=True), names)
        except Exception as error:
            raise AssertionError(f"{snippet.page}:{snippet.line} does not run: {error}") from error


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    """A mark is for what needs a GPU, a model or a state of things that no test can have."""
    marked = [one for _, blocks in RUN for one in blocks if one.why_not is not None]
    assert len(marked) <= MOST_NOT_RUN, marked
    assert all(len(one.why_not or "") > 10 for one in marked)


def test_the_pages_have_snippets_at_all() -> None:
    """A reader that finds nothing would pass everything."""
    found = {one.language for _, blocks in RUN for one in blocks}
    assert found == {"python", "bash", "toml"}
    assert sum(len(blocks) for _, blocks in RUN) >= 30
