"""A trained adapter → the server's registry, exactly once, whatever is killed in between."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from clients.client import PlumblineClient, PlumblineError
from learner.files import write_atomic
from learner.model import CONFIG_FILE, WEIGHTS_FILE
from server.wire.adapters import AdapterFile, AdapterManifest

FILES = (CONFIG_FILE, WEIGHTS_FILE)


def describe_files(files: Mapping[str, bytes]) -> list[AdapterFile]:
    return [
        AdapterFile.model_validate(
            {"name": name, "size_bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
        )
        for name in FILES
    ]


def find_uploaded(client: PlumblineClient, manifest: AdapterManifest) -> str | None:
    """The id of an adapter that was made of these very weights, when an earlier attempt got through."""
    wanted = next(file.sha256 for file in manifest.files if file.name == WEIGHTS_FILE)
    for adapter in client.adapters(manifest.alias).data:
        if adapter.parent == manifest.parent and adapter.state != "ephemeral":
            described = adapter.manifest or client.adapter(adapter.id).manifest or {}
            if described.get("files", {}).get(WEIGHTS_FILE, {}).get("sha256") == wanted:
                return adapter.id
    return None


def upload_once(client: PlumblineClient, manifest: AdapterManifest, files: Mapping[str, bytes]) -> str:
    """Upload, unless an earlier attempt got through; returns the adapter's id.

    An upload that a restarted server no longer knows (404) is begun again.
    """
    for attempts_left in (2, 1, 0):
        found = find_uploaded(client, manifest)
        if found is not None:
            return found
        try:
            return client.upload_adapter(manifest, files).id
        except PlumblineError as error:
            if error.status != 404 or not attempts_left:
                raise
    raise AssertionError("the last attempt returns or raises")


def keep(files: Mapping[str, bytes], directory: Path) -> None:
    """Store an adapter's files for the rounds that will continue it."""
    directory.mkdir(exist_ok=True)
    for name in FILES:
        write_atomic(directory / name, files[name])


def read_kept(directory: Path) -> dict[str, bytes] | None:
    paths = {name: directory / name for name in FILES}
    return (
        {name: path.read_bytes() for name, path in paths.items()} if all(p.exists() for p in paths.values()) else None
    )


def fetch(client: PlumblineClient, adapter: str) -> dict[str, bytes]:
    """An adapter's files from the server."""
    return {name: client.adapter_file(adapter, name) for name in FILES}
