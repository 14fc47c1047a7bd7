"""How the bytes of an adapter arrive: in pieces, cut off, silent, too late, onto a full disk."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

import pytest
from starlette.requests import ClientDisconnect

from server import faults
from server.adapters import uploads
from server.adapters.uploads import Upload
from server.errors import BadRequest, ClientGone, NotFound, StorageUnavailable, TooLarge
from tests.server.adapters.support import World, adapter_bytes, config_bytes, manifest_for, stream, until

NAME = "adapter_model.safetensors"
CONFIG, TENSORS = config_bytes(r=4), adapter_bytes(rank=4, inputs=300, outputs=300)


@pytest.fixture
async def upload(world: World) -> Upload:
    """An open upload that still waits for the tensors."""
    upload = await world.registry.begin(manifest_for(CONFIG, TENSORS))
    return await world.registry.put_file(upload.id, "adapter_config.json", stream(CONFIG))


async def cut_off(data: bytes, error: Exception) -> AsyncIterator[bytes]:
    """A connection that breaks after these bytes."""
    async for chunk in stream(data):
        yield chunk
    raise error


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def arrives_whole(world: World, upload: Upload) -> None:
    assert upload.missing == []
    assert (upload.directory / NAME).read_bytes() == TENSORS
    assert (await world.registry.commit(upload.id, actor="x")).number == 1


async def test_pieces_make_a_file(world: World, upload: Upload) -> None:
    """Each with its own hash; the last one's reply says that nothing is missing."""
    for offset in range(0, len(TENSORS), 1000):
        piece = TENSORS[offset : offset + 1000]
        assert upload.missing == [NAME]
        await world.registry.put_file(upload.id, NAME, stream(piece, 300), sha256(piece), offset=offset)
    await arrives_whole(world, upload)


async def test_a_piece_whose_reply_was_lost_is_sent_again(world: World, upload: Upload) -> None:
    """Also where more than it is there by now, or the whole file is: nothing is written twice."""
    for begin, end in ((0, 1000), (0, 1000), (500, 2000), (0, 700), (2000, len(TENSORS)), (2000, len(TENSORS))):
        piece = TENSORS[begin:end]
        await world.registry.put_file(upload.id, NAME, stream(piece), sha256(piece), offset=begin)
    await arrives_whole(world, upload)


async def test_what_came_before_a_connection_broke_is_kept(
    world: World, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender goes on where the file stands, and not beyond."""
    monkeypatch.setattr(uploads, "WRITE_BYTES", 1000)
    with pytest.raises(ClientDisconnect):
        await world.registry.put_file(upload.id, NAME, cut_off(TENSORS[:3000], ClientDisconnect()))
    assert upload.parts[NAME].size_bytes == 3000
    with pytest.raises(BadRequest, match="byte 3000") as caught:
        await world.registry.put_file(upload.id, NAME, stream(TENSORS[3001:]), offset=3001)
    assert caught.value.code == "upload_mismatch"
    await world.registry.put_file(upload.id, NAME, stream(TENSORS[3000:]), offset=3000)
    await arrives_whole(world, upload)


async def test_a_piece_that_differs_from_its_hash_changes_nothing(world: World, upload: Upload) -> None:
    """Sent again, it fits: nobody has to begin anew."""
    await world.registry.put_file(upload.id, NAME, stream(TENSORS[:2000]), offset=0)
    with pytest.raises(BadRequest, match="piece"):
        await world.registry.put_file(upload.id, NAME, stream(b"\0" * 500), sha256(TENSORS[2000:2500]), offset=2000)
    with pytest.raises(TooLarge):
        await world.registry.put_file(upload.id, NAME, stream(TENSORS), offset=2000)
    assert upload.parts[NAME].size_bytes == 2000
    await world.registry.put_file(upload.id, NAME, stream(TENSORS[2000:]), offset=2000)
    await arrives_whole(world, upload)


async def test_pieces_that_make_another_file_are_refused(world: World, upload: Upload) -> None:
    """What counts is the manifest's hash: then the file begins anew."""
    with pytest.raises(BadRequest, match="sha256"):
        await world.registry.put_file(upload.id, NAME, stream(bytes(len(TENSORS))), offset=0)
    assert upload.parts[NAME].size_bytes == 0
    await world.registry.put_file(upload.id, NAME, stream(TENSORS))
    await arrives_whole(world, upload)


async def test_two_senders_of_one_file_take_turns(world: World, upload: Upload) -> None:
    """Whoever is second repeats what is there."""
    await asyncio.gather(*(world.registry.put_file(upload.id, NAME, stream(TENSORS, 100), offset=0) for _ in range(4)))
    await arrives_whole(world, upload)


async def test_a_silent_sender_is_let_go(world: World, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request ends, its bytes stay; another connection goes on."""
    monkeypatch.setattr(uploads, "STALLED_S", 0.05)

    async def stalled() -> AsyncIterator[bytes]:
        yield TENSORS[:1000]
        await asyncio.Event().wait()

    with pytest.raises(ClientGone):
        await world.registry.put_file(upload.id, NAME, stalled())
    await world.registry.put_file(upload.id, NAME, stream(TENSORS), offset=0)
    await arrives_whole(world, upload)


async def test_an_upload_that_nobody_touches_is_swept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files go without anybody else having to come; one that is in use stays."""
    monkeypatch.setattr(uploads, "IDLE_S", 0.3)
    left = await world.registry.begin(manifest_for(CONFIG, TENSORS))
    await world.registry.put_file(left.id, "adapter_config.json", stream(CONFIG))
    used = await world.registry.begin(manifest_for(CONFIG, TENSORS))

    async def is_swept() -> bool:
        await world.registry.put_file(used.id, NAME, stream(TENSORS[:10]), offset=0)
        return not left.directory.exists()

    await until(is_swept)
    with pytest.raises(NotFound):
        await world.registry.put_file(left.id, NAME, stream(TENSORS))
    assert used.directory.exists()


async def test_a_full_disk_in_the_middle_of_a_file(
    world: World, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The piece is refused and cut off; with room again the same piece is taken."""
    monkeypatch.setattr(uploads, "WRITE_BYTES", 500)
    await world.registry.put_file(upload.id, NAME, stream(TENSORS[:1000]), offset=0)
    with faults.armed("upload.write=fail:ENOSPC@2"), pytest.raises(StorageUnavailable):
        await world.registry.put_file(upload.id, NAME, stream(TENSORS[1000:], 500), offset=1000)
    assert (upload.directory / f".{NAME}.part").stat().st_size == upload.parts[NAME].size_bytes == 1000
    await world.registry.put_file(upload.id, NAME, stream(TENSORS[1000:]), offset=1000)
    await arrives_whole(world, upload)


@pytest.mark.parametrize("at", ["file.before_rename", "file.after_rename", "file.sync_names", "adapter.*_rename"])
@pytest.mark.parametrize("hit", [1, 2])
async def test_a_full_disk_while_publishing(world: World, at: str, hit: int) -> None:
    """Nothing is half published, nothing is left behind, and the next upload works."""
    with faults.armed(f"{at}=fail:ENOSPC@{hit}"), pytest.raises(StorageUnavailable):
        await world.upload()
    assert await world.registry.find() == []
    assert list((world.directory / "adapters").iterdir()) == []
    assert list((world.directory / "uploads").iterdir()) == []
    record = await world.upload()
    assert await world.registry.verify(record.id)


async def test_what_belongs_to_nothing_is_found(world: World) -> None:
    """Among adapters and uploads, once it is too old to be on its way; the next start removes it."""
    await world.upload()
    await world.registry.begin(manifest_for(CONFIG, TENSORS))
    strangers = [
        world.directory / "adapters" / "a00009-0123456789ab",
        world.directory / "adapters" / ".a00009-0123456789ab.cafe",
        world.directory / "uploads" / "upload-of-an-earlier-process",
    ]
    for stranger in strangers:
        stranger.mkdir()
    (world.directory / "adapters" / "notes.txt").write_text("x")
    (world.directory / "adapters" / "link").symlink_to(world.directory)
    now = time.time()
    assert await world.registry.check(now) == []
    found = await world.registry.check(now + 5 * 3600)
    assert [what.partition(" ")[0] for what, _ in found] == [
        ".a00009-0123456789ab.cafe",
        "a00009-0123456789ab",
        "link",
        "notes.txt",
        "upload-of-an-earlier-process",
    ]
    assert {remedy for _, remedy in found} == {"the next start of the server removes it"}
    await world.registry.start()
    assert await world.registry.check(now + 5 * 3600) == []
    assert world.directory.exists()
