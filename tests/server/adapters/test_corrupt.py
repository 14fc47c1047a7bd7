"""A published adapter that is no longer what was published: refused at verification and at every load."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from server.adapters.files import CONFIG, MANIFEST, TENSORS
from server.errors import BadRequest, NotFound
from server.store.records import AdapterState as S
from server.wire.base import BASE
from tests.server.adapters.support import ALIAS, OPERATOR, World, open_world


def flip(directory: Path) -> None:
    """One bit, as a disk does it: nothing else of the file changes."""
    path = directory / TENSORS
    at = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))


def overwrite(directory: Path) -> None:
    (directory / TENSORS).write_bytes(bytes((directory / TENSORS).stat().st_size))


def truncate(directory: Path) -> None:
    os.truncate(directory / TENSORS, (directory / TENSORS).stat().st_size - 1)


def lose_the_tensors(directory: Path) -> None:
    (directory / TENSORS).unlink()


def lose_all(directory: Path) -> None:
    shutil.rmtree(directory)


def change_the_hash(directory: Path) -> None:
    """Tensors and manifest fit each other, and not the row."""
    body = json.loads((directory / MANIFEST).read_text())
    body["files"][TENSORS]["sha256"] = "0" * 64
    (directory / MANIFEST).write_text(json.dumps(body))


def change_the_base(directory: Path) -> None:
    body = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps({**body, "base_digest": "1" * 64}))


def scale_it(directory: Path) -> None:
    """A configuration of the same length that multiplies everything."""
    text = (directory / CONFIG).read_text()
    (directory / CONFIG).write_text(text.replace('"lora_alpha": 4', '"lora_alpha": 9'))


def add_a_pickle(directory: Path) -> None:
    """What an engine might load in place of the tensors."""
    (directory / "adapter_model.bin").write_bytes(b"\x80\x04.")


def link_the_tensors(directory: Path) -> None:
    """The same bytes, elsewhere, where somebody can change them."""
    elsewhere = directory.parent.parent / "elsewhere"
    (directory / TENSORS).rename(elsewhere)
    (directory / TENSORS).symlink_to(elsewhere)


def link_the_directory(directory: Path) -> None:
    elsewhere = directory.parent.parent / "elsewhere"
    directory.rename(elsewhere)
    directory.symlink_to(elsewhere)


Damage = Callable[[Path], None]
DAMAGES: list[Damage] = [
    flip,
    overwrite,
    truncate,
    lose_the_tensors,
    lose_all,
    change_the_hash,
    change_the_base,
    scale_it,
    add_a_pickle,
    link_the_tensors,
    link_the_directory,
]
UNSEEN = [flip]
"""What the look that is cheap enough for a rollback cannot see while the server runs."""
EACH = pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)


async def restarted(world: World, **settings: str) -> World:
    await world.database.close()
    return await open_world(world.directory, clock=world.clock, **settings)


@EACH
async def test_it_fails_verification(world: World, damage: Damage) -> None:
    """By hash against the row; the check of the whole state names it."""
    adapter = await world.gated()
    assert await world.registry.verify(adapter)
    damage(world.registry.path(adapter))
    assert not await world.registry.verify(adapter)
    assert not world.registry.is_intact(adapter)
    [(what, remedy)] = await world.registry.check(world.clock())
    assert adapter in what
    assert "quarantine" in remedy


@EACH
async def test_nothing_new_is_routed_to_it(world: World, damage: Damage) -> None:
    """Neither as a canary nor as the active one, not even by force."""
    adapter = await world.gated()
    damage(world.registry.path(adapter))
    moves: list[Awaitable[object]] = [
        world.router.start_canary(adapter, 0.5, OPERATOR),
        world.router.promote(adapter, OPERATOR),
    ]
    for move in moves:
        with pytest.raises(BadRequest) as caught:
            await move
        assert caught.value.code == "adapter_damaged"
    assert world.router.current(ALIAS).generation == 0
    assert await world.state(adapter) is S.GATED


@EACH
async def test_nobody_gets_it_by_its_id(world: World, damage: Damage) -> None:
    """Operators and the learner are told that the model is not there."""
    adapter = await world.gated()
    await world.registry.servable(adapter)
    damage(world.registry.path(adapter))
    if damage in UNSEEN:
        world = await restarted(world)
    with pytest.raises(NotFound) as caught:
        await world.registry.servable(adapter)
    assert caught.value.code == "model_not_found"
    if damage in UNSEEN:
        await world.database.close()


@EACH
async def test_a_start_routes_away_from_it(world: World, damage: Damage) -> None:
    """The active one and the canary are read whole before the first request; what is sound takes over."""
    first, second, third = await world.active(), await world.active(), await world.gated()
    await world.router.start_canary(third, 0.5, OPERATOR)
    for adapter in (second, third):
        damage(world.registry.path(adapter))
        shutil.rmtree(world.directory / "elsewhere", ignore_errors=True)
        (world.directory / "elsewhere").unlink(missing_ok=True)
    again = await restarted(world)
    await again.router.heal()
    routing = again.router.current(ALIAS)
    assert (routing.active, routing.canary) == (first, None)
    assert await again.states() == {first: S.ACTIVE, second: S.ROLLED_BACK, third: S.ROLLED_BACK}
    await again.check()
    await again.database.close()


@EACH
async def test_a_rollback_does_not_go_to_it(world: World, damage: Damage) -> None:
    """It passes on to what is sound, base at last."""
    first, _ = await world.active(), await world.active()
    damage(world.registry.path(first))
    if damage in UNSEEN:
        world = await restarted(world)
        await world.router.heal()  # this reads the way back, too
    assert (await world.router.rollback(ALIAS, OPERATOR)).active == BASE
    await world.check()
    if damage in UNSEEN:
        await world.database.close()


async def test_an_adapter_of_another_base_model_is_not_served(world: World) -> None:
    """Where the engine's model was changed: the files are whole, and say nothing to it."""
    adapter = await world.active()
    again = await restarted(world, base_digest="2" * 64)
    assert not await again.registry.verify(adapter)
    assert not again.registry.is_intact(adapter)
    with pytest.raises(NotFound):
        await again.registry.servable(adapter)
    assert await again.registry.check(again.clock()) == [
        (
            f"adapter {adapter} was trained on another base model",
            "restore the state from a backup, or quarantine the adapter",
        )
    ]
    await again.router.heal()
    assert again.router.current(ALIAS).active == BASE
    await again.database.close()
