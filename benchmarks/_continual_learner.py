"""The learner's process of `benchmarks.continual`: rounds as ordered, one JSON line in and one out for each.

python -m benchmarks._continual_learner URL STATE

An order is `{"alias", "from_base", "forgets"}`: whether the round starts from the base model in place of the active
adapter, and whether what was learned from is gone after it. The answer is what the learner reported of its round.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from clients.client import PlumblineClient
from server.wire.base import BASE
from server.wire.training import LeaseReply, LeaseRequest, RoundReport


class Ordered(PlumblineClient):
    """A server whose rounds start where they are ordered to."""

    def __init__(self, url: str, *, from_base: bool) -> None:
        super().__init__(url)
        self._from_base = from_base
        self.report: RoundReport | None = None

    def lease(self, request: LeaseRequest) -> LeaseReply:
        lease = super().lease(request)
        return lease.model_copy(update={"active": BASE}) if self._from_base else lease

    def report_round(self, report: RoundReport) -> None:
        self.report = report
        super().report_round(report)


def main() -> int:
    url, state = sys.argv[1], Path(sys.argv[2])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded
    import torch  # noqa: PLC0415

    from learner.loop import Learner, Options  # noqa: PLC0415

    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        with Ordered(url, from_base=order["from_base"]) as client:
            Learner(client, Options(alias=order["alias"], state=state, once=True)).run()
        if order["forgets"]:
            for group in (state / order["alias"] / "replay").glob("*.json"):
                group.unlink()
        print(client.report.model_dump_json() if client.report else "{}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
