"""The directory of published adapters: one immutable directory each, named by its id, put in place by one rename.

Everything is written under a temporary name, synced, then renamed. A crash before the rename leaves a temporary
directory, one after it a directory that no row knows; nobody can ask for either, and `clear` removes both. All
methods block.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from server import faults
from server.adapters.files import CONFIG, FILES, MANIFEST, TENSORS, Checked, holds_only
from server.adapters.uploads import Upload
from server.store.blobs import sync_directory, sync_file, write_durably

Signature = tuple[tuple[int, int, int], ...]
"""Inode, size and time of writing of each file."""


class AdapterDirectory:
    """Shared with the engines. `engine_model`: the engine's own `--model` string, letter for letter."""

    def __init__(self, path: Path, *, engine_model: str) -> None:
        self._path = path
        self._engine_model = engine_model

    def path(self, adapter_id: str) -> Path:
        return self._path / adapter_id

    def write(self, adapter_id: str, upload: Upload, checked: Checked) -> dict[str, Any]:
        """Put an adapter in place, durably, or nothing; what its manifest says. Takes the tensors out of the upload."""
        config = json.dumps({**checked.config, "base_model_name_or_path": self._engine_model}, indent=2).encode()
        tensors = upload.expected(TENSORS)
        assert tensors is not None
        body: dict[str, Any] = {
            "id": adapter_id,
            **upload.manifest.model_dump(mode="json", exclude={"files", "lease_token", "groups", "annotators"}),
            "digest": checked.digest,
            "files": {
                CONFIG: {"size_bytes": len(config), "sha256": hashlib.sha256(config).hexdigest()},
                TENSORS: {"size_bytes": tensors.size_bytes, "sha256": tensors.sha256},
            },
        }
        temporary = self._path / f".{adapter_id}.{os.urandom(6).hex()}"
        try:
            temporary.mkdir()
            (upload.directory / TENSORS).replace(temporary / TENSORS)
            sync_file(temporary / TENSORS)
            write_durably(temporary / CONFIG, config)
            write_durably(temporary / MANIFEST, json.dumps(body, indent=2).encode())
            faults.point("adapter.before_rename")
            temporary.rename(self._path / adapter_id)
            faults.point("adapter.after_rename")
            sync_directory(self._path)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(self._path / adapter_id, ignore_errors=True)
            raise
        return body

    def remove(self, adapter_id: str) -> None:
        shutil.rmtree(self._path / adapter_id, ignore_errors=True)

    def clear(self, known: Collection[str]) -> None:
        """Remove whatever is not one of these adapters; makes the directory where there is none."""
        self._path.mkdir(parents=True, exist_ok=True)
        for entry in sorted(self._path.iterdir()):
            if entry.name in known:
                continue
            faults.point("adapter.clearing")
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def names(self) -> set[str]:
        """What stands here under a name of its own, adapters or not."""
        return {entry.name for entry in self._path.iterdir() if not entry.name.startswith(".")}

    def left_over(self, written_before: float) -> list[str]:
        """Everything here, temporary names included, that was last written before then."""
        found = []
        for entry in sorted(self._path.iterdir()) if self._path.is_dir() else []:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if entry.lstat().st_mtime < written_before:
                    found.append(entry.name)
        return found

    def signature(self, adapter_id: str) -> Signature | None:
        """What changes when somebody writes here; None where a file is missing, or one too many."""
        directory = self._path / adapter_id
        try:
            if not holds_only(directory, FILES):
                return None
            found = [(directory / name).stat() for name in FILES]
        except OSError:
            return None
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)

    def is_whole(self, adapter_id: str, *, base_digest: str | None = None) -> bool:
        """Whether the files are there at their sizes: cheap enough for a rollback. `base_digest`: also made for it."""
        directory = self._path / adapter_id
        try:
            body = json.loads((directory / MANIFEST).read_bytes())
            return (
                base_digest in (None, body["base_digest"])
                and holds_only(directory, FILES)
                and all((directory / name).stat().st_size == file["size_bytes"] for name, file in body["files"].items())
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
