"""Which database, by the configuration."""

from __future__ import annotations

from server.config import StoreConfig
from server.store.database import Database
from server.store.postgres import PostgresDatabase
from server.store.sqlite import SqliteDatabase

SQLITE_NAME = "plumbline.db"


def open_database(config: StoreConfig) -> Database:
    """PostgreSQL where a URL is set, else SQLite in the state directory. Not started yet."""
    url = config.url.get_secret_value()
    if url:
        return PostgresDatabase(url, read_connections=config.read_connections)
    return SqliteDatabase(config.directory / SQLITE_NAME, read_connections=config.read_connections)
