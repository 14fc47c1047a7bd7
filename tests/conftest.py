"""Fixtures of all tests: the one real engine of a session."""

from tests.engine_fixture import engine_session

__all__ = ["engine_session"]
