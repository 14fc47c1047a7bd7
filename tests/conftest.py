"""Fixtures of all tests: the one real engine, the one real PostgreSQL and the one S3 server of a session."""

from tests.engine_fixture import engine_session
from tests.postgres_fixture import postgres
from tests.s3_fixture import s3_address, s3_url

__all__ = ["engine_session", "postgres", "s3_address", "s3_url"]
