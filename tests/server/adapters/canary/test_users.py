"""Who has contributed already."""

from __future__ import annotations

from server.adapters.canary.users import Users


def test_a_unit_is_remembered_while_as_many_others_come() -> None:
    """Memory is bounded, and the newest are never the forgotten ones."""
    users = Users(remembered=100)
    for number in range(1000):
        users.remember(f"user{number}", 3)
        assert users.known(f"user{max(0, number - 99)}") == 3
    assert users.known("user0") == 0
    assert len(users) <= 200
