"""The Python SDK against the real service on real vLLM: what an app does in its first minutes."""

from __future__ import annotations

import pytest

from clients import AsyncPlumbline, Plumbline
from clients.demo.scenes import scene
from tests.e2e.conftest import ALIAS, Service

pytestmark = pytest.mark.engine


def test_an_app_asks_and_judges(service: Service) -> None:
    """An image, the best of four, a choice between two, a correction, another answer; streamed token by token."""
    with Plumbline(service.url, model=ALIAS) as client:
        options = {"images": [scene(5).data_url()], "max_tokens": 32}
        answer = client.chat("Describe the image.", best_of=4, compare=True, explain=True, user="ann", **options)
        assert answer.text and answer.adapter
        assert len(answer.candidates) == 4 and all(one.scores for one in answer.candidates)
        assert answer.prefer(0, over=1).trainable
        assert answer.correct("One red square.").trainable
        assert answer.regenerate().thumbs_up().completion_id != answer.id
        with client.stream("Describe the image.", best_of=1, **options) as pieces:
            assert len(list(pieces)) > 1
        assert pieces.answer.thumbs_down("wrong").id


async def test_an_asynchronous_app_does_the_same(service: Service) -> None:
    """Whole and streamed."""
    async with AsyncPlumbline(service.url, model=ALIAS) as client:
        answer = await client.chat("Describe the image.", images=[scene(6).data_url()], best_of=2, max_tokens=16)
        assert (await answer.thumbs_up()).completion_id == answer.id
        async with await client.stream("Describe the image.", max_tokens=16) as pieces:
            assert "".join([piece async for piece in pieces]) == pieces.answer.text
