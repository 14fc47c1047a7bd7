"""`python -m server`: runs the service, checks its configuration or its state, or makes an API key."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from server import faults
from server.config import Config, load_config
from server.errors import BadRequest

if TYPE_CHECKING:
    from server.integrity import Problem


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Plumbline's service: chat with alignment, feedback, adapters, metrics.",
        epilog="Settings are overridden by PLUMBLINE_<SECTION>__<NAME> variables, e.g. PLUMBLINE_HTTP__PORT=8400.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file; without one: defaults")
    parser.add_argument("--check-config", action="store_true", help="print the effective configuration and stop")
    parser.add_argument("--openapi", action="store_true", help="print the OpenAPI document of the API and stop")
    parser.add_argument(
        "--check-state",
        action="store_true",
        help="look at the whole state of a stopped server, say what is wrong with it, and stop (status 1 if anything)",
    )
    parser.add_argument(
        "--fingerprint",
        type=Path,
        metavar="IMAGE",
        help="print the image's fingerprint and sha256, as rules of kind known_images list them, and stop",
    )
    parser.add_argument(
        "--create-key",
        choices=["app", "learner", "operator"],
        metavar="ROLE",
        help="make an API key of this role (app, learner, operator), print it once, and stop",
    )
    parser.add_argument("--tenant", default="default", help="tenant of the new key (default: %(default)s)")
    parser.add_argument("--name", default="", help="what the new key is for, shown by `plumbline keys list`")
    return parser.parse_args()


def read_config(path: Path | None) -> Config:
    """The configuration, or one line and exit status 2."""
    try:
        return load_config(path)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "configuration"
        said = first["msg"]
        if first["type"] == "extra_forbidden":
            said = "there is no such setting; `plumbline config` prints those there are"
        elif first["type"] == "tuple_type" and isinstance(first["input"], dict):
            said = f"there may be several of these: write [[{place}]], with two brackets"
        sys.exit(_bad(f"{place}: {said}"))
    except (OSError, ValueError) as error:
        sys.exit(_bad(f"{path}: {error}"))


def _bad(line: str) -> int:
    print(f"plumbline: {line}", file=sys.stderr)  # noqa: T201 - the one line a failed start owes
    return 2


def check_state(config: Config) -> list[Problem]:
    """Check under a progress bar."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from server.offline import check  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("check")

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        return asyncio.run(check(config, show))


def openapi() -> str:
    from server.api.openapi import document  # noqa: PLC0415

    return json.dumps(document(), indent=2)


def report(problems: list[Problem]) -> int:
    """Print what is wrong and what to do; the exit status."""
    for one in problems:
        print(f"{one.check}: {one.what}. {one.remedy[0].upper()}{one.remedy[1:]}.")  # noqa: T201 - asked for
    if not problems:
        print("nothing is wrong")  # noqa: T201 - asked for
    return 1 if problems else 0


def show(arguments: argparse.Namespace, config: Config) -> int:
    """Print what was asked for; the exit status."""
    if arguments.check_config or arguments.openapi:
        print(config.model_dump_json(indent=2) if arguments.check_config else openapi())  # noqa: T201 - asked for
        return 0
    from server.pipeline.fingerprint import listed  # noqa: PLC0415

    try:
        print(listed(arguments.fingerprint.read_bytes(), config.chat))  # noqa: T201 - asked for
    except (OSError, BadRequest) as error:
        return _bad(f"{arguments.fingerprint}: {error}")
    return 0


def main() -> int:
    arguments = parse_arguments()
    try:
        faults.arm_from_environment()
    except ValueError as error:
        return _bad(str(error))
    config = read_config(arguments.config)
    if arguments.check_config or arguments.openapi or arguments.fingerprint:
        return show(arguments, config)
    # Imported late: --help and --check-config answer at once.
    from server.app import serve  # noqa: PLC0415
    from server.installation import StartError  # noqa: PLC0415
    from server.offline import create_key  # noqa: PLC0415

    try:
        if arguments.check_state:
            return report(check_state(config))
        if arguments.create_key:
            wanted = (arguments.create_key, arguments.tenant, arguments.name)
            print(asyncio.run(create_key(config, *wanted)))  # noqa: T201 - shown once
            return 0
        return serve(config)
    except StartError as error:
        return _bad(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
