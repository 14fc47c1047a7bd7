"""`python -m learner.reward_bt --server URL --out DIR`: a reward model of one alias's pairs, for vLLM's pooling routes.

Reads the training feed as the learner does, in a state directory of its own; takes no lease, for it changes nothing on
the server. A tenth of the prompts is kept to measure by.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from clients.client import PlumblineClient, PlumblineError
from learner.errors import LearnerError

logger = logging.getLogger("learner.reward_bt")


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    from learner.reward_training import build  # noqa: PLC0415 - torch takes seconds, and --help none

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with PlumblineClient(given.server, given.key) as client:
            build(client, given)
    except (LearnerError, PlumblineError) as error:
        logger.error("%s", error)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m learner.reward_bt", description=(__doc__ or "").partition("\n")[0])
    add = made.add_argument
    add("--server", required=True, metavar="URL")
    add("--alias", default="default", help="model name whose pairs are learned (default: %(default)s)")
    add("--key", default=os.environ.get("PLUMBLINE_KEY"), help="API key of role learner (or PLUMBLINE_KEY)")
    add("--state", type=Path, default=Path("state/reward_bt"), metavar="DIR", help="what is kept meanwhile")
    add("--base-model", metavar="DIR", help="the base model here, when it lies elsewhere than on the server")
    add("--out", type=Path, required=True, metavar="DIR", help="where the model goes; must not exist")
    add("--ending", type=_ids, required=True, metavar="IDS", help="ids that end an assistant's turn, e.g. 151645,198")
    add("--epochs", type=int, default=2, help="passes over the pairs (default: %(default)s)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    return made


def _ids(said: str) -> tuple[int, ...]:
    return tuple(int(one) for one in said.split(","))


if __name__ == "__main__":
    sys.exit(main())
