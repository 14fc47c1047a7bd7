"""Which database and which place for images and adapters, by the configuration."""

from __future__ import annotations

from server.config import StoreConfig
from server.store.blobs import BlobStore, LocalBlobs, RemoteBlobs
from server.store.database import Database
from server.store.postgres import PostgresDatabase
from server.store.remote import RemoteFiles
from server.store.sqlite import SqliteDatabase

SQLITE_NAME = "plumbline.db"
MEDIA_NAME = "media"


def open_database(config: StoreConfig) -> Database:
    """PostgreSQL where a URL is set, else SQLite in the state directory. Not started yet."""
    url = config.url.get_secret_value()
    if url:
        return PostgresDatabase(url, read_connections=config.read_connections)
    return SqliteDatabase(config.directory / SQLITE_NAME, read_connections=config.read_connections)


def open_remote_files(config: StoreConfig) -> RemoteFiles | None:
    """The store that several servers share, where one is set; raises `ValueError` where it cannot be used."""
    return RemoteFiles(config.blobs) if config.blobs else None


def open_blobs(config: StoreConfig, remote: RemoteFiles | None) -> BlobStore:
    """Images: in the shared store, else in the state directory. Blocking; raises `OSError`."""
    return LocalBlobs(config.directory / MEDIA_NAME) if remote is None else RemoteBlobs(remote)
