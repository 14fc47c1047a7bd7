"""`python -m learner --server URL`: train adapters from what people say about the answers of one alias."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

DESCRIPTION = """\
Follows a Plumbline server's training feed, trains LoRA adapters on its preference signals, and uploads them.
The server decides what becomes of them. May be stopped or killed at any time: the next start resumes."""

EPILOG = """\
The method (objectives, rank, learning rate, ...) is the alias's `learner` section on the server.
Several GPUs: torchrun --nproc-per-node N -m learner --server URL ... (docs/placement.md).
Exit status: 0 after SIGTERM or SIGINT, or with --once after an uploaded adapter; 1 otherwise."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m learner",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--server", required=True, metavar="URL", help="the server, e.g. http://127.0.0.1:8000")
    add("--alias", default="default", help="model name whose signals are learned (default: %(default)s)")
    add("--key", default=os.environ.get("PLUMBLINE_KEY"), help="API key of role learner (or PLUMBLINE_KEY)")
    add("--state", type=Path, default=Path("state/learner"), metavar="DIR", help="what is kept (default: %(default)s)")
    add("--base-model", metavar="DIR", help="the base model here, when it lies elsewhere than on the server")
    add("--once", action="store_true", help="one round with the signals at hand, then exit")
    add(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of torch (default: torch's own choice; beside a busy engine, 1 is faster)",
    )
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: CUDA where there is one")
    add("--poll", type=float, default=2.0, metavar="S", help="seconds between looks at the feed (default: %(default)s)")
    add("--lease-ttl", type=float, default=60.0, metavar="S", help="seconds a lease lasts (default: %(default)s)")
    add("--checkpoint-steps", type=int, default=20, metavar="N", help="steps between checkpoints (default: 20)")
    add("--max-tokens", type=int, default=8192, metavar="N", help="tokens in one forward pass (default: 8192)")
    add("--gradient-checkpointing", action="store_true", help="less memory: layers run again in the backward pass")
    add("--feature-cache-mb", type=int, default=2048, metavar="MB", help="memory for vision features (default: 2048)")
    add(
        "--memory-share",
        type=float,
        metavar="F",
        help="share of the GPU's memory to stay within, e.g. beside an engine",
    )
    add("--shard-base", action="store_true", help="under torchrun: each process keeps a part only of a large base")
    add("--verbose", action="store_true", help="log every HTTP request too")
    return made


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    if not options.verbose:
        logging.getLogger("httpx").setLevel(logging.WARNING)
    # Before torch is loaded: its waiting threads sleep, and do not take cores from an engine beside it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported late: --help and wrong arguments answer at once.
    import torch  # noqa: PLC0415

    from clients.client import PlumblineClient  # noqa: PLC0415
    from learner.follower import Follower  # noqa: PLC0415
    from learner.loop import Learner, LearnerError, Options  # noqa: PLC0415
    from learner.placement import hold_to  # noqa: PLC0415
    from learner.team import join  # noqa: PLC0415
    from learner.workplace import Pace  # noqa: PLC0415

    if options.threads:
        torch.set_num_threads(options.threads)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    pace = Pace(
        max_tokens=options.max_tokens,
        gradient_checkpointing=options.gradient_checkpointing,
        checkpoint_steps=options.checkpoint_steps,
        lease_ttl_s=options.lease_ttl,
        feature_cache_bytes=options.feature_cache_mb * 1024**2,
    )
    chosen = Options(
        alias=options.alias,
        state=options.state,
        base_model=options.base_model,
        once=options.once,
        shard_base=options.shard_base,
        device=options.device,
        poll_s=options.poll,
        pace=pace,
    )
    try:
        team = join(options.device)
        try:
            if options.memory_share is not None:
                hold_to(options.memory_share, options.device)
            if team.rank > 0:
                return Follower(team).run()
            with PlumblineClient(options.server, options.key) as client:
                return Learner(client, chosen, stop, team=team).run()
        finally:
            team.close()
    except LearnerError as error:
        logging.getLogger("learner").error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
