"""The SDK against the whole service on a fake engine: each promise, of the synchronous and the asynchronous client."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image
from sqlalchemy import Connection, select

from clients import PlumblineError, Receipt
from clients.sdk.answers import understood
from server.store import schema
from tests.api.conftest import data_url
from tests.api.served import Served
from tests.clients.sdk.flavours import Flavour

PICTURE = Image.new("RGB", (32, 32), "red")


def picture_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, format=kind)
    return buffer.getvalue()


def kept(server: Served, completion: str) -> list[tuple[str, dict[str, Any]]]:
    """The signals on a completion as the store has them, oldest first."""
    table = schema.signals

    def look(connection: Connection) -> list[tuple[str, dict[str, Any]]]:
        rows = connection.execute(
            select(table.c.kind, table.c.payload).where(table.c.group_id == completion).order_by(table.c.created_at)
        )
        return [(row.kind, row.payload if isinstance(row.payload, dict) else json.loads(row.payload)) for row in rows]

    return server.run(server.services.database.read(look))


def test_an_answer_says_who_gave_it(sdk: Flavour) -> None:
    """Text, adapter, ids, and the conversation to go on from."""
    answer = sdk.got(sdk.client.chat("What?", system="Be brief.", max_tokens=8, seed=1))
    assert answer.text and answer.id.startswith("cmpl-")
    assert (answer.adapter, answer.finish_reason) == ("base", "stop")
    assert [one["role"] for one in answer.messages] == ["system", "user", "assistant"]
    assert [one.text for one in answer.candidates] == [answer.text]
    more = sdk.got(sdk.client.chat("And now?", history=answer.messages, max_tokens=8))
    assert [one["role"] for one in more.messages] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images_come_as_people_have_them(kind: str, sdk: Flavour, tmp_path: Path) -> None:
    """Path, text of a path, bytes, address and Pillow image are one and the same to the server."""
    path = tmp_path / "cup.img"
    path.write_bytes(picture_bytes(kind))
    images = [path, str(path), path.read_bytes(), data_url(), PICTURE]
    answer = sdk.got(sdk.client.chat("What?", images=images, max_tokens=4))
    parts = answer.messages[0]["content"]
    assert [part["type"] for part in parts] == ["image_url"] * 5 + ["text"]
    assert {part["image_url"]["url"].split(";")[0] for part in parts[:3]} == {f"data:image/{kind.lower()}"}


@pytest.mark.parametrize(("image", "error"), [(b"GIF89a", ValueError), ("nothing.png", FileNotFoundError)])
def test_what_is_no_image_is_refused_before_anything_is_sent(image: Any, error: type[Exception], sdk: Flavour) -> None:
    """With the file's own name, or what to do."""
    with pytest.raises(error, match=r"PNG, JPEG or WebP|nothing\.png"):
        sdk.got(sdk.client.chat("What?", images=[image]))


def test_an_explained_answer_has_every_candidate(sdk: Flavour) -> None:
    """Those that were shown first; scores, verdicts and probability with each."""
    answer = sdk.got(sdk.client.chat("What?", best_of=4, compare=True, explain=True, max_tokens=8, seed=3))
    assert [one.is_shown for one in answer.candidates] == [True, True, False, False]
    assert sum(one.probability for one in answer.candidates) == pytest.approx(1)
    assert all(one.scores and one.verdicts and one.total is not None for one in answer.candidates)
    assert answer.receipt.candidates == tuple(one.id for one in answer.candidates[:2])


def test_every_opinion_is_kept(sdk: Flavour, server: Served) -> None:
    """Thumb with its reason, grade, correction, choice, ranking and tie, each about the answer it names."""
    answer = sdk.got(sdk.client.chat("What?", best_of=4, compare=True, max_tokens=8, user="ann", seed=3))
    first, second = answer.receipt.candidates
    for said in (
        answer.thumbs_up("clear", labels=["tone"]),
        answer.thumbs_down(index=1),
        answer.rate(0.5),
        answer.correct("A red cup.", "wrong colour"),
        answer.prefer(0, over=1),
        answer.rank([1, 0]),
        answer.tie("bad"),
    ):
        signal = sdk.got(said)
        assert signal.completion_id == answer.id
    signals = kept(server, answer.id)
    correction = signals[3][1].pop("correction_id")
    assert correction
    assert signals == [
        ("rating", {"candidate_id": first, "rating": 1.0, "comment": "clear", "labels": ["tone"]}),
        ("rating", {"candidate_id": second, "rating": -1.0}),
        ("rating", {"candidate_id": first, "rating": 0.5}),
        ("correction", {"candidate_id": first, "comment": "wrong colour"}),
        ("choice", {"chosen": first, "rejected": [second]}),
        ("ranking", {"ranking": [second, first]}),
        ("tie", {"tie": "bad"}),
    ]


def test_another_answer_names_the_one_that_did_not_please(sdk: Flavour, server: Served) -> None:
    """`regenerate` asks the same, without the seed, which would bring the same again."""
    answer = sdk.got(sdk.client.chat("What?", seed=5, best_of=2, max_tokens=8, images=[PICTURE]))
    again = sdk.got(answer.regenerate())
    assert again.id != answer.id
    assert again.messages[:-1] == answer.messages[:-1]
    table = schema.groups

    def look(connection: Connection) -> Any:
        return connection.execute(select(table.c.regenerate_of).where(table.c.id == again.id)).scalar()

    assert server.run(server.services.database.read(look)) == answer.id


def test_a_stream_ends_as_an_answer(sdk: Flavour) -> None:
    """Its pieces are its text, and what comes with a whole reply is there at its end."""
    stream = sdk.got(sdk.client.stream("What?", best_of=1, max_tokens=8))
    with pytest.raises(RuntimeError, match="read to its end"):
        _ = stream.answer
    pieces = sdk.read(stream)
    answer = stream.answer
    assert len(pieces) > 1 and "".join(pieces) == answer.text
    assert answer.reply.usage.completion_tokens > 0
    assert sdk.got(answer.thumbs_up()).trainable
    assert sdk.got(answer.regenerate()).text, "the same question, not streamed"


def test_a_streamed_comparison_has_both_answers(sdk: Flavour) -> None:
    """The pieces are the first one's."""
    stream = sdk.got(sdk.client.stream("What?", best_of=3, compare=True, max_tokens=8))
    assert "".join(sdk.read(stream)) == stream.answer.candidates[0].text
    assert len(stream.answer.candidates) == 2
    assert sdk.got(stream.answer.prefer(1, over=0)).trainable


def test_a_receipt_is_all_that_must_be_kept(sdk: Flavour) -> None:
    """A thumb may come in another request to another process."""
    answer = sdk.got(sdk.client.chat("What?", max_tokens=4))
    receipt = Receipt.model_validate_json(answer.receipt.model_dump_json())
    assert sdk.got(sdk.client.opinions(receipt).thumbs_up()).completion_id == answer.id


def test_the_same_idempotency_key_counts_once(sdk: Flavour, server: Served) -> None:
    """And another opinion under it is refused."""
    answer = sdk.got(sdk.client.chat("What?", max_tokens=4))
    first = sdk.got(answer.thumbs_up(idempotency_key=answer.id))
    assert sdk.got(answer.thumbs_up(idempotency_key=answer.id)).id == first.id
    assert len(kept(server, answer.id)) == 1
    with pytest.raises(openai.UnprocessableEntityError):
        sdk.got(answer.thumbs_down(idempotency_key=answer.id))


@pytest.mark.parametrize(
    ("options", "speak", "said"),
    [
        ({"store": False}, lambda answer: answer.thumbs_up(), "not kept"),
        ({}, lambda answer: answer.prefer(0, over=1), "no answer 1; 1 were shown"),
        ({}, lambda answer: answer.rate(2), "from -1 to 1"),
    ],
)
def test_what_cannot_be_said_is_refused_here(options: dict[str, Any], speak: Any, said: str, sdk: Flavour) -> None:
    """In words that say why, before anything is sent."""
    answer = sdk.got(sdk.client.chat("What?", max_tokens=4, **options))
    with pytest.raises(ValueError, match=said):
        sdk.got(speak(answer))


def test_a_refusal_is_the_openai_packages_own(sdk: Flavour) -> None:
    """With the server's words."""
    with pytest.raises(openai.NotFoundError, match="GET /v1/models"):
        sdk.got(sdk.client.chat("What?", model="nobody"))
    with pytest.raises(openai.BadRequestError, match="colour"):
        sdk.got(sdk.client.chat("What?", more={"colour": 1}))


def test_another_servers_reply_is_named_as_such() -> None:
    """Whoever points the SDK at a plain OpenAI server is told so."""
    with pytest.raises(PlumblineError, match=r"not the reply of a Plumbline server .*base_url"):
        understood({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt", "choices": []})
