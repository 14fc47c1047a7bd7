"""Brings a database to the present schema (Alembic), in the caller's transaction, at start-up."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from server.errors import StorageUnavailable


def migrate(connection: Connection) -> None:
    """Upgrade to the newest revision; raises `StorageUnavailable` when the database is newer than this code."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StorageUnavailable(f"the database belongs to another version of this program: {error}") from error
