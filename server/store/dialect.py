"""Where the databases differ: an insert that expects conflicts is spelled differently, and a statement takes only so
many parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

PART = 500
"""Values in one `IN`. Both databases take 32,766 parameters at most."""


def upsert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def insert_missing(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that leaves alone what is there already under its key."""
    return _insert_missing(connection.dialect.name, table)


@functools.cache  # making the statement costs as much as running it
def _insert_missing(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    return (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table).on_conflict_do_nothing()


def in_parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """The values in pieces that fit into one `IN`."""
    return (values[first : first + PART] for first in range(0, len(values), PART))
