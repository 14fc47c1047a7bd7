"""The base model's identity: server and learner must find the same before anything is trained."""

from __future__ import annotations

import hashlib
from pathlib import Path

MODEL_FILE_SUFFIXES = frozenset({".json", ".jinja", ".safetensors", ".txt", ".model"})


def directory_digest(directory: Path) -> str:
    """Digest of a model directory: sha256 over the lines "name sha256" of its model files, sorted by name.

    Server and learner compute it each for itself and must find the same before anything is trained.
    """
    lines = []
    for file in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if file.suffix in MODEL_FILE_SUFFIXES and file.is_file():
            with file.open("rb") as content:
                lines.append(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
