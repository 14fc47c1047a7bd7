"""Fixtures of all tests: the one real engine and the one real PostgreSQL of a session."""

from tests.engine_fixture import engine_session
from tests.postgres_fixture import postgres

__all__ = ["engine_session", "postgres"]
