"""Files that are whole or absent after a crash at any moment."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(path: Path, content: bytes, *, sync_parent: bool = True) -> None:
    """Replace `path` durably: temporary name, fsync, rename, fsync of the directory.

    Without `sync_parent` the name is durable once the caller has called `sync_directory`.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    if sync_parent:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
