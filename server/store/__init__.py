"""All state: one schema, SQL only here, always with bound parameters.

    schema      the tables (SQLAlchemy Core); migrations/ brings a database to them (Alembic)
    database    Database: the port, and SQLite's adapter with its one group-committing writer
    records     the rows as frozen dataclasses
    groups      groups and their candidates
    signals     what people said about them
    feed        the append-only change log
    erasure     a person's data and old groups, taken away; what stays are tombstones
    quarantine  signals set aside, and taken back in
    clock       the latest time that was believed
    adapters    adapters, their moves, reports and what they learned from
    routing     one row per alias, compare-and-swap
    evidence    what came in since a canary began, in the order of the commits
    shadows     what shadows' answers were worth
    leases      who may train an alias
    sizes       how large the database is
    rounds      what became of training rounds
    audit       who changed what
    blobs       images by content: the port, on the local disk or in the shared store
    remote      files in an object store that several servers share

Every function of these modules takes a SQLAlchemy `Connection` and runs inside the caller's transaction:
`await database.write(lambda c: groups.insert(c, record))`.
"""
