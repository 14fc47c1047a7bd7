"""`plumbline rounds` against a server that is played by a function."""

from __future__ import annotations

from pathlib import Path

from tests.clients.cli.test_commands import Server
from tests.clients.cli.test_privacy import run

ROUND = {
    "id": 3,
    "alias": "pets",
    "outcome": "discarded",
    "reason": "KL to the base is 9 nats a token",
    "adapter": None,
    "parent": "base",
    "signals": 60,
    "created_at": 1.0,
}
DETAIL = {"skipped": {"image missing": 2}, "curve": {"loss": [0.5] * 100}}


def test_rounds_are_listed_with_what_became_of_them() -> None:
    """Discarded ones too, and why; what the learner did not tell is a dash."""
    server = Server({"GET /v1/rounds": {"data": [ROUND]}})
    result = run(server, "rounds", "--alias", "pets")
    assert result.exit_code == 0, result.output
    assert server.requests[-1].url.query == b"alias=pets"
    for shown in ("discarded", "KL to the base", "base", "60", "-"):
        assert shown in result.stdout


def test_one_round_is_shown_or_written_as_its_page(tmp_path: Path) -> None:
    """Its figures without the curves; with --out the server's page as it is."""
    shown = run(Server({"GET /v1/rounds/3": {**ROUND, "detail": DETAIL}}), "rounds", "3").stdout
    assert "image missing" in shown and "0.5" not in shown
    page = tmp_path / "round.html"
    result = run(Server({"GET /v1/rounds/3": "<!doctype html>"}), "rounds", "3", "--out", str(page))
    assert result.exit_code == 0, result.output
    assert "doctype" in page.read_text()
    for wrong in (["3", "--out", "round.pdf"], ["--out", str(page)]):
        assert run(Server({}), "rounds", *wrong).exit_code == 2
