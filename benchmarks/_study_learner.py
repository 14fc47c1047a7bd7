"""The learner's process of `benchmarks._study`: rounds as ordered, one JSON line in and one out for each.

python -m benchmarks._study_learner URL
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path


def main() -> int:
    url = sys.argv[1]
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded
    from benchmarks._study import TurnedRound  # noqa: PLC0415
    from benchmarks._study_rewards import judged  # noqa: PLC0415
    from learner.loop import Learner, Options  # noqa: PLC0415
    from learner.state import StateDir  # noqa: PLC0415

    rewards: dict[Path, dict[str, float]] = {}
    for line in sys.stdin:
        order = json.loads(line)
        alias, state = order["alias"], Path(order["state"])
        state.mkdir(exist_ok=True)
        with TurnedRound(
            url, order["learner"], order["flips"], order["contrary"], is_speechless=order["is_speechless"]
        ) as client:
            if order["reward_model"]:
                if state not in rewards:
                    rewards[state] = judged(client, alias, state)
                client.rewards = rewards[state]
            directory = StateDir(state / alias)
            known = directory.load()
            known.reliabilities = {}  # each recipe gets to know people by itself
            directory.save(known)
            directory.close()
            Learner(client, Options(alias=alias, state=state, once=True)).run()
            report = client.report
        print(report.model_dump_json() if report else "{}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
