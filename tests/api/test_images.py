"""Images of a chat request: from data and https URLs, bounded before they are touched, and never from inside."""

import asyncio
import gc
import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from server.app import create_app
from server.config import Config, ImageFetchConfig
from server.pipeline.containers import strip
from server.pipeline.vision import takes_images
from tests.api.conftest import CHAT, Opener, Stack, assert_openai_error, chat_body, config_for
from tests.api.streaming import StreamedChat
from tests.image_server import GOOD, HOSTILE, Authority, ImageServer, as_data_url, picture
from tests.server.pipeline.test_containers import with_metadata

TIMEOUT_S = 1.0
"""Where a test waits for it to pass."""


def about(*urls: str) -> dict[str, Any]:
    """A question about images."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return chat_body(messages=[{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}], best_of=1)


def fetching(
    directory: Path, server: ImageServer, authority: Authority, timeout_s: float = 20.0, **chat: Any
) -> Config:
    """Fetches from the test's server, and only there."""
    config = config_for(directory)
    fetch = ImageFetchConfig(
        sources=(f"https://localhost:{server.port}",),
        networks=("127.0.0.0/8", "::1/128"),
        ca_file=authority.ca_file,
        timeout_s=timeout_s,
        connect_timeout_s=timeout_s,
    )
    return config.model_copy(update={"image_fetch": fetch, "chat": config.chat.model_copy(update=chat)})


@pytest.fixture
async def web(open_stack: Opener, tmp_path: Path, image_server: ImageServer, authority: Authority) -> Stack:
    """An application that may fetch."""
    return await open_stack(fetching(tmp_path, image_server, authority))


@pytest.fixture
async def hurried(open_stack: Opener, tmp_path: Path, image_server: ImageServer, authority: Authority) -> Stack:
    """The same, with little patience."""
    return await open_stack(fetching(tmp_path, image_server, authority, TIMEOUT_S))


def outcomes(stack: Stack) -> dict[str, float]:
    counted = stack.services.metrics.image_fetches.collect()[0].samples
    return {one.labels["outcome"]: one.value for one in counted if one.name.endswith("_total")}


async def stored(stack: Stack, data: bytes) -> bytes | None:
    return await stack.services.blobs.get(hashlib.sha256(data).hexdigest())


async def test_an_https_image_is_the_same_as_a_data_url(web: Stack, image_server: ImageServer) -> None:
    """The engine gets the same bytes, and the same bytes are kept."""
    fetched = await web.client.post(CHAT, json=about(image_server.url("/good.png")))
    assert fetched.status_code == 200, fetched.text
    assert await stored(web, GOOD) == GOOD
    sent = await web.client.post(CHAT, json=about(as_data_url(GOOD)))
    texts = [reply.json()["choices"][0]["message"]["content"] for reply in (fetched, sent)]
    assert texts[0] == texts[1]
    assert outcomes(web) == {"fetched": 1}


async def test_what_is_kept_and_sent_has_no_metadata(stack: Stack) -> None:
    """All three kinds, original containers."""
    for kind in ("PNG", "JPEG", "WEBP"):
        data = with_metadata(kind)
        reply = await stack.client.post(CHAT, json=about(as_data_url(data, f"image/{kind.lower()}")))
        assert reply.status_code == 200, reply.text
        kept = strip(data).data
        assert kept != data
        assert await stored(stack, kept) == kept
        assert await stored(stack, data) is None


async def test_images_keep_their_order(web: Stack, image_server: ImageServer) -> None:
    """However long each of them takes to arrive."""
    red, blue = picture(colour="red"), picture(colour="blue")
    assert red == GOOD
    urls = [image_server.url("/a-moment.png"), as_data_url(blue), image_server.url("/good.png")]
    reply = await web.client.post(CHAT, json=about(*urls))
    assert reply.status_code == 200, reply.text
    group = await web.client.get("/v1/training/feed?alias=default")
    assert group.status_code == 200
    prompt = await web.services.assembler(_messages(urls), [])
    assert [image.data for image in prompt.images] == [red, blue, red]


def _messages(urls: list[str]) -> Any:
    from server.wire.chat import ChatRequest

    return ChatRequest.model_validate(about(*urls)).messages


FORBIDDEN = [
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254/",
    "https://localhost/",
    "http://localhost/",
    "https://10.0.0.1/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://0.0.0.0/",
    "https://2130706433/",
    "https://0177.0.0.1/",
    "http://good.test\\@evil.test/",
    "https://user:password@localhost/",
    "file:///etc/passwd",
    "gopher://localhost/",
    "ftp://localhost/",
    "",
]


@pytest.mark.parametrize("url", FORBIDDEN)
async def test_a_forbidden_address_is_refused_unasked(
    web: Stack, image_server: ImageServer, connected_to: list[str], url: str
) -> None:
    """Rows 35, 36 and 38: no packet leaves, the reply names no address, and a good request works."""
    reply = await web.client.post(CHAT, json=about(url))
    assert_openai_error(reply, 400, "image_url_forbidden", "messages")
    assert connected_to == []
    assert (await web.client.post(CHAT, json=about(image_server.url("/good.png")))).status_code == 200


async def test_without_sources_nothing_is_fetched(stack: Stack, connected_to: list[str]) -> None:
    """The default; the refusal names the setting."""
    reply = await stack.client.post(CHAT, json=about("https://images.test/a.png"))
    assert_openai_error(reply, 400, "image_url_forbidden", "messages")
    assert "image_fetch.sources" in reply.json()["error"]["message"]
    assert connected_to == []


async def test_a_redirect_inside_is_refused(web: Stack, image_server: ImageServer, connected_to: list[str]) -> None:
    """Row 37: the allowed host may not send us where it likes."""
    image_server.redirect_to = "https://10.0.0.1/"
    reply = await web.client.post(CHAT, json=about(image_server.url("/moved")))
    assert_openai_error(reply, 400, "image_url_forbidden", "messages")
    assert set(connected_to) <= {"127.0.0.1", "::1"}
    assert "10.0.0.1" not in reply.text
    await web.chat(best_of=1)


@pytest.mark.parametrize("path", HOSTILE)
async def test_a_hostile_image_server_is_left_in_time(hurried: Stack, image_server: ImageServer, path: str) -> None:
    """Row 39: within the deadline, and the next request is answered."""
    started = time.monotonic()
    reply = await hurried.client.post(CHAT, json=about(image_server.url(path)))
    assert_openai_error(reply, 400, "image_fetch_failed", "messages")
    assert time.monotonic() - started < TIMEOUT_S + 4.0
    assert outcomes(hurried) == {"image_fetch_failed": 1}
    assert hurried.services.metrics.image_bytes.collect()[0].samples[0].value == 0
    await hurried.chat(best_of=1)


BAD_DATA = {
    "damaged base64": "data:image/png;base64,####",
    "no padding": "data:image/png;base64,iVBORw0KGgo",
    "blanks": as_data_url(GOOD)[:60] + "\n" + as_data_url(GOOD)[60:],
    "url-safe base64": "data:image/png;base64,-_-_",
    "no base64": "data:image/png,hello",
    "html": "data:text/html;base64,aGk=",
    "svg": as_data_url(b"<svg/>", "image/svg+xml"),
    "no type": "data:;base64,aGk=",
    "a parameter": "data:image/png;charset=x;base64,aGk=",
    "nothing": "data:image/png;base64,",
    "only data": "data:",
}


@pytest.mark.parametrize("url", BAD_DATA.values(), ids=BAD_DATA.keys())
async def test_a_bad_data_url_is_refused(stack: Stack, url: str) -> None:
    """Row 40."""
    assert_openai_error(await stack.client.post(CHAT, json=about(url)), 400, "invalid_image", "messages")
    await stack.chat(best_of=1)


async def test_a_wrong_label_between_good_types_does_not_matter(stack: Stack) -> None:
    """The bytes say what they are; many clients call all of theirs JPEG."""
    reply = await stack.client.post(CHAT, json=about(as_data_url(GOOD, "image/jpeg")))
    assert reply.status_code == 200
    assert await stored(stack, GOOD) == GOOD


async def test_images_are_counted_before_one_is_fetched(
    web: Stack, image_server: ImageServer, connected_to: list[str]
) -> None:
    """Row 43; and one URL of a bad form stops the others from being fetched."""
    good = image_server.url("/good.png")
    many = await web.client.post(CHAT, json=about(*[good] * 100))
    assert_openai_error(many, 400, "too_many_images", "messages")
    mixed = await web.client.post(CHAT, json=about(good, "data:text/html;base64,aGk="))
    assert_openai_error(mixed, 400, "invalid_image", "messages")
    mixed = await web.client.post(CHAT, json=about(good, "https://10.0.0.1/"))
    assert_openai_error(mixed, 400, "image_url_forbidden", "messages")
    assert connected_to == []


async def test_a_bad_image_ends_the_fetches_beside_it(web: Stack, image_server: ImageServer) -> None:
    """Nobody waits for what is not needed any more."""
    started = time.monotonic()
    urls = [image_server.url("/silent"), image_server.url("/missing")]
    assert_openai_error(await web.client.post(CHAT, json=about(*urls)), 400, "image_fetch_failed", "messages")
    assert time.monotonic() - started < 10.0  # and not the 20 seconds that the silent one may take
    await asyncio.sleep(0.05)
    assert outcomes(web) == {"image_fetch_failed": 1, "abandoned": 1}


async def test_a_slow_image_server_holds_no_place_at_the_engine(
    open_stack: Opener, tmp_path: Path, image_server: ImageServer, authority: Authority
) -> None:
    """With a single place, others are answered while images are waited for."""
    config = fetching(tmp_path, image_server, authority, timeout_s=5.0)
    one_place = config.http.model_copy(update={"max_concurrent_requests": 1, "max_queued_requests": 0})
    stack = await open_stack(config.model_copy(update={"http": one_place}))
    waiting = [asyncio.create_task(stack.client.post(CHAT, json=about(image_server.url("/silent")))) for _ in range(4)]
    await image_server.asked(4)
    assert stack.services.admission.present == 0
    await stack.chat(best_of=1)
    assert not any(one.done() for one in waiting)
    for reply in await asyncio.gather(*waiting):
        assert_openai_error(reply, 400, "image_fetch_failed", "messages")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_ends_the_fetches(web: Stack, image_server: ImageServer, stream: bool) -> None:
    """Nobody waits for a slow image server on behalf of somebody who has left."""
    chat = StreamedChat(create_app(web.services), **about(image_server.url("/silent")), stream=stream)
    asking = asyncio.create_task(chat.run())
    await image_server.asked(1)
    chat.leave()
    await asyncio.wait_for(asking, 2.0)
    assert chat.status == 499
    assert outcomes(web) == {"abandoned": 1}


async def test_waiting_images_are_bounded(
    open_stack: Opener, tmp_path: Path, image_server: ImageServer, authority: Authority
) -> None:
    """More are told to come back; once the first are through, all is well again."""
    stack = await open_stack(fetching(tmp_path, image_server, authority, 5.0, max_waiting_images=3))
    held = asyncio.create_task(stack.client.post(CHAT, json=about(*[image_server.url("/silent")] * 3)))
    await image_server.asked(3)
    reply = await stack.client.post(CHAT, json=chat_body(best_of=1))
    assert_openai_error(reply, 429, "queue_full")
    assert int(reply.headers["retry-after"]) >= 1
    assert_openai_error(await held, 400, "image_fetch_failed")
    await stack.chat(best_of=1)


async def test_bytes_in_flight_are_bounded_and_given_back(
    open_stack: Opener, tmp_path: Path, image_server: ImageServer, authority: Authority
) -> None:
    """Fetched, sent, refused or failed: whatever became of the images, their share is free again."""
    noisy = picture(kind="JPEG", size=(64, 64))
    config = fetching(tmp_path, image_server, authority, max_image_bytes_in_flight=4 * len(noisy))
    stack = await open_stack(config)
    too_much = await stack.client.post(CHAT, json=about(*[as_data_url(noisy, "image/jpeg")] * 6))
    assert_openai_error(too_much, 429, "queue_full")
    endless = await stack.client.post(CHAT, json=about(image_server.url("/endless")))
    assert_openai_error(endless, 429, "queue_full")
    for path in ("/good.png", "/missing", "/claims-more"):
        await stack.client.post(CHAT, json=about(image_server.url(path)))
    await stack.client.post(CHAT, json=about("data:image/png;base64,aGk="))
    await stack.chat(best_of=1)
    stack.engine.calls.clear()  # the fake engine remembers what it was asked
    gc.collect()
    metric = stack.services.metrics.image_bytes
    assert metric.collect()[0].samples[0].value == 0


async def test_a_model_without_eyes_refuses_images(open_stack: Opener, tmp_path: Path, connected_to: list[str]) -> None:
    """Row 44: before anything is fetched; text is answered."""
    config = config_for(tmp_path)
    blind = config.model_copy(update={"engine": config.engine.model_copy(update={"vision": False})})
    stack = await open_stack(blind)
    assert_openai_error(await stack.client.post(CHAT, json=chat_body()), 400, "model_has_no_vision", "messages")
    remote = await stack.client.post(CHAT, json=about("https://images.test/a.png"))
    assert_openai_error(remote, 400, "model_has_no_vision", "messages")
    text = chat_body(messages=[{"role": "user", "content": "Hi"}], best_of=1)
    assert (await stack.client.post(CHAT, json=text)).status_code == 200
    assert connected_to == []


MODELS = {
    "text": ({"model_type": "qwen3", "hidden_size": 64}, (), False),
    "a vision tower": ({"model_type": "qwen3_vl", "vision_config": {}}, (), True),
    "an image token": ({"model_type": "some", "image_token_index": 7}, (), True),
    "an image processor": ({"model_type": "some"}, ("preprocessor_config.json",), True),
    "no object": ([], (), True),
}


@pytest.mark.parametrize(("config", "files", "expected"), MODELS.values(), ids=MODELS.keys())
def test_a_model_s_files_tell_whether_it_sees(
    tmp_path: Path, config: Any, files: tuple[str, ...], expected: bool
) -> None:
    """Where they do not, it is believed to."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in files:
        (tmp_path / name).write_text("{}")
    assert takes_images(str(tmp_path)) is expected
    assert takes_images("some-organisation/some-model")
    assert takes_images("clients/demo/shapes_vlm")


async def test_a_big_image_does_not_hold_up_the_loop(stack: Stack) -> None:
    """It is decoded beside it."""
    buffer = io.BytesIO()
    Image.effect_noise((2000, 2000), 60).save(buffer, "JPEG", quality=90)
    big = asyncio.create_task(stack.client.post(CHAT, json=about(as_data_url(buffer.getvalue(), "image/jpeg"))))
    lag_s = 0.0
    while not big.done():
        before = time.monotonic()
        await asyncio.sleep(0.005)
        lag_s = max(lag_s, time.monotonic() - before)
    assert (await big).status_code == 200
    assert lag_s < 0.5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_no_url_makes_a_server_error(stack: Stack, data: st.DataObject) -> None:
    """Any text in the place of an address: a refusal in the one shape."""
    pieces = st.sampled_from(
        ["data:", "image/png", ";base64", ",", "https://", "http://", "localhost", "@", "\\", "[", ":"]
    )
    url = data.draw(st.one_of(st.text(max_size=60), st.lists(pieces, max_size=8).map("".join)))
    reply = await stack.client.post(CHAT, json=about(url))
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] in {
        "invalid_image",
        "image_url_forbidden",
        "invalid_request",
        "invalid_encoding",
    }
