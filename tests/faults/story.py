"""The life of two adapters as a learner and an operator lead it, and what has to be true of it afterwards.

The story can be broken off anywhere and told again: whoever tells it looks first at what stands where. The second
adapter takes over from the first and is rolled back, so that it passes every move.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Connection, select

from server.installation import model_digest
from server.store import adapters as rows
from server.store import schema
from server.store.opening import open_database
from server.store.records import AdapterState, GroupState
from server.wire.base import BASE
from tests.faults.service import Service
from tests.server.adapters.support import adapter_bytes, config_bytes, manifest_for

MODEL = "some/model"
SETTINGS = {"engine": {"model": MODEL}}
ALIAS = {"rollout": {"automatic": False}, "gate": {"max_kl": 1000.0, "max_length_ratio": 100.0}}
"""The operator decides, and the gate lets the fake engine's adapters through."""
CONFIG = config_bytes()
PAST_GATE = {"canary", "active", "retired", "rolled_back"}


@dataclass(slots=True)
class Told:
    """What the server acknowledged."""

    uploads: set[str] = field(default_factory=set)
    moves: list[dict[str, Any]] = field(default_factory=list)
    """Routing as each move's reply gave it."""


async def tell(client: httpx.AsyncClient, told: Told) -> None:
    """From wherever it stands to its end: the first adapter serves, the second was rolled back."""
    first = await serves(client, told, 1)
    second = await serves(client, told, 2)
    if (await routing(client))["active"] == second:
        await move(client, told, "/v1/rollback", {})
    assert (await routing(client))["active"] == first


async def serves(client: httpx.AsyncClient, told: Told, seed: int) -> str:
    """Upload, unless it is there; then canary and active, unless it has been."""
    adapter = await find(client, seed) or await upload(client, told, seed)
    while (state := (await call(client, "GET", f"/v1/adapters/{adapter}"))["state"]) not in PAST_GATE:
        assert state != "rejected", (await client.get(f"/v1/adapters/{adapter}/report")).text
        if state == "gated":
            await move(client, told, f"/v1/adapters/{adapter}/canary", {"share": 0.5})
        else:
            await asyncio.sleep(0.02)
    if (await routing(client))["canary"] == adapter:
        await move(client, told, f"/v1/adapters/{adapter}/promote", {})
    return adapter


async def find(client: httpx.AsyncClient, seed: int) -> str | None:
    """What a learner looks for that has no reply to its commit."""
    wanted = hashlib.sha256(adapter_bytes(seed=seed)).hexdigest()
    for one in (await call(client, "GET", "/v1/adapters"))["data"]:
        manifest = (await call(client, "GET", f"/v1/adapters/{one['id']}"))["manifest"]
        if manifest["files"]["adapter_model.safetensors"]["sha256"] == wanted:
            return str(one["id"])
    return None


async def begin(client: httpx.AsyncClient, tensors: bytes) -> str:
    manifest = manifest_for(CONFIG, tensors, base_digest=model_digest(MODEL)).model_dump(mode="json")
    return str((await call(client, "POST", "/v1/adapters", json=manifest))["upload"])


async def upload(client: httpx.AsyncClient, told: Told, seed: int) -> str:
    tensors = adapter_bytes(seed=seed)
    path = f"/v1/adapters/{await begin(client, tensors)}"
    for name, data in (("adapter_config.json", CONFIG), ("adapter_model.safetensors", tensors)):
        await call(client, "PUT", f"{path}/files/{name}", content=data)
    adapter = (await call(client, "POST", f"{path}/commit"))["id"]
    told.uploads.add(adapter)
    return str(adapter)


async def move(client: httpx.AsyncClient, told: Told, path: str, body: dict[str, Any]) -> None:
    told.moves.append(await call(client, "POST", path, json=body))


async def routing(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await call(client, "GET", "/v1/routing"))["data"][0]
    return found


async def call(client: httpx.AsyncClient, method: str, path: str, **options: Any) -> dict[str, Any]:
    response = await client.request(method, path, **options)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def assert_one_truth(connection: Connection, told: Told) -> None:
    """Each adapter published once; one chain of moves without a gap; every answer from who served then (I1-I5)."""
    known = {one.id: one for one in rows.list_adapters(connection)}
    assert told.uploads <= set(known)
    contents = [one.manifest["digest"] for one in known.values()]
    assert len(set(contents)) == len(contents), "an adapter was published twice"

    entries = connection.execute(select(schema.audit).order_by(schema.audit.c.id)).mappings().all()
    chain = [entry["detail"] for entry in entries if "after" in entry["detail"]]
    truth = {0: (BASE, None)} | {one["after"]["generation"]: _servers(one["after"]) for one in chain}
    assert [one["after"]["generation"] for one in chain] == list(range(1, len(chain) + 1))
    assert all(one["after"] == two["before"] for one, two in itertools.pairwise(chain))
    row = connection.execute(select(schema.routing)).mappings().one()
    assert (row["generation"], _servers(dict(row))) == (len(chain), truth[len(chain)])
    for reply in told.moves:
        assert truth[reply["generation"]] == _servers(reply), "an acknowledged move is lost"

    verified = {entry["subject"] for entry in entries if entry["detail"].get("state") == AdapterState.VERIFIED}
    groups, candidates = schema.groups, schema.candidates
    answers = connection.execute(
        select(groups.c.generation, candidates.c.adapter)
        .join(candidates, candidates.c.group_id == groups.c.id)
        .where(groups.c.state == GroupState.COMPLETED)
        .distinct()
    ).all()
    assert answers
    for generation, adapter in answers:
        assert adapter in truth[generation], f"{adapter} answered at generation {generation}"
        assert adapter == BASE or adapter in verified, f"{adapter} answered unverified"


def _servers(routing: dict[str, Any]) -> tuple[str, str | None]:
    return routing["active"], routing["canary"]


async def assert_ended_well(service: Service, told: Told) -> None:
    """Of the stopped service: the rows, the directories, and the check of the whole state."""
    database = open_database(service.config.store)
    try:
        await database.start()
        await database.read(lambda connection: assert_one_truth(connection, told))
        known = {one.id: one.state for one in await database.read(rows.list_adapters)}
    finally:
        await database.close()
    assert sorted(known.values()) == [AdapterState.ACTIVE, AdapterState.ROLLED_BACK]
    assert _names(service.config.store.directory / "adapters") == set(known)
    assert _names(service.config.store.directory / "uploads") == set()
    assert await service.check() == []


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}
