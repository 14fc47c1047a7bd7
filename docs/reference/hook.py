"""MkDocs' hook: the written pages come into the site, and the navigation lists what there is.

An entry of `nav` whose file is missing is left out, so pages may come and go; `runbooks/*.md` stands for all that
match.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from docs.reference import PAGES  # noqa: E402 - MkDocs loads this file alone


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = _existing(config.nav or [], Path(config.docs_dir))
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for path, write in PAGES.items():
        files.append(File.generated(config, path, content=write()))
    return files


def _existing(nav: list[Any], directory: Path) -> list[Any]:
    """The entries that lead somewhere; sections without any are left out."""
    kept: list[Any] = []
    for entry in nav:
        title, target = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(target, list):
            inner = _existing(target, directory)
            kept += [{title: inner}] if inner else []
        elif "*" in target:
            kept += sorted(str(found.relative_to(directory)) for found in directory.glob(target))
        elif target in PAGES or (directory / target).is_file():
            kept.append(entry)
    return kept
