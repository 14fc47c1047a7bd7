"""Adapters made by hand, and a small world in which they live: real database, real files, fake engine."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import random
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from reward.types import Message, Prompt
from server import prompts
from server.adapters.registry import AdapterRegistry
from server.adapters.routing import Order, Router
from server.adapters.states import Mover
from server.engine.fake import FakeEngine
from server.store import groups
from server.store.blobs import BlobStore, LocalBlobs
from server.store.migrate import migrate
from server.store.records import AdapterRecord, AdapterState, CandidateRecord, GroupRecord, GroupState
from server.store.sqlite import SqliteDatabase
from server.wire.adapters import AdapterManifest
from server.wire.base import BASE

ALIAS = "default"
DIGEST = "0" * 64
MODULE = "model.language_model.layers.0.self_attn.q_proj"
OPERATOR = Order("an operator")
SERVER = Order("rollout", Mover.SERVER)


def tensor_name(side: str, module: str = MODULE) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"


def floats(count: int, seed: int = 0, scale: float = 0.05) -> bytes:
    rng = random.Random(seed)
    return struct.pack(f"<{count}f", *(rng.gauss(0, scale) for _ in range(count)))


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A well-formed file of (dtype, shape, data) by name."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    return with_header(header, data)


def with_header(header: object, data: bytes) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def adapter_bytes(*, seed: int = 0, rank: int = 2, inputs: int = 6, outputs: int = 4, module: str = MODULE) -> bytes:
    return safetensors(
        {
            tensor_name("A", module): ("F32", [rank, inputs], floats(rank * inputs, seed)),
            tensor_name("B", module): ("F32", [outputs, rank], floats(outputs * rank, seed + 1)),
        }
    )


def config_bytes(**changes: Any) -> bytes:
    config = {
        "peft_type": "LORA",
        "auto_mapping": None,
        "base_model_name_or_path": "elsewhere",
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "r": 2,
        "rank_pattern": {},
        "target_modules": r".*language_model.*\.q_proj",
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
    }
    return json.dumps({**config, **changes}).encode()


def manifest_for(config: bytes, tensors: bytes, **changes: Any) -> AdapterManifest:
    files = [
        {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in (("adapter_config.json", config), ("adapter_model.safetensors", tensors))
    ]
    return AdapterManifest.model_validate({"alias": ALIAS, "base_digest": DIGEST, "files": files, **changes})


async def stream(data: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


@dataclass(slots=True)
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@dataclass(slots=True)
class World:
    """One installation's adapters."""

    directory: Path
    database: SqliteDatabase
    blobs: BlobStore
    engine: FakeEngine
    registry: AdapterRegistry
    router: Router
    clock: Clock = field(default_factory=Clock)
    _seed: int = 0

    async def upload(
        self, *, config: bytes | None = None, tensors: bytes | None = None, **manifest: Any
    ) -> AdapterRecord:
        """The whole way of an upload."""
        self._seed += 10
        config = config if config is not None else config_bytes()
        tensors = tensors if tensors is not None else adapter_bytes(seed=self._seed)
        upload = await self.registry.begin(manifest_for(config, tensors, **manifest))
        await self.registry.put_file(upload.id, "adapter_config.json", stream(config))
        await self.registry.put_file(upload.id, "adapter_model.safetensors", stream(tensors))
        return await self.registry.commit(upload.id, actor="a learner")

    async def gated(self, **manifest: Any) -> str:
        """An adapter that has come as far as `gated`."""
        record = await self.upload(**manifest)
        for state in (AdapterState.VERIFIED, AdapterState.GATED):
            assert await self.registry.advance(record.id, state, actor="rollout")
        return record.id

    async def active(self, **manifest: Any) -> str:
        adapter = await self.gated(**manifest)
        await self.router.promote(adapter, OPERATOR)
        return adapter

    async def state(self, adapter: str) -> AdapterState:
        return (await self.registry.get(adapter)).state

    async def states(self) -> dict[str, AdapterState]:
        return {one.id: one.state for one in await self.registry.find()}

    async def check(self) -> None:
        """What always holds: routing and states agree, and somebody serves."""
        states = await self.states()
        routing = self.router.current(ALIAS)
        assert routing.active == BASE or states[routing.active] is AdapterState.ACTIVE
        assert routing.canary is None or states[routing.canary] is AdapterState.CANARY
        assert [one for one, state in states.items() if state is AdapterState.ACTIVE] == [
            one for one in [routing.active] if one != BASE
        ]
        assert [one for one, state in states.items() if state is AdapterState.CANARY] == [
            one for one in [routing.canary] if one is not None
        ]
        assert routing.previous is None or routing.previous == BASE or routing.previous in states

    async def store_group(
        self, text: str = "What is there?", answers: Sequence[str] = ("a red circle",), **changes: Any
    ) -> GroupRecord:
        """A stored group whose candidates the fake engine's base model gave."""
        prompt = Prompt((Message("user", (text,)),))
        candidates = []
        group_id = changes.pop(
            "id", f"cmpl-{hashlib.sha256(repr((text, answers, self.clock())).encode()).hexdigest()[:16]}"
        )
        for position, answer in enumerate(answers):
            scored = await self.engine.score(self.engine.base_model, prompt, answer)
            candidates.append(
                CandidateRecord(
                    id=f"{group_id}.{position}",
                    position=position,
                    adapter=BASE,
                    variant="",
                    text=answer,
                    shown_text=None,
                    token_ids=(*scored.token_ids, 2),
                    logprobs=(*scored.logprobs, -0.5),
                    finish_reason="stop",
                    is_shown=position < 2,
                    is_blocked=False,
                    probability=1.0,
                    total=None,
                )
            )
        values: dict[str, Any] = {
            "id": group_id,
            "tenant": "default",
            "alias": ALIAS,
            "state": GroupState.COMPLETED,
            "created_at": self.clock(),
            "generation": 0,
            "adapter": BASE,
            "is_canary": False,
            "user_hash": None,
            "prompt_digest": prompts.digest(prompt),
            "is_holdout": False,
            "regenerate_of": None,
            "prompt": prompts.to_row(prompt),
            "sampling": {},
            "on_policy_sampling": True,
            "prompt_token_ids": (1, 2, 3),
            "base_digest": DIGEST,
            "engine_version": "fake 1",
            "selection": "argmax",
            "degraded": (),
            "candidates": tuple(candidates),
            "media": (),
        }
        group = GroupRecord(**{**values, **changes})
        await self.database.write(lambda c: groups.insert_group(c, group))
        return group


@functools.cache
def migrated_file() -> bytes:
    """A new database file, migrated once for all tests."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "plumbline.db"
        with create_engine(f"sqlite:///{path}").begin() as opened:
            migrate(opened)
        return path.read_bytes()


def new_database(path: Path) -> SqliteDatabase:
    if not path.exists():
        path.write_bytes(migrated_file())
    return SqliteDatabase(path, read_connections=2)


async def open_world(directory: Path, *, clock: Clock | None = None, **settings: Any) -> World:
    """Start, or start again on what is there."""
    clock = clock or Clock()
    database = new_database(directory / "plumbline.db")
    await database.start()
    engine = FakeEngine(adapters_dir=directory / "adapters")
    registry = AdapterRegistry(
        database,
        directory / "adapters",
        directory / "uploads",
        **{
            "engine_model": "some/model",
            "base_digest": DIGEST,
            "max_lora_rank": 4,
            "aliases": [ALIAS],
            "clock": clock,
            **settings,
        },
    )
    await registry.start()
    router = Router(database, [ALIAS], clock=clock, verify=registry.verify, is_intact=registry.is_intact)
    await router.load()
    return World(directory, database, LocalBlobs(directory / "media"), engine, registry, router, clock)


async def until(condition: Callable[[], Any], timeout_s: float = 8.0) -> None:
    """Wait until the condition holds; it may be a coroutine function."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)
