"""An installation that asks for keys, and calls with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from sqlalchemy import Connection

from server.config import Config, HttpConfig, StoreConfig
from server.keys import hash_key
from server.store import keys
from server.store.keys import KeyRecord
from tests.api.conftest import Opener, Stack, config_for

ROLES = ("app", "learner", "operator")


async def open_keyed(open_stack: Opener, directory: Path, *, url: str = "", **settings: Any) -> Stack:
    """`<tenant>-<role>` is the key of its role and tenant; `settings` are further sections of the configuration."""
    base = config_for(directory)
    http = HttpConfig(metrics_port=0, require_keys=True, **settings.pop("http", {}))
    store = StoreConfig(directory=directory, url=SecretStr(url))
    stack: Stack = await open_stack(Config(**({"http": http, "store": store, "aliases": base.aliases} | settings)))

    def add(connection: Connection) -> None:
        for tenant in ("default", "other"):
            for role in ROLES:
                key = f"{tenant}-{role}"
                keys.add_key(connection, KeyRecord(f"key-{key}", tenant, role), hash_key(key), 0.0)

    await stack.services.database.write(add)
    return stack


async def call(stack: Stack, who: str, method: str, path: str, **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {who}", **options.pop("headers", {})}
    return await stack.client.request(method, path, headers=headers, **options)
