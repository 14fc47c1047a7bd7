"""The real service in a process of its own, on the fake engine: `python -m tests.faults.serve --config FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from server import faults
from server.app import serve
from server.config import Config, load_config
from server.engine.fake import FakeEngine
from server.engine.port import Replica
from server.engine.supervisor import EngineSupervisor
from server.installation import StartError
from tests.faults import disk


def connect(config: Config) -> list[tuple[Replica, EngineSupervisor]]:
    engine = FakeEngine(base_model=config.engine.model, adapters_dir=config.store.directory / "adapters")
    return [(engine, EngineSupervisor(engine, None, probe_interval_s=0.1))]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    faults.arm_from_environment()
    if disk.available():
        disk.install()
    try:
        return serve(load_config(parser.parse_args().config), connect)
    except StartError as error:
        sys.stderr.write(f"plumbline: {error}\n")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
