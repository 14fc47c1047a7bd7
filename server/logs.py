"""Logs: one JSON object a line on standard error, control characters escaped, no user text."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from traceback import format_tb

from server.errors import PlumblineError

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

SPEAKING = (OSError, PlumblineError)
"""Exceptions whose messages are the system's or our own. Any other's may quote what a user wrote."""


_encode = json.JSONEncoder(default=str).encode


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            entry["trace"] = trace(record.exc_info[1])
        return _encode(entry)


def trace(error: BaseException) -> str:
    """Where an exception and its causes came from, the first cause first."""
    parts = []
    current: BaseException | None = error
    while current is not None:
        says = f": {current}" if isinstance(current, SPEAKING) else ""
        parts.append(f"{''.join(format_tb(current.__traceback__))}{type(current).__name__}{says}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n".join(reversed(parts))


def configure_logging(level: str) -> None:
    # What no line shows is not gathered (the "Optimization" section of the logging guide).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Pillow warns about what hostile images hold, in words that differ each time, and Python remembers each of them.
    warnings.filterwarnings("ignore", module="PIL")
