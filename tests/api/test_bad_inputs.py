"""Bad input gets a clear error in the one shape, and the next good request works."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from tests.api.conftest import CHAT, Stack, assert_openai_error, chat_body, data_url


def with_image(url: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return chat_body(messages=[{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}])


def truncated_png() -> str:
    head, _, body = data_url(size=(64, 64)).partition(",")
    data = base64.b64decode(body)
    return f"{head},{base64.b64encode(data[: len(data) // 2]).decode()}"


def png_that_claims(width: int, height: int) -> str:
    """A small file whose header promises many pixels."""
    data = bytearray(base64.b64decode(data_url().partition(",")[2]))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return f"data:image/png;base64,{base64.b64encode(bytes(data)).decode()}"


def animated() -> str:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, format="PNG", save_all=True, append_images=frames[1:])
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


TEXT = base64.b64encode(b"this is no image").decode()
USER = {"role": "user", "content": "Hi"}

CASES = {
    "no image at all": (with_image(f"data:image/png;base64,{TEXT}"), 400, "invalid_image", "messages"),
    "truncated PNG": (with_image(truncated_png()), 400, "invalid_image", "messages"),
    "10,000 x 10,000 pixels": (with_image(png_that_claims(10_000, 10_000)), 400, "image_dimensions", "messages"),
    "bomb of 50,000 x 50,000": (with_image(png_that_claims(50_000, 50_000)), 400, "image_dimensions", "messages"),
    "1 x 1": (with_image(data_url(size=(1, 1))), 400, "image_dimensions", "messages"),
    "animated": (with_image(animated()), 400, "invalid_image", "messages"),
    "GIF": (with_image(data_url(kind="GIF")), 400, "invalid_image", "messages"),
    "TIFF": (with_image(data_url(kind="TIFF")), 400, "invalid_image", "messages"),
    "bad base64": (with_image("data:image/png;base64,###"), 400, "invalid_image", "messages"),
    "text data URL": (with_image("data:text/html;base64,aGk="), 400, "invalid_image", "messages"),
    "file URL": (with_image("file:///etc/passwd"), 400, "image_url_forbidden", "messages"),
    "private address": (with_image("http://169.254.169.254/"), 400, "image_url_forbidden", "messages"),
    "17 images": (
        chat_body(
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": data_url()}} for _ in range(17)],
                }
            ]
        ),
        400,
        "too_many_images",
        "messages",
    ),
    "image in a system message": (
        chat_body(
            messages=[
                {"role": "system", "content": [{"type": "image_url", "image_url": {"url": data_url()}}]},
                USER,
            ]
        ),
        400,
        "invalid_request",
        None,
    ),
    "unknown model": (chat_body(model="gpt-x"), 404, "model_not_found", "model"),
    "model with a path": (chat_body(model="../../etc"), 404, "model_not_found", "model"),
    "10 KB model": (chat_body(model="m" * 10_000), 400, "invalid_request", "model"),
    "unknown field": (chat_body(chat_template="x"), 400, "unknown_parameter", "chat_template"),
    "unknown field, null": (chat_body(guided_regex=None), 400, "unknown_parameter", "guided_regex"),
    "unknown option": (chat_body(plumbline={"explian": True}), 400, "unknown_parameter", "plumbline.explian"),
    "unsupported tools": (chat_body(tools=[{"type": "function"}]), 400, "invalid_request", None),
    "best_of 0": (chat_body(best_of=0), 400, "invalid_request", "best_of"),
    "best_of 10,000": (chat_body(best_of=10_000), 400, "invalid_request", "best_of"),
    "best_of below n": (chat_body(n=4, best_of=2), 400, "invalid_request", "best_of"),
    "n 0": (chat_body(n=0), 400, "invalid_request", "n"),
    "n 1e9": (chat_body(n=10**9), 400, "invalid_request", "n"),
    "n a fraction": (chat_body(n=2.5), 400, "invalid_request", "n"),
    "temperature 3": (chat_body(temperature=3), 400, "invalid_request", "temperature"),
    "top_p 0": (chat_body(top_p=0), 400, "invalid_request", "top_p"),
    "max_tokens 0": (chat_body(max_tokens=0), 400, "invalid_request", "max_tokens"),
    "max_tokens huge": (chat_body(max_tokens=10**8), 400, "invalid_request", "max_tokens"),
    "5 stops": (chat_body(stop=["a"] * 5), 400, "invalid_request", "stop"),
    "empty stop": (chat_body(stop=""), 400, "invalid_request", "stop.0"),
    "top_logprobs 1e6": (chat_body(top_logprobs=10**6), 400, "invalid_request", "top_logprobs"),
    "no messages": (chat_body(messages=[]), 400, "invalid_request", "messages"),
    "messages null": ({"model": "default", "messages": None}, 400, "invalid_request", "messages"),
    "unknown role": (chat_body(messages=[{"role": "tool", "content": "x"}]), 400, "invalid_request", None),
    "assistant last": (
        chat_body(messages=[USER, {"role": "assistant", "content": "x"}]),
        400,
        "invalid_request",
        "messages",
    ),
    "assistant first": (
        chat_body(messages=[{"role": "assistant", "content": "x"}, USER]),
        400,
        "invalid_request",
        "messages",
    ),
    "unknown part": (
        chat_body(messages=[{"role": "user", "content": [{"type": "audio"}]}]),
        400,
        "invalid_request",
        None,
    ),
    "longer than the context": (
        chat_body(messages=[{"role": "user", "content": "word " * 5_000}]),
        400,
        "context_length_exceeded",
        "messages",
    ),
    "regenerate of nothing": (
        chat_body(plumbline={"regenerate_of": "cmpl-none"}),
        404,
        "response_not_found",
        "plumbline.regenerate_of",
    ),
}


@pytest.mark.parametrize(("body", "status", "code", "param"), CASES.values(), ids=CASES.keys())
async def test_a_bad_chat_request_is_refused_and_the_next_works(
    stack: Stack, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    """Each row: a clear refusal that says what was wrong, then a good request."""
    assert_openai_error(await stack.client.post(CHAT, json=body), status, code, param)
    await stack.chat(best_of=1)


RAW = {
    "empty": (b"", 400, "invalid_json"),
    "truncated": (b'{"model": "default"', 400, "invalid_json"),
    "nested 100,000 deep": (b"[" * 100_000, 400, "invalid_json"),
    "NaN": (b'{"model":"default","messages":[{"role":"user","content":"x"}],"temperature":NaN}', 400, None),
    "invalid UTF-8": (b'{"model": "\xff"}', 400, "invalid_json"),
    "a list": (b"[]", 400, "invalid_request"),
    "larger than allowed": (b" " * (33 * 1024 * 1024), 413, "request_too_large"),
}


@pytest.mark.parametrize(("body", "status", "code"), RAW.values(), ids=RAW.keys())
async def test_a_bad_body_is_refused(stack: Stack, body: bytes, status: int, code: str | None) -> None:
    """What is no JSON, or too much of it, never reaches a handler."""
    response = await stack.client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert_openai_error(response, status, code or response.json()["error"]["code"])


async def test_other_media_types_and_encodings_are_refused(stack: Stack) -> None:
    """Forms are not parsed and nothing is decompressed."""
    form = await stack.client.post(CHAT, data={"model": "default"})
    assert_openai_error(form, 415, "unsupported_media_type")
    packed = await stack.client.post(CHAT, json=chat_body(), headers={"content-encoding": "gzip"})
    assert_openai_error(packed, 415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/completions", 404, "not_found"),
        ("POST", "/v1/responses", 404, "not_found"),
        ("GET", "/metrics", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/openapi.json", 404, "not_found"),
        ("POST", "//v1/chat/completions", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("GET", "/v1/adapters/none", 404, "adapter_not_found"),
        ("GET", "/v1/training/feed?alias=none", 404, "alias_not_found"),
        ("GET", "/v1/training/feed?alias=default&after=-1", 400, "invalid_request"),
        ("GET", "/v1/media/none", 404, "not_found"),
    ],
)
async def test_paths_and_methods_answer_in_the_one_shape(
    stack: Stack, method: str, path: str, status: int, code: str
) -> None:
    """Unknown paths, wrong methods and unknown things look like every other error (I11)."""
    assert_openai_error(await stack.client.request(method, path), status, code)


async def test_an_orderly_request_id_is_kept_and_a_hostile_one_replaced(stack: Stack) -> None:
    """Ids go into logs and headers: only harmless ones do."""
    kept = await stack.client.get("/healthz", headers={"x-request-id": "abc-1"})
    assert kept.headers["x-request-id"] == "abc-1"
    replaced = await stack.client.get("/healthz", headers={"x-request-id": "a\x1b[31m"})
    assert replaced.headers["x-request-id"].startswith("req-")
