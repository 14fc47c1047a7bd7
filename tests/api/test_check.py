"""The check of the whole state over the API, beside the running service."""

from __future__ import annotations

from pathlib import Path

from server.store import schema
from tests.api.conftest import Stack


async def test_a_sound_state_and_a_broken_one(each_stack: Stack, tmp_path: Path) -> None:
    """A lost image is named, with what to do; nothing else is."""
    stack = each_stack
    answer = await stack.chat()
    said = await stack.client.post("/v1/feedback", json={"completion_id": answer["id"], "rating": "up"})
    assert said.status_code == 200
    assert (await stack.client.get("/v1/check")).json()["data"] == []
    rows = await stack.services.database.read(lambda c: c.execute(schema.media.select()).all())
    (tmp_path / "media" / rows[0].sha256[:2] / rows[0].sha256).unlink()
    found = (await stack.client.get("/v1/check")).json()["data"]
    assert [(one["check"], one["what"]) for one in found] == [("images", f"image {rows[0].sha256} is missing")]
    assert found[0]["remedy"]
