"""Rows 61 to 64 of the bad inputs: stale moves, files that are no adapter, headers that lie, pages of other sites.

Each case gets its refusal in the one error shape, keeps nothing, moves nothing, and the next good request works.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import assert_openai_error
from tests.server.adapters.support import (
    adapter_bytes,
    config_bytes,
    floats,
    manifest_for,
    safetensors,
    tensor_name,
    with_header,
)
from tests.server.adapters.test_api import App, open_app

A, B = tensor_name("A"), tensor_name("B")


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    installation, opened = await open_app(tmp_path)
    yield opened
    await opened.client.aclose()
    await installation.close()


async def still_works(app: App) -> None:
    """Base answers at the first generation, nothing is published, and a good adapter is taken."""
    chat = {"model": "default", "messages": [{"role": "user", "content": "Hello?"}], "best_of": 1}
    told = (await app.call("POST", "/v1/chat/completions", json=chat))["plumbline"]
    assert (told["adapter"], told["generation"]) == ("base", 0)
    for place in ("adapters", "uploads"):
        assert list((app.services.config.store.directory / place).iterdir()) == []
    assert (await app.upload()).json()["state"] == "staged"


def tensors(a: bytes, b: bytes = floats(8), *, dtype: str = "F32", rank: int = 2) -> bytes:
    return safetensors({A: (dtype, [rank, 6], a), B: ("F32", [4, rank], b)})


NAN, INFINITE = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
ENTRY = {"dtype": "F32", "shape": [2, 6], "data_offsets": [0, 48]}

CONFIGS = {
    "auto_map": config_bytes(auto_map={"AutoModel": "evil.py"}),
    "huge": config_bytes(revision="x" * 100_000),
    "rank above the engine's": config_bytes(r=17),
    "rank of another file": config_bytes(r=3),
    "another method": config_bytes(peft_type="PREFIX_TUNING"),
    "nested without end": b'{"r":' + b"[" * 50_000,
}
TENSORS = {
    "NaN": tensors(floats(11) + NAN),
    "infinite": tensors(floats(11) + INFINITE),
    "NaN in bfloat16": tensors(bytes(22) + b"\xc0\x7f", dtype="BF16"),
    "NaN in float16": tensors(bytes(22) + b"\x00\x7e", dtype="F16"),
    "a million times too large": tensors(floats(12, scale=5e4)),
    "a pickle": b"\x80\x04\x95" + bytes(200),
    "a zip of pickles": b"PK\x03\x04" + bytes(200),
    "a header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "a header of 2^64 - 1 bytes": b"\xff" * 8 + b"{}",
    "overlapping offsets": with_header(
        {A: ENTRY, B: {"dtype": "F32", "shape": [4, 2], "data_offsets": [40, 72]}}, floats(18)
    ),
    "a gap": with_header({A: ENTRY, B: {"dtype": "F32", "shape": [4, 2], "data_offsets": [52, 84]}}, floats(21)),
    "trailing bytes": adapter_bytes() + b"\0" * 9,
    "a negative offset": with_header({A: {**ENTRY, "data_offsets": [-48, 0]}}, floats(12)),
    "offsets that overflow": with_header({A: {**ENTRY, "data_offsets": [2**63, 2**63 + 48]}}, floats(12)),
    "a shape that overflows": with_header({A: {**ENTRY, "shape": [2**40, 2**40]}}, floats(12)),
    "a name twice": with_header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}', bytes(4)),
    "a path for a name": with_header({"base_model.model.../../x.lora_A.weight": ENTRY}, floats(12)),
    "no tensors": safetensors({}),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
async def test_row_62_a_configuration_that_is_none(app: App, config: bytes) -> None:
    """Only what is known to be a plain LoRA of this engine's."""
    refused = await app.upload(config)
    assert_openai_error(refused, 400, "adapter_rejected")
    assert "evil" not in refused.text
    await still_works(app)


@pytest.mark.parametrize("data", TENSORS.values(), ids=TENSORS.keys())
async def test_rows_62_and_63_tensors_that_are_none(app: App, data: bytes) -> None:
    """Whatever the file claims, in whatever dtype."""
    assert_openai_error(await app.upload(tensors=data), 400, "adapter_rejected")
    await still_works(app)


def renamed(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda good: {**good, "files": [good["files"][0], {**good["files"][1], "name": name}]}


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], int, str]] = {
    "a pickle beside": (renamed("adapter_model.bin"), 400, "invalid_request"),
    "a path above": (renamed("../adapter_model.safetensors"), 400, "invalid_request"),
    "an absolute path": (renamed("/etc/passwd"), 400, "invalid_request"),
    "a third file": (lambda good: {**good, "files": [*good["files"], good["files"][0]]}, 400, "invalid_request"),
    "a file twice": (lambda good: {**good, "files": [good["files"][0]] * 2}, 400, "invalid_request"),
    "a place to read from": (lambda good: {**good, "path": "/etc"}, 400, "unknown_parameter"),
    "another base": (lambda good: {**good, "base_digest": "1" * 64}, 400, "adapter_rejected"),
    "another alias": (lambda good: {**good, "alias": "other"}, 404, "model_not_found"),
    "an unknown parent": (lambda good: {**good, "parent": "a00009-0"}, 400, "adapter_rejected"),
    "a parent elsewhere": (lambda good: {**good, "parent": "../../etc"}, 400, "invalid_request"),
    "a size beyond any": (
        lambda good: {**good, "files": [good["files"][0], {**good["files"][1], "size_bytes": 2**60}]},
        400,
        "invalid_request",
    ),
}


@pytest.mark.parametrize(("change", "status", "code"), MANIFESTS.values(), ids=MANIFESTS.keys())
async def test_row_62_a_manifest_that_asks_for_more(
    app: App, change: Callable[[dict[str, Any]], dict[str, Any]], status: int, code: str
) -> None:
    """Refused before a byte of a file is taken."""
    good = manifest_for(config_bytes(), adapter_bytes(), base_digest=app.services.base_digest).model_dump(mode="json")
    assert_openai_error(await app.client.post("/v1/adapters", json=change(good)), status, code)
    await still_works(app)


@pytest.mark.parametrize("generation", [1, 7, 2**31 - 1])
async def test_row_61_a_move_on_a_stale_view(app: App, generation: int) -> None:
    """412, which no client repeats by itself; of all moves alike."""
    adapter = await app.gated()
    body = {"expect_generation": generation}
    paths = [f"/v1/adapters/{adapter}/{action}" for action in ("canary", "promote", "reject", "quarantine")]
    for path in (*paths, "/v1/rollback"):
        response = await app.client.post(path, json=body)
        assert_openai_error(response, 412, "stale_generation", "expect_generation")
        assert "retry-after" not in response.headers
    assert (await app.call("GET", f"/v1/adapters/{adapter}"))["state"] == "gated"
    assert (await app.call("POST", f"/v1/adapters/{adapter}/promote", json={"expect_generation": 0}))["generation"] == 1


async def test_a_generation_that_no_routing_can_have(app: App) -> None:
    """It is no stale view but a mistake: 400, before a database is asked for a number that it cannot hold."""
    response = await app.client.post("/v1/rollback", json={"expect_generation": 2**31})
    assert_openai_error(response, 400, "invalid_request", "expect_generation")


ADMIN = [
    ("POST", "/v1/rollback"),
    ("POST", "/v1/rollback/undo"),
    ("POST", "/v1/adapters"),
    ("POST", "/v1/adapters/a9/promote"),
    ("POST", "/v1/adapters/upload-9/commit"),
    ("PUT", "/v1/adapters/upload-9/files/adapter_config.json"),
    ("DELETE", "/v1/users/somebody/data"),
]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=["another origin", "no origin", "cross-site", "same-site"],
)
async def test_row_64_a_page_of_another_site(app: App, headers: dict[str, str]) -> None:
    """Where no key is asked for, a page that its user happens to visit still cannot move, upload or erase."""
    for method, path in ADMIN:
        response = await app.client.request(method, path, content=b"{}", headers=headers)
        assert_openai_error(response, 403, "cross_origin")
    await still_works(app)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8400", "localhost.evil.example", "127.0.0.1.evil.example"]
)
async def test_row_64_a_page_that_calls_this_machine_by_its_own_name(app: App, host: str) -> None:
    """DNS rebinding: to the browser it is the same origin, and its GET carries nothing but the name."""
    for method, path in (("GET", "/v1/adapters"), ("POST", "/v1/chat/completions"), *ADMIN):
        headers = {"host": host, "origin": f"http://{host}"} if method != "GET" else {"host": host}
        assert_openai_error(await app.client.request(method, path, headers=headers), 400, "invalid_host")
    for own in ("localhost:8400", "127.0.0.1", "[::1]:8400", "LOCALHOST"):
        assert (await app.client.get("/v1/adapters", headers={"host": own})).status_code == 200


async def test_row_64_our_own_page_may(app: App) -> None:
    """The same origin, and callers that are no browser."""
    for headers in ({"origin": "http://localhost", "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}, {}):
        refused = await app.client.post("/v1/rollback", json={}, headers=headers)
        assert_openai_error(refused, 400, "illegal_move")
