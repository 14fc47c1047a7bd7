"""The learner's process of `benchmarks._study`: one round as ordered. It prints the round's detail, as JSON.

python -m benchmarks._study_learner URL ALIAS STATE ORDER
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path


def main() -> int:
    url, alias, state, ordered = sys.argv[1:]
    order = json.loads(ordered)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded
    from benchmarks._study import TurnedRound  # noqa: PLC0415
    from benchmarks._study_rewards import judged  # noqa: PLC0415
    from learner.loop import Learner, Options  # noqa: PLC0415

    options = Options(alias=alias, state=Path(state), once=True)
    with TurnedRound(url, order["learner"], order["flips"]) as client:
        if order["reward_model"]:
            client.rewards = judged(client, alias, Path(state))
        status = Learner(client, options).run()
    print(json.dumps(client.report.detail if client.report else {}))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
