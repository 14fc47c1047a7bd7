"""All state: one schema, SQL only here, always with bound parameters.

    schema      the tables (SQLAlchemy Core); migrations/ brings a database to them (Alembic)
    database    Database: the port, and SQLite's adapter with its one group-committing writer
    records     the rows as frozen dataclasses
    groups      groups and their candidates
    signals     what people said about them
    feed        the append-only change log
    adapters    adapters, their moves and reports
    routing     one row per alias, compare-and-swap
    leases      who may train an alias
    audit       who changed what
    blobs       files by content (images), files by name (adapters)

Every function of these modules takes a SQLAlchemy `Connection` and runs inside the caller's transaction:
`await database.write(lambda c: groups.insert(c, record))`.
"""
