"""Fixtures of all tests: the one real engine, PostgreSQL and S3 server of a session; image servers, good and bad."""

from tests.engine_fixture import engine_session
from tests.image_server import authority, connected_to, image_server, plain_image_server
from tests.postgres_fixture import postgres
from tests.s3_fixture import s3_address, s3_url

__all__ = [
    "authority",
    "connected_to",
    "engine_session",
    "image_server",
    "plain_image_server",
    "postgres",
    "s3_address",
    "s3_url",
]
