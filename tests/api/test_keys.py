"""API keys: made, shown once, recognised without a read each time, revoked on every server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server import keys as keys_module
from server.config import Config, StoreConfig
from server.keys import KEY_MEMORY_S, USE_NOTED_EVERY_S, KeyRing
from server.offline import create_key
from server.store import audit
from server.store.database import Database
from server.store.keys import KeyRecord
from server.store.sqlite import SqliteDatabase
from tests.api.conftest import CHAT, Opener, Stack, assert_openai_error, chat_body
from tests.api.keyed import call, open_keyed

WANTED = KeyRecord("", "default", "app", name="site", created_by="test")


@pytest.fixture
async def keyed(open_stack: Opener, tmp_path: Path, store_url: str) -> Stack:
    return await open_keyed(open_stack, tmp_path, url=store_url)


async def test_a_key_lives_from_its_creation_to_its_revocation(keyed: Stack) -> None:
    """Shown once, never listed with its secret, good at once, refused at once; both ends are in the audit trail."""
    made = await call(keyed, "default-operator", "POST", "/v1/keys", json={"role": "app", "name": "site"})
    assert made.status_code == 200, made.text
    key, key_id = made.json()["key"], made.json()["id"]
    assert key.startswith("pk-") and len(key) == 46
    assert (await call(keyed, key, "POST", CHAT, json=chat_body(best_of=1))).status_code == 200
    listed = await call(keyed, "default-operator", "GET", "/v1/keys")
    assert key not in listed.text and "key_hash" not in listed.text
    ours = next(one for one in listed.json()["data"] if one["id"] == key_id)
    assert (ours["name"], ours["tenant"], ours["role"]) == ("site", "default", "app")
    assert ours["created_by"] == "key-default-operator"
    assert abs(ours["last_used_at"] - time.time()) < 60
    revoked = await call(keyed, "default-operator", "DELETE", f"/v1/keys/{key_id}")
    assert revoked.json()["revoked_at"] is not None
    assert_openai_error(await call(keyed, key, "GET", "/v1/models"), 401, "invalid_api_key")
    again = await call(keyed, "default-operator", "DELETE", f"/v1/keys/{key_id}")
    assert again.json() == revoked.json()
    told = await keyed.services.database.read(lambda c: audit.newest(c, 10, key_id))
    assert [(one.action, one.actor) for one in told] == [
        ("revoke_key", "key-default-operator"),
        ("create_key", "key-default-operator"),
    ]


async def test_an_expired_key_is_refused(keyed: Stack) -> None:
    """Also while the server remembers it."""
    body = {"role": "app", "expires_in_s": 0.5}
    key = (await call(keyed, "default-operator", "POST", "/v1/keys", json=body)).json()["key"]
    assert (await call(keyed, key, "GET", "/v1/models")).status_code == 200
    await asyncio.sleep(0.5)
    assert_openai_error(await call(keyed, key, "GET", "/v1/models"), 401, "invalid_api_key")


async def test_the_last_operators_key_is_not_revoked_by_accident(keyed: Stack) -> None:
    """The refusal says how to mend it; `force` does it all the same."""
    gone = await call(keyed, "other-operator", "DELETE", "/v1/keys/key-default-operator")
    assert gone.status_code == 200
    refused = await call(keyed, "other-operator", "DELETE", "/v1/keys/key-other-operator")
    assert_openai_error(refused, 400, "last_operator_key", "force")
    assert (await call(keyed, "other-operator", "GET", "/v1/keys")).status_code == 200
    forced = await call(keyed, "other-operator", "DELETE", "/v1/keys/key-other-operator", params={"force": "true"})
    assert forced.status_code == 200
    assert_openai_error(await call(keyed, "other-operator", "GET", "/v1/keys"), 401, "invalid_api_key")


async def test_only_operators_see_and_make_keys(keyed: Stack) -> None:
    """And what is unknown is not found."""
    for who in ("default-app", "default-learner"):
        for method, path in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/key-default-app")):
            refused = await call(keyed, who, method, path, json={"role": "operator"} if method == "POST" else None)
            assert_openai_error(refused, 403, "insufficient_scope")
    assert_openai_error(await call(keyed, "default-operator", "DELETE", "/v1/keys/none"), 404, "key_not_found")


async def test_the_list_comes_in_pages(keyed: Stack) -> None:
    """Each key once, oldest first."""
    whole = (await call(keyed, "default-operator", "GET", "/v1/keys")).json()
    first = (await call(keyed, "default-operator", "GET", "/v1/keys", params={"limit": 4})).json()
    rest = await call(keyed, "default-operator", "GET", "/v1/keys", params={"after": first["data"][-1]["id"]})
    assert first["has_more"] and not whole["has_more"] and not rest.json()["has_more"]
    assert [one["id"] for one in first["data"] + rest.json()["data"]] == [one["id"] for one in whole["data"]]


# --- what a server remembers ------------------------------------------------------------------------------


class Clock:
    """Both clocks of a server, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Counted:
    """A database that counts its reads."""

    def __init__(self, database: Database) -> None:
        self.reads = 0
        self._database = database
        self.write = database.write

    async def read(self, operation):
        self.reads += 1
        return await self._database.read(operation)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = SqliteDatabase(tmp_path / "test.db", read_connections=2)
    await database.start()
    yield database
    await database.close()


async def test_a_request_costs_no_read_and_a_revocation_reaches_every_server_in_time(database: Database) -> None:
    """Two servers on one database: the one that revokes refuses at once, the other when its memory has run out."""
    clock, here, there = Clock(), Counted(database), Counted(database)
    first, second = (KeyRing(one, clock=clock, monotonic=clock) for one in (here, there))
    key, record = await first.create(WANTED)
    for _ in range(100):
        assert await first.find(key) is not None
        assert await second.find(key) is not None
    assert (here.reads, there.reads) == (1, 1)
    await first.revoke(record.id, actor="test", force=False)
    assert await first.find(key) is None
    clock.now += KEY_MEMORY_S - 0.01
    assert await second.find(key) is not None
    clock.now += 0.02
    assert await second.find(key) is None
    await second.stop()
    await first.stop()


async def test_the_memory_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many keys there are, or are made up."""
    ring = KeyRing(database, clock=time.time, monotonic=time.monotonic)
    monkeypatch.setattr(keys_module, "MAX_REMEMBERED", 3)
    made = [(await ring.create(WANTED))[0] for _ in range(5)]
    for key in (*made, "pk-made-up", "x" * 100_000):
        await ring.find(key)
    assert len(ring._remembered) == 3
    await ring.stop()


async def test_use_is_noted_once_an_hour(database: Database) -> None:
    """Not with each request."""
    clock = Clock()
    ring = KeyRing(database, clock=clock, monotonic=clock)
    key, _ = await ring.create(WANTED)
    commits = database.commits
    for _ in range(20):
        await ring.find(key)
        await ring.stop()
        clock.now += KEY_MEMORY_S
    assert database.commits == commits + 1
    clock.now += USE_NOTED_EVERY_S
    await ring.find(key)
    await ring.stop()
    assert database.commits == commits + 2
    (listed,) = await ring.list(None, 10)
    assert listed.last_used_at == clock.now


async def test_the_first_operators_key_is_made_while_the_server_is_stopped(open_stack: Opener, tmp_path: Path) -> None:
    """It opens the running server, and the trail says where it came from."""
    key = await create_key(Config(store=StoreConfig(directory=tmp_path)), "operator", "default", "mine")
    stack = await open_keyed(open_stack, tmp_path)
    listed = (await call(stack, key, "GET", "/v1/keys")).json()["data"]
    assert [(one["name"], one["created_by"]) for one in listed if one["name"]] == [("mine", "command")]
