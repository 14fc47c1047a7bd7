"""`plumbline keys` against a server that is played by a function."""

from __future__ import annotations

import httpx
import pytest

from tests.clients.cli.test_commands import Server

KEY = {"id": "key-1", "name": "site", "tenant": "acme", "role": "app", "created_by": "key-0", "created_at": 1.0}


def test_a_new_key_is_printed_alone() -> None:
    """So that a script can take it as it is."""
    server = Server({"POST /v1/keys": {**KEY, "key": "pk-secret"}})
    result = server.run(
        "keys", "create", "--role", "app", "--name", "site", "--expires-in", "90d", "--tokens-per-minute", "1000"
    )
    assert (result.exit_code, result.stdout) == (0, "pk-secret\n")
    assert server.body == {
        "role": "app", "name": "site", "tenant": None, "expires_in_s": 90 * 86_400.0,
        "requests_per_minute": None, "candidates_per_minute": None, "tokens_per_minute": 1000,
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [["--expires-in", "soon"], ["--tenant", ""], ["--expires-in", "0d"]])
def test_wrong_words_reach_no_server(wrong: list[str]) -> None:
    """Exit status 2, one line, no request."""
    server = Server({})
    result = server.run("keys", "create", "--role", "app", *wrong)
    assert (result.exit_code, result.stderr.count("\n"), server.requests) == (2, 1, [])


class PagedServer(Server):
    """Gives its pages one after the other."""

    def __init__(self, pages: list[dict[str, object]]) -> None:
        super().__init__({})
        self._pages = iter(pages)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.answers = {"GET /v1/keys": next(self._pages)}
        return super().__call__(request)


def test_the_list_is_read_to_its_end() -> None:
    """Page after page."""
    pages = [{"data": [KEY], "has_more": True}, {"data": [{**KEY, "id": "key-2", "revoked_at": 2.0}]}]
    result = PagedServer(pages).run("keys", "list")
    assert result.exit_code == 0, result.output
    assert "key-1" in result.stdout and "key-2" in result.stdout


def test_revoking_may_be_forced() -> None:
    """Only when it is asked for."""
    server = Server({"DELETE /v1/keys/key-1": {**KEY, "revoked_at": 2.0}})
    assert "key-1 is revoked" in server.run("keys", "revoke", "key-1").stdout
    assert server.requests[-1].url.query == b""
    server.run("keys", "revoke", "key-1", "--force")
    assert server.requests[-1].url.query == b"force=true"
