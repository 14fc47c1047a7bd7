"""Several servers, one database, one object store: each can serve what any of them published."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.adapters.mirror import AdapterMirror
from server.adapters.registry import AdapterRegistry
from server.errors import NotFound, StorageUnavailable
from server.store import adapters as rows
from server.store.postgres import PostgresDatabase
from server.store.records import AdapterState
from server.store.remote import RemoteFiles
from tests.postgres_fixture import Cluster
from tests.server.adapters.support import ALIAS, DIGEST, Clock, adapter_bytes, config_bytes, manifest_for, stream


class Server:
    """One server's registry, on a disk of its own."""

    def __init__(self, directory: Path, database_url: str, store_url: str, clock: Clock) -> None:
        self.directory = directory
        self.database_url = database_url
        self.database = PostgresDatabase(database_url, read_connections=2)
        self.files = RemoteFiles(store_url)
        self.registry = AdapterRegistry(
            self.database,
            directory / "adapters",
            directory / "uploads",
            engine_model="some/model",
            base_digest=DIGEST,
            max_lora_rank=4,
            aliases=[ALIAS],
            clock=clock,
            mirror=AdapterMirror(self.files, directory / "adapters"),
        )

    async def start(self) -> None:
        await self.database.start()
        await self.registry.start()

    async def publish(self, *, seed: int = 0, **changes: Any) -> str:
        config, tensors = config_bytes(), adapter_bytes(seed=seed)
        upload = await self.registry.begin(manifest_for(config, tensors, **changes))
        await self.registry.put_file(upload.id, "adapter_config.json", stream(config))
        await self.registry.put_file(upload.id, "adapter_model.safetensors", stream(tensors))
        return (await self.registry.commit(upload.id, actor="learner")).id

    def content(self, adapter_id: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.registry.path(adapter_id).iterdir()}


@pytest.fixture
async def servers(postgres: Cluster, s3_url: str, tmp_path: Path) -> AsyncIterator[tuple[Server, Server]]:
    url, clock = postgres.create(), Clock()
    first, second = (Server(tmp_path / name, url, s3_url, clock) for name in ("first", "second"))
    await first.start()
    await second.start()
    yield first, second
    await first.database.close()
    await second.database.close()
    postgres.drop(url)


async def verified(server: Server) -> str:
    """An adapter that an operator may ask for."""
    adapter = await server.publish()
    await server.registry.advance(adapter, AdapterState.VERIFIED, actor="server")
    return adapter


async def test_what_one_server_published_another_serves(servers: tuple[Server, Server]) -> None:
    """Its own disk lacks the files until somebody asks; then they are there, byte for byte."""
    first, second = servers
    adapter = await verified(first)
    assert not second.registry.is_intact(adapter)
    assert (await second.registry.servable(adapter)).id == adapter
    assert second.content(adapter) == first.content(adapter)
    assert [path.name for path in (second.directory / "adapters").iterdir()] == [adapter]


async def test_a_damaged_copy_is_fetched_anew(servers: tuple[Server, Server]) -> None:
    """One flipped bit on one server's disk costs a download, not the adapter."""
    first, _ = servers
    adapter = await verified(first)
    path = first.registry.path(adapter) / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert await first.registry.verify(adapter)
    assert path.read_bytes() == whole


async def test_what_is_damaged_in_the_store_is_not_taken(servers: tuple[Server, Server]) -> None:
    """Hashes are of the row; nothing that differs gets a name here."""
    first, second = servers
    adapter = await verified(first)
    await first.files.write(f"adapters/{adapter}/adapter_model.safetensors", b"something else")
    assert not await second.registry.verify(adapter)
    with pytest.raises(NotFound):
        await second.registry.servable(adapter)
    assert list((second.directory / "adapters").iterdir()) == []


async def test_nothing_is_staged_that_the_store_lacks(servers: tuple[Server, Server]) -> None:
    """The copy comes before the row: a store that takes nothing refuses the commit, and leaves no directory."""
    first, second = servers
    broken = Server(first.directory, first.database_url, "s3://no-such-bucket/x", Clock())
    await broken.start()
    with pytest.raises(StorageUnavailable):
        await broken.publish()
    assert await second.registry.find() == []
    assert list((first.directory / "adapters").iterdir()) == []
    await broken.database.close()


async def test_a_server_that_lost_its_disk_gets_everything_back(servers: tuple[Server, Server]) -> None:
    """What its engine will be asked for comes from the store."""
    first, _ = servers
    adapter = await verified(first)
    before = first.content(adapter)
    shutil.rmtree(first.directory)
    await first.registry.start()
    assert await first.registry.verify(adapter)
    assert first.content(adapter) == before


async def test_servers_that_publish_at_once_take_numbers_of_their_own(servers: tuple[Server, Server]) -> None:
    """No id is given twice, and none is refused for the other's sake."""
    ids = await asyncio.gather(*(server.publish(seed=seed) for seed in range(4) for server in servers))
    assert len({adapter.partition("-")[0] for adapter in ids}) == 8
    for server in servers:
        assert all([await server.registry.verify(adapter) for adapter in ids])


async def test_an_ephemeral_adapter_leaves_the_store_too(servers: tuple[Server, Server]) -> None:
    """What was forgotten on one server is nowhere."""
    first, second = servers
    adapter = await first.publish(ephemeral=True)
    assert await second.registry.servable(adapter)
    await first.registry.delete_ephemeral(adapter, actor="learner")
    assert await first.files.list("adapters") == []
    with pytest.raises(NotFound):
        await second.registry.servable(adapter)
    assert await second.database.read(lambda c: rows.get_adapter(c, adapter)) is None
