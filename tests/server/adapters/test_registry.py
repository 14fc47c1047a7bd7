"""Uploading, publishing, and what a crash leaves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from server import faults
from server.adapters import uploads
from server.errors import BadRequest, Busy, Forbidden, NotFound, PlumblineError, StorageUnavailable, TooLarge
from server.store import adapters, leases, schema
from server.store.records import AdapterState
from tests.server.adapters.support import (
    ALIAS,
    World,
    adapter_bytes,
    config_bytes,
    manifest_for,
    open_world,
    stream,
)


async def test_a_published_adapter_is_three_files_named_by_what_they_hold(world: World) -> None:
    """Number and content digest make the id; the base model's name is the engine's, whatever the uploader wrote."""
    record = await world.upload(objective={"sigmoid": 1.0})
    directory = world.directory / "adapters" / record.id
    assert {path.name for path in directory.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    }
    config = json.loads((directory / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/model"
    assert json.loads((directory / "manifest.json").read_text()) == record.manifest
    assert record.id == f"a00001-{record.manifest['digest'][:12]}"
    assert record.state is AdapterState.STAGED
    assert await world.registry.verify(record.id)
    assert world.registry.is_intact(record.id)
    assert [report.kind for report in await world.registry.reports(record.id)] == ["integrity"]
    assert not list((world.directory / "uploads").iterdir())


async def test_ids_are_never_used_twice(world: World) -> None:
    """The same content again is another adapter, at another path."""
    tensors = adapter_bytes(seed=1)
    ids = [(await world.upload(tensors=tensors)).id for _ in range(3)]
    assert len(set(ids)) == 3
    assert len({adapter_id.partition("-")[2] for adapter_id in ids}) == 1


async def test_a_refused_adapter_leaves_a_note_and_no_file(world: World) -> None:
    """Nothing is published, the upload is gone, and operators can read why."""
    with pytest.raises(BadRequest, match="auto_map"):
        await world.upload(config=config_bytes(auto_map={"AutoModel": "evil.py"}))
    assert await world.registry.find() == []
    assert not list((world.directory / "adapters").iterdir())
    assert not list((world.directory / "uploads").iterdir())
    assert (await world.upload()).state is AdapterState.STAGED


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"alias": "nobody"}, NotFound),
        ({"base_digest": "1" * 64}, BadRequest),
        ({"parent": "a00007-unknown"}, BadRequest),
        ({"lease_token": 3}, Forbidden),
    ],
)
async def test_what_the_manifest_gives_away_is_refused_at_once(
    change: dict[str, Any], error: type[PlumblineError], world: World
) -> None:
    """Unknown alias, other base model, unknown parent, no lease: no byte of a file is taken."""
    with pytest.raises(error):
        await world.registry.begin(manifest_for(b"{}", b"x", **change))


def test_only_the_two_files_can_be_named() -> None:
    """A manifest with a pickle, a path or a third file is no manifest."""
    good = manifest_for(b"{}", b"x").model_dump()
    for name in ("adapter_model.bin", "../adapter_config.json", "training_args.bin"):
        files = [{**good["files"][0], "name": name}, good["files"][1]]
        with pytest.raises(ValueError, match="files"):
            type(manifest_for(b"{}", b"x")).model_validate({**good, "files": files})


async def test_files_are_held_to_their_size_and_hash(world: World) -> None:
    """Too long is cut off while it arrives; too short or different is refused; then the file can be sent again."""
    config, tensors = config_bytes(), adapter_bytes()
    upload = await world.registry.begin(manifest_for(config, tensors))
    name = "adapter_model.safetensors"
    with pytest.raises(TooLarge):
        await world.registry.put_file(upload.id, name, stream(tensors + b"x"))
    for wrong in (tensors[:-1], tensors[:-1] + b"\xff"):
        with pytest.raises(BadRequest) as caught:
            await world.registry.put_file(upload.id, name, stream(wrong))
        assert caught.value.code == "upload_mismatch"
    with pytest.raises(BadRequest):
        await world.registry.put_file(upload.id, name, stream(tensors), hashlib.sha256(b"other").hexdigest())
    for unknown in ("manifest.json", "../x", "adapter_model.bin"):
        with pytest.raises(NotFound):
            await world.registry.put_file(upload.id, unknown, stream(tensors))
    with pytest.raises(BadRequest) as caught:
        await world.registry.commit(upload.id, actor="x")
    assert caught.value.code == "upload_incomplete"
    assert (await world.registry.put_file(upload.id, name, stream(tensors))).missing == ["adapter_config.json"]
    await world.registry.put_file(upload.id, "adapter_config.json", stream(config))
    record = await world.registry.commit(upload.id, actor="x")
    with pytest.raises(NotFound):
        await world.registry.commit(upload.id, actor="x")
    assert await world.registry.verify(record.id)


async def test_a_commit_of_unknown_outcome_keeps_the_files(world: World) -> None:
    """Where the database did not say whether the row is there, it is never a row without files."""
    with faults.armed("store.after_commit=fail@2"), pytest.raises(StorageUnavailable):  # the first takes the number
        await world.upload()
    [record] = await world.registry.find()
    assert await world.registry.verify(record.id)
    await world.upload()
    assert await world.registry.verify(record.id)


async def test_files_whose_row_was_not_written_do_not_stay(world: World) -> None:
    """As soon as the database answers again, the next upload removes them: a full disk gets its room back."""
    with faults.armed("store.before_commit=fail:ENOSPC@2"), pytest.raises(StorageUnavailable):
        await world.upload()
    assert len(list((world.directory / "adapters").iterdir())) == 1
    await world.registry.begin(manifest_for(b"{}", b"x"))
    assert list((world.directory / "adapters").iterdir()) == []
    record = await world.upload()
    assert [entry.name for entry in (world.directory / "adapters").iterdir()] == [record.id]


async def test_open_uploads_are_bounded(world: World) -> None:
    """Learners that go away cannot fill the disk with sessions."""
    for _ in range(uploads.MAX_SESSIONS):
        await world.registry.begin(manifest_for(b"{}", b"x"))
    with pytest.raises(Busy):
        await world.registry.begin(manifest_for(b"{}", b"x"))


async def test_a_full_disk_refuses_the_upload(tmp_path: Path) -> None:
    """Less free than the configured reserve: 503, nothing written."""
    world = await open_world(tmp_path, min_free_bytes=2**62)
    with pytest.raises(StorageUnavailable):
        await world.registry.begin(manifest_for(b"{}", b"x"))
    await world.database.close()


async def test_a_lost_lease_publishes_nothing(world: World) -> None:
    """The lease may be lost between the first byte and the commit: what counts is the moment of the commit."""
    now = world.clock()
    lease = await world.database.write(lambda c: leases.take_lease(c, ALIAS, "one", now, 60))
    assert lease is not None
    config, tensors = config_bytes(), adapter_bytes()
    upload = await world.registry.begin(manifest_for(config, tensors, lease_token=lease.token))
    await world.registry.put_file(upload.id, "adapter_config.json", stream(config))
    await world.registry.put_file(upload.id, "adapter_model.safetensors", stream(tensors))
    world.clock.now += 61
    await world.database.write(lambda c: leases.take_lease(c, ALIAS, "two", world.clock(), 60))
    with pytest.raises(Forbidden) as caught:
        await world.registry.commit(upload.id, actor="one")
    assert caught.value.code == "lease_lost"
    assert await world.registry.find() == []
    assert not list((world.directory / "adapters").iterdir())


async def test_training_adapters_are_few(world: World) -> None:
    """Of ephemeral adapters the newest two are alive; older ones are gone, row and files."""
    records = [await world.upload(ephemeral=True) for _ in range(4)]
    assert set(await world.states()) == {records[2].id, records[3].id}
    assert {path.name for path in (world.directory / "adapters").iterdir()} == {records[2].id, records[3].id}
    await world.registry.delete_ephemeral(records[3].id, actor="x")
    await world.database.close()
    two = await open_world(world.directory, aliases=[ALIAS, "other"])
    others = [await two.upload(ephemeral=True, alias="other") for _ in range(3)]
    assert set(await two.states()) == {records[2].id, others[1].id, others[2].id}, "an alias's own make room"
    await two.database.close()


async def test_only_ephemeral_adapters_are_deleted_and_none_is_a_parent(world: World) -> None:
    """What may be routed stays for ever."""
    ephemeral = await world.upload(ephemeral=True)
    staged = await world.upload()
    with pytest.raises(NotFound):
        await world.registry.delete_ephemeral(staged.id, actor="x")
    with pytest.raises(BadRequest):
        await world.upload(parent=ephemeral.id)


async def test_only_verified_adapters_answer_by_id(world: World) -> None:
    """Staged and unknown ones do not exist for whoever asks by id."""
    staged = await world.upload()
    for adapter in (staged.id, "a99999-unknown", "../x"):
        with pytest.raises(NotFound) as caught:
            await world.registry.servable(adapter)
        assert caught.value.code == "model_not_found"
    await world.registry.advance(staged.id, AdapterState.VERIFIED, actor="x")
    assert (await world.registry.servable(staged.id)).id == staged.id


async def test_lineage_names_both_directions(world: World) -> None:
    """Ancestors nearest first down to base, descendants oldest first."""
    first = (await world.upload()).id
    second = (await world.upload(parent=first)).id
    third = (await world.upload(parent=second)).id
    assert await world.registry.lineage(second) == ([first, "base"], [third])


async def test_a_move_made_meanwhile_is_not_overwritten(world: World) -> None:
    """The server's step is refused when an operator was faster."""
    adapter = (await world.upload()).id
    assert await world.registry.advance(adapter, AdapterState.REJECTED, actor="rollout")
    assert not await world.registry.advance(adapter, AdapterState.VERIFIED, actor="rollout")
    assert await world.state(adapter) is AdapterState.REJECTED


# --- crash points -----------------------------------------------------------------------------------------


async def test_a_crash_before_the_rename_leaves_nothing(tmp_path: Path) -> None:
    """K13: a temporary directory is cleared at the next start."""
    world = await open_world(tmp_path)
    await world.upload()
    await world.database.write(adapters.next_number)  # what was interrupted had taken its number
    await world.database.close()
    leftover = tmp_path / "adapters" / ".a00002-0123456789ab.cafe"
    leftover.mkdir()
    (leftover / "adapter_model.safetensors").write_bytes(b"half")
    again = await open_world(tmp_path)
    assert not leftover.exists()
    assert [record.number for record in (*await again.registry.find(), await again.upload())] == [1, 3]
    await again.database.close()


async def test_a_crash_between_rename_and_row_leaves_an_orphan_that_is_cleared(tmp_path: Path) -> None:
    """K14: the directory is there, the row is not; after the restart neither is, and the number is not used again."""
    world = await open_world(tmp_path)
    record = await world.upload()
    await world.database.write(lambda c: c.execute(schema.adapters.delete()))  # as if the row had never been written
    await world.database.close()
    assert (tmp_path / "adapters" / record.id).is_dir()
    again = await open_world(tmp_path)
    assert not list((tmp_path / "adapters").iterdir())
    assert (await again.upload()).number == 2
    await again.database.close()


async def test_a_row_that_cannot_be_written_takes_its_directory_back(world: World) -> None:
    """The database refuses: nothing is published, the caller knows, and the next upload works."""

    def refuse(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TRIGGER no BEFORE INSERT ON adapters BEGIN SELECT RAISE(ABORT, 'no'); END")

    await world.database.write(refuse)
    with pytest.raises(Exception, match="no"):
        await world.upload()
    assert not list((world.directory / "adapters").iterdir())
    await world.database.write(lambda c: c.exec_driver_sql("DROP TRIGGER no"))
    assert (await world.upload()).number == 2


async def test_an_upload_in_progress_does_not_outlive_its_process(tmp_path: Path) -> None:
    """The uploader is told that its upload is unknown, and begins anew."""
    world = await open_world(tmp_path)
    upload = await world.registry.begin(manifest_for(b"{}", b"x"))
    await world.registry.put_file(upload.id, "adapter_config.json", stream(b"{}"))
    await world.database.close()
    again = await open_world(tmp_path)
    with pytest.raises(NotFound):
        await again.registry.put_file(upload.id, "adapter_model.safetensors", stream(b"x"))
    assert not list((tmp_path / "uploads").iterdir())
    await again.database.close()
