"""How large the database is."""

from __future__ import annotations

from sqlalchemy import Connection


def database_bytes(connection: Connection) -> int:
    """Size on disk, without the write-ahead log. Costs no scan."""
    if connection.dialect.name == "postgresql":
        found = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
        return int(found)
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
