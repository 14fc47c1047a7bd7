"""The site is built without a warning, and stands by itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.snippets import ROOT

EXPECTED = ("index.html", "start/index.html", "reference/api/index.html", "reference/configuration/index.html")
REMOTE = re.compile(r"""<(?:script|link|img)[^>]+(?:src|href)=["']?(https?:)?//[^"'>]+""")


def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    """Every link leads somewhere; pages load nothing from elsewhere, but for the address of the site itself."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in EXPECTED:
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert not REMOTE.search(page), name
