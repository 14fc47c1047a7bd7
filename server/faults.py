"""Named fault points: places where a test, a benchmark or a drill can kill, fail or delay this process.

A point costs a function call and one comparison while nothing is armed. What is armed is read once, when the process
starts (`arm_from_environment`), from `PLUMBLINE_FAULTS`, and holds for this process alone:

    PLUMBLINE_FAULTS="store.before_commit=kill@3,store.sync=delay:4"

    rule    POINT=ACTION[:ARGUMENT][@HIT[+]]      rules are separated by commas; each counts for itself
    POINT   a name of `POINTS`, or patterns of them joined by | (`store.*|file.*`)
    ACTION  kill            SIGKILL to this process: nothing is flushed, closed or told
            fail[:ERRNO]    raise an `OSError`, as a disk or a connection would (EIO if none is named)
            delay:MS        wait so many milliseconds
    @HIT    the first time that acts, counted from 1; without a `+` it acts that once, with one for ever after.
            Without @HIT: every time

In one process a test arms with `armed(...)`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fnmatch
import os
import re
import signal
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

VARIABLE: Final = "PLUMBLINE_FAULTS"

POINTS: Final = {
    "adapter.before_rename": "an adapter's files are written and synced, and have no place yet",
    "adapter.after_rename": "an adapter's directory is in place, and no row tells of it yet",
    "adapter.after_commit": "an adapter's row is durable, and its uploader has not been told",
    "adapter.before_advance": "an adapter passed its probe or its gate, and its row does not say so yet",
    "adapter.clearing": "something that belongs to no row is about to be removed",
    "chat.before_insert": "an answer is ready, and nothing of it is stored",
    "chat.after_insert": "the answer's group is in the open transaction",
    "chat.after_commit": "the group is durable, and the last byte is not sent",
    "chat.after_first_byte": "the first event of a stream is sent",
    "feedback.before_commit": "a signal is in the open transaction",
    "feedback.after_commit": "a signal is durable, and not acknowledged",
    "file.before_rename": "an image, or another file, is written and synced, and has no name yet",
    "file.after_rename": "the file has its name, and no row tells of it yet",
    "file.sync_names": "a directory is about to be synced, so that the names in it last",
    "move.before_commit": "a move of routing is in the open transaction",
    "move.after_commit": "a move of routing is durable, and requests still go the old way",
    "retention.half_done": "some of what is due has expired, and some has not",
    "store.migrating": "the schema is changed, and the change is not committed",
    "store.before_commit": "a transaction holds all its writes",
    "store.sync": "a transaction is about to be synced: a delay here is a slow disk",
    "store.after_commit": "a transaction is durable, and nobody who waits has been told",
    "store.reopening": "a store that failed is being opened again",
    "upload.write": "a piece of an adapter's file is about to be written",
}
"""Every point, and what stands there at that moment."""

_RULE = re.compile(
    r"(?P<point>[a-z_.*|]+)=(?P<action>kill|fail|delay)(:(?P<argument>\w+(\.\w+)?))?(@(?P<hit>[1-9][0-9]*)(?P<on>\+)?)?"
)


@dataclass(slots=True)
class _Rule:
    patterns: list[str]
    action: str
    argument: str | None
    first: int
    last: float
    hits: int = 0

    def acts_on(self, name: str) -> bool:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns):
            return False
        self.hits += 1
        return self.first <= self.hits <= self.last


class Plan:
    """What is armed, and what it did."""

    def __init__(self, specification: str, points: Collection[str] = POINTS.keys()) -> None:
        self.acted = 0
        """How often a rule acted."""
        self._rules = [_parse(rule.strip(), points) for rule in specification.split(",") if rule.strip()]
        self._lock = threading.Lock()

    def hit(self, name: str) -> float:
        """Act as the rules say; the seconds that remain to be waited."""
        with self._lock:
            acting = [rule for rule in self._rules if rule.acts_on(name)]
            self.acted += len(acting)
        wait_s = 0.0
        for rule in acting:
            if rule.action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif rule.action == "fail":
                number = getattr(errno, rule.argument or "EIO")
                raise OSError(number, f"{os.strerror(number)} (injected at {name})")
            else:
                wait_s += float(rule.argument or 0) / 1000
        return wait_s


def _parse(text: str, points: Collection[str]) -> _Rule:
    match = _RULE.fullmatch(text)
    if match is None:
        raise ValueError(f"{VARIABLE}: {text!r} is not POINT=ACTION[:ARGUMENT][@HIT[+]]")
    patterns, action, argument = match["point"].split("|"), match["action"], match["argument"]
    for pattern in patterns:
        if not fnmatch.filter(points, pattern):
            raise ValueError(f"{VARIABLE}: there is no point {pattern}; there are {', '.join(points)}")
    if action == "fail" and argument is not None and argument not in errno.errorcode.values():
        raise ValueError(f"{VARIABLE}: {argument} is no error number's name")
    if action == "delay" and (argument is None or not argument.replace(".", "", 1).isdigit()):
        raise ValueError(f"{VARIABLE}: delay wants milliseconds, as in delay:4")
    first = int(match["hit"] or 1)
    is_once = match["hit"] is not None and match["on"] is None
    return _Rule(patterns, action, argument, first, first if is_once else float("inf"))


_plan: Plan | None = None


def arm_from_environment() -> None:
    """Arm this process as `PLUMBLINE_FAULTS` says; raises `ValueError` with one line where it is no specification."""
    global _plan  # noqa: PLW0603 - what is armed belongs to the process
    specification = os.environ.get(VARIABLE)
    _plan = Plan(specification) if specification else None


def point(name: str) -> None:
    """A place in blocking code where what is armed happens."""
    if _plan is not None and (wait_s := _plan.hit(name)):
        time.sleep(wait_s)


async def async_point(name: str) -> None:
    """The same on the event loop, which goes on during a delay."""
    if _plan is not None and (wait_s := _plan.hit(name)):
        await asyncio.sleep(wait_s)


@contextlib.contextmanager
def armed(specification: str) -> Iterator[Plan]:
    """Arm this process for the length of a block, in place of what was armed before."""
    global _plan  # noqa: PLW0603 - what is armed belongs to the process
    before, _plan = _plan, Plan(specification)
    try:
        yield _plan
    finally:
        _plan = before
