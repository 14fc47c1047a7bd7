"""The right to train an alias: taken, renewed by a background thread, and lost the moment the server says so."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from clients.client import PlumblineClient, PlumblineError
from learner.errors import LeaseLost
from server.wire.training import HeartbeatRequest, LeaseReply

LOST_STATUSES: Final = frozenset({403, 404, 409, 410, 412})

logger = logging.getLogger(__name__)


class Heart:
    """Sends a heartbeat every `interval_s` while it is entered. An unreachable server is no loss: it may come back."""

    def __init__(self, client: PlumblineClient, lease: LeaseReply, interval_s: float) -> None:
        self._client = client
        self._lease = lease
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._phase = ""
        self._metrics: dict[str, float] = {}
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)

    def tell(self, phase: str, metrics: Mapping[str, float] | None = None) -> None:
        """What the next heartbeats say; values that are not finite are left out."""
        with self._lock:
            self._phase = phase
            self._metrics |= {name: value for name, value in (metrics or {}).items() if math.isfinite(value)}

    def check(self) -> None:
        """Raises `LeaseLost` once the server has refused a heartbeat."""
        with self._lock:
            if self._lost is not None:
                raise LeaseLost(self._lost)

    def beat(self) -> None:
        with self._lock:
            request = HeartbeatRequest(
                alias=self._lease.alias, token=self._lease.token, phase=self._phase, metrics=dict(self._metrics)
            )
        try:
            self._client.heartbeat(request)
        except PlumblineError as error:
            logger.warning("heartbeat: %s", error)
            if error.status in LOST_STATUSES:
                with self._lock:
                    self._lost = f"the lease was lost: {error.message}"

    def _run(self) -> None:
        self.beat()
        while not self._stop.wait(self._interval_s):
            self.beat()
