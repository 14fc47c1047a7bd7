"""Images by content: one contract for the local disk and for object stores."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from server import faults
from server.config import StoreConfig
from server.errors import StorageUnavailable
from server.store.blobs import BlobStore, LocalBlobs, RemoteBlobs
from server.store.opening import open_blobs, open_remote_files
from server.store.remote import RemoteFiles

DATA = b"the bytes of an image"
SHA256 = hashlib.sha256(DATA).hexdigest()


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Clock:
    """The clock of a server, ahead of the store's by `ahead_s`."""

    ahead_s = 0.0

    def __call__(self) -> float:
        import time

        return time.time() + self.ahead_s


class Place:
    """A blob store, and a way behind its back."""

    def __init__(self, blobs: BlobStore, write: Callable[[str, bytes], None], names: Callable[[], set[str]]) -> None:
        self.blobs = blobs
        self.write = write
        """Put something under a blob's name."""
        self.names = names
        """All names there are."""


def local_place(directory: Path, clock: Clock) -> Place:
    def write(name: str, data: bytes) -> None:
        (directory / name[:2] / name).write_bytes(data)

    def names() -> set[str]:
        return {path.name for path in directory.rglob("*") if path.is_file()}

    return Place(LocalBlobs(directory, clock=clock), write, names)


def remote_place(url: str, clock: Clock) -> Place:
    from fsspec.core import url_to_fs

    system, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)

    def write(name: str, data: bytes) -> None:
        system.pipe_file(f"{root}/media/{name[0]}/{name}", data)

    def names() -> set[str]:
        return {path.rpartition("/")[2] for path in system.find(root)}

    return Place(RemoteBlobs(RemoteFiles(url), clock=clock), write, names)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Place:
    if request.param == "local":
        return local_place(tmp_path / "media", clock)
    url = request.getfixturevalue("s3_url") if request.param == "s3" else f"memory://{uuid.uuid4().hex}"
    return remote_place(url, clock)


async def test_what_was_put_is_there(place: Place) -> None:
    """Content comes back as it was, by its hash; what was never put is not there."""
    assert await place.blobs.get(SHA256) is None
    await place.blobs.put(SHA256, DATA)
    assert await place.blobs.get(SHA256) == DATA


async def test_the_same_content_is_kept_once(place: Place) -> None:
    """However often and however concurrently it comes; no temporary name is left."""
    await asyncio.gather(*(place.blobs.put(SHA256, DATA) for _ in range(8)))
    assert place.names() == {SHA256}


@pytest.mark.parametrize("changed", [b"THE bytes of an image", b"the bytes", b""])
async def test_damaged_content_reads_as_nothing(place: Place, changed: bytes) -> None:
    """No byte is given out that does not match its hash."""
    await place.blobs.put(SHA256, DATA)
    place.write(SHA256, changed)
    assert await place.blobs.get(SHA256) is None


async def test_content_that_lost_bytes_is_written_again(place: Place) -> None:
    """A truncated file does not stand in the way of the whole one."""
    place.write(SHA256, DATA[:5])
    await place.blobs.put(SHA256, DATA)
    assert await place.blobs.get(SHA256) == DATA


async def test_known_content_is_written_again_only_when_it_is_old(place: Place, clock: Clock) -> None:
    """So what is about to be referred to again never looks old to a sweep."""
    other = DATA[::-1]  # shows whether a put writes: the size is the same
    place.write(SHA256, other)
    await place.blobs.put(SHA256, DATA)
    assert await place.blobs.get(SHA256) is None
    clock.ahead_s = 2 * 3600.0
    await place.blobs.put(SHA256, DATA)
    assert await place.blobs.get(SHA256) == DATA


async def test_what_was_deleted_is_gone(place: Place) -> None:
    """Deleting twice is no failure, and touches nothing else."""
    other = b"another image"
    other_sha256 = hashlib.sha256(other).hexdigest()
    await place.blobs.put(SHA256, DATA)
    await place.blobs.put(other_sha256, other)
    await place.blobs.delete(SHA256)
    await place.blobs.delete(SHA256)
    assert await place.blobs.get(SHA256) is None
    assert place.names() == {other_sha256}


async def test_a_scan_sees_every_blob_with_its_time(place: Place, clock: Clock) -> None:
    """Each once, dated by when it was written; files of other names are no blobs."""
    before = clock() - 2  # object stores keep whole seconds
    contents = {hashlib.sha256(data).hexdigest(): data for data in (bytes([i]) * 9 for i in range(20))}
    for sha256, data in contents.items():
        await place.blobs.put(sha256, data)
    place.write(f"{SHA256[:2]}.unfinished", b"")
    found = [entry async for entry in place.blobs.scan()]
    assert sorted(sha256 for sha256, _ in found) == sorted(contents)
    assert all(before <= at <= clock() + 2 for _, at in found)


async def test_an_empty_store_scans_as_empty(place: Place) -> None:
    """Nothing kept yet is no failure."""
    assert [entry async for entry in place.blobs.scan()] == []


async def test_a_full_or_broken_disk_says_so(tmp_path: Path) -> None:
    """No acknowledgement, no absence: `StorageUnavailable`, and nothing half written."""
    place = local_place(tmp_path / "media", Clock())
    folder = tmp_path / "media" / SHA256[:2]
    folder.rmdir()
    folder.write_bytes(b"in the way")
    for call in (place.blobs.put(SHA256, DATA), place.blobs.get(SHA256), place.blobs.delete(SHA256)):
        with pytest.raises(StorageUnavailable):
            await call
    assert place.names() == {folder.name}


async def test_a_name_that_was_not_synced_is_synced_by_the_next_put(tmp_path: Path) -> None:
    """Between a rename and the sync of its directory a write may fail: the name is there and may not last."""
    blobs = local_place(tmp_path / "media", Clock()).blobs
    for fault in ("file.after_rename=fail", "file.sync_names=fail", "file.sync_names=fail"):
        with faults.armed(fault), pytest.raises(StorageUnavailable):
            await blobs.put(SHA256, DATA)
    await blobs.put(SHA256, DATA)
    with faults.armed("file.*=fail") as plan:
        await blobs.put(SHA256, DATA)  # known, and known to last: one look
    assert plan.acted == 0


async def test_a_name_of_an_earlier_process_is_synced_once(tmp_path: Path) -> None:
    """Whoever gave it may have died before it synced; a look costs a sync only the first time."""
    await local_place(tmp_path / "media", Clock()).blobs.put(SHA256, DATA)
    blobs = local_place(tmp_path / "media", Clock()).blobs
    with faults.armed("file.sync_names=fail"), pytest.raises(StorageUnavailable):
        await blobs.put(SHA256, DATA)
    await blobs.put(SHA256, DATA)
    with faults.armed("file.sync_names=fail"):
        await blobs.put(SHA256, DATA)


async def test_a_name_that_is_being_given_is_synced_by_whoever_finds_it(tmp_path: Path) -> None:
    """The first writer has renamed and not synced yet: the second confirms nothing before its own sync."""
    blobs = local_place(tmp_path / "media", Clock()).blobs
    await blobs.put(SHA256, DATA)
    await blobs.put(SHA256, DATA)  # its folder is known to last
    other = next(data for n in range(10_000) if sha256_of(data := b"%d" % n)[:2] == SHA256[:2])
    with faults.armed("file.after_rename=delay:300"):
        first = asyncio.create_task(blobs.put(sha256_of(other), other))
        await asyncio.sleep(0.1)
        with faults.armed("file.sync_names=fail"), pytest.raises(StorageUnavailable):
            await blobs.put(sha256_of(other), other)
        await first


async def test_a_store_that_does_not_answer_says_so(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`StorageUnavailable` for every call, never an error of the library's own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    blobs = remote_place(s3_url, Clock()).blobs
    for call in (blobs.put(SHA256, DATA), blobs.get(SHA256), blobs.delete(SHA256), anext(aiter(blobs.scan()))):
        with pytest.raises(StorageUnavailable):
            await call


async def test_a_bucket_that_is_not_there_is_no_place_to_write(s3_url: str) -> None:
    """Nothing is acknowledged, and no bucket is made."""
    with pytest.raises(StorageUnavailable):
        await remote_place(f"{s3_url.rpartition('/some')[0]}-not-there", Clock()).blobs.put(SHA256, DATA)


@pytest.mark.parametrize(
    ("url", "reason"),
    [("file:///tmp/x", "store.directory"), ("nosuchkind://bucket", "nosuchkind")],
)
def test_what_is_no_object_store_is_refused(url: str, reason: str) -> None:
    """A local directory would not be durable as the local store is; an unknown kind is named."""
    with pytest.raises(ValueError, match=reason):
        open_remote_files(StoreConfig(blobs=url))


def test_the_place_follows_the_configuration(tmp_path: Path) -> None:
    """Nothing set: the state directory."""
    assert open_remote_files(StoreConfig()) is None
    assert isinstance(open_blobs(StoreConfig(directory=tmp_path), None), LocalBlobs)
    remote = open_remote_files(StoreConfig(blobs="memory://x"))
    assert isinstance(open_blobs(StoreConfig(directory=tmp_path), remote), RemoteBlobs)


@pytest.mark.parametrize("url", ["bucket/prefix", "s3://key:secret@bucket", "s3://bucket?x=1"])
def test_no_secret_stands_in_the_url(url: str) -> None:
    """Credentials come from the environment."""
    with pytest.raises(ValueError, match="blobs"):
        StoreConfig(blobs=url)
