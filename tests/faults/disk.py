"""A disk under SQLite that fails, kills or waits on order: a VFS between SQLite and the operating system's.

SQLite asks its VFS for every write, sync and truncation of its files. `install()` puts one of our own in front of the
default one, for every connection that this process opens afterwards; each call first passes a point of `POINTS`, where
a plan in the syntax of `server.faults` may act. So a process dies at real syncs, and a failure comes out of SQLite the
way it would come from a disk.

Python's `sqlite3` must be linked to the system's shared library (`available()`); ours then speaks to the same one.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from server.faults import Plan

VARIABLE: Final = "PLUMBLINE_TEST_DISK"
"""What `install()` arms in a process of its own."""
POINTS: Final = [f"{file}.{action}" for file in ("db", "wal") for action in ("write", "half_write", "sync", "truncate")]
"""`half_write` stands after the first half of a write: a kill there tears it."""

_FULL, _OK = 13, 0
_FAILURES = {"write": 778, "half_write": 778, "sync": 1034, "truncate": 1546}
"""SQLITE_IOERR_WRITE, _FSYNC and _TRUNCATE."""
_WAL_FLAG, _DB_FLAG = 0x00080000, 0x00000100

_P, _I, _I64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_Write = ctypes.CFUNCTYPE(_I, _P, _P, _I, _I64)
_Truncate = ctypes.CFUNCTYPE(_I, _P, _I64)
_Sync = ctypes.CFUNCTYPE(_I, _P, _I)
_Open = ctypes.CFUNCTYPE(_I, _P, _P, _P, _I, _P)


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = [
        ("version", _I),
        ("close", _P),
        ("read", _P),
        ("write", _P),
        ("truncate", _P),
        ("sync", _P),
        *((f"rest{number}", _P) for number in range(13)),
    ]


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = [
        ("version", _I),
        ("file_size", _I),
        ("path_size", _I),
        ("next", _P),
        ("name", ctypes.c_char_p),
        ("data", _P),
        ("open", _P),
        *((f"rest{number}", _P) for number in range(15)),
    ]


class Disk:
    """The VFS, registered once in a process. `plan` is what is armed now, if anything."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        library = _library()
        library.sqlite3_vfs_find.restype = _P
        found = library.sqlite3_vfs_find(None)
        self._vfs = _Vfs.from_buffer_copy(ctypes.string_at(found, ctypes.sizeof(_Vfs)))
        self._real_open = _Open(self._vfs.open)
        self._open = _Open(self._on_open)
        self._vfs.name = b"plumbline-test"
        self._vfs.open = ctypes.cast(self._open, _P).value
        self._methods: dict[tuple[int, str], tuple[_Methods, list[Any]]] = {}
        assert library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == _OK

    def _on_open(self, vfs: int, name: int, file: int, flags: int, out_flags: int) -> int:
        status = self._real_open(vfs, name, file, flags, out_flags)
        kind = "wal" if flags & _WAL_FLAG else "db" if flags & _DB_FLAG else None
        if status == _OK and kind is not None:
            methods = ctypes.cast(file, ctypes.POINTER(_P))
            ours, _ = self._wrapped(methods[0], kind)
            methods[0] = ctypes.addressof(ours)
        return status

    def _wrapped(self, address: int, kind: str) -> tuple[_Methods, list[Any]]:
        """The file's methods with three of them replaced; kept, since SQLite keeps the pointer."""
        if (address, kind) in self._methods:
            return self._methods[address, kind]
        ours = _Methods.from_buffer_copy(ctypes.string_at(address, ctypes.sizeof(_Methods)))
        real_write, real_truncate, real_sync = _Write(ours.write), _Truncate(ours.truncate), _Sync(ours.sync)

        def write(file: int, data: int, size: int, offset: int) -> int:
            if status := self._hit(kind, "write"):
                return status
            if self.plan is not None:
                real_write(file, data, size // 2, offset)
                if status := self._hit(kind, "half_write"):
                    return status
            return real_write(file, data, size, offset)

        def truncate(file: int, size: int) -> int:
            return self._hit(kind, "truncate") or real_truncate(file, size)

        def sync(file: int, flags: int) -> int:
            return self._hit(kind, "sync") or real_sync(file, flags)

        callbacks = [_Write(write), _Truncate(truncate), _Sync(sync)]
        ours.write, ours.truncate, ours.sync = (ctypes.cast(one, _P).value for one in callbacks)
        self._methods[address, kind] = ours, callbacks
        return ours, callbacks

    def _hit(self, kind: str, action: str) -> int:
        if self.plan is None:
            return _OK
        try:
            self.plan.hit(f"{kind}.{action}")
        except OSError as error:
            return _FULL if error.errno == errno.ENOSPC else _FAILURES[action]
        return _OK

    @contextlib.contextmanager
    def armed(self, specification: str) -> Iterator[Plan]:
        self.plan = Plan(specification, POINTS)
        try:
            yield self.plan
        finally:
            self.plan = None


def _library() -> ctypes.CDLL:
    """The library that Python's own module is linked to."""
    import _sqlite3

    module = Path(_sqlite3.__file__)
    ctypes.CDLL(str(module))
    paths = re.findall(r"(/\S*libsqlite3\S*)", Path("/proc/self/maps").read_text())
    if not paths:
        raise OSError("sqlite3 is not linked to a shared library")
    return ctypes.CDLL(paths[0])


def available() -> bool:
    try:
        return _library().sqlite3_libversion_number() == _number(sqlite3.sqlite_version)
    except (OSError, AttributeError):
        return False


def _number(version: str) -> int:
    major, minor, patch = map(int, version.split("."))
    return major * 1_000_000 + minor * 1_000 + patch


@cache
def install() -> Disk:
    """The process's disk. What `PLUMBLINE_TEST_DISK` says is armed at once."""
    disk = Disk()
    if specification := os.environ.get(VARIABLE):
        disk.plan = Plan(specification, POINTS)
    return disk
