"""What operators say about several aliases."""

from __future__ import annotations

from pathlib import Path

from server.config import AliasConfig, Config, HttpConfig, StoreConfig
from tests.api.conftest import Opener, assert_openai_error


async def test_a_way_back_names_its_alias_where_there_are_several(open_stack: Opener, tmp_path: Path) -> None:
    """No alias is rolled back because it happens to be the first."""
    aliases = (AliasConfig(name="pets"), AliasConfig(name="plants"))
    stack = await open_stack(
        Config(http=HttpConfig(metrics_port=0), store=StoreConfig(directory=tmp_path), aliases=aliases)
    )
    for path in ("/v1/rollback", "/v1/rollback/undo"):
        refused = await stack.client.post(path, json={})
        assert_openai_error(refused, 400, "invalid_request", "alias")
        assert "pets, plants" in refused.json()["error"]["message"]
        named = await stack.client.post(path, json={"alias": "plants"})
        assert_openai_error(named, 400, "illegal_move")
