"""Reads pairs, mines criteria from them, writes how far it is and at the end the report."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack

from pydantic import ValidationError

from server.config import ChatConfig, ImageFetchConfig
from server.config.scorers import JudgeConfig
from server.errors import PlumblineError
from server.json_endpoint import JsonEndpoint, key_from
from server.mining.critic import Choice
from server.mining.mining import CannotMine, Miner
from server.pipeline.assemble import assemble
from server.pipeline.fetch.fetcher import ImageFetcher
from server.pipeline.media import MediaIntake
from server.pipeline.sanitise import Sanitiser
from server.wire.mining import MiningLine, MiningReport
from server.wire.reward import PreferencePair


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m server.mining", description=__doc__)
    add = parser.add_argument
    add("--endpoint", required=True, metavar="URL", help="base URL of an OpenAI-style chat endpoint, with /v1")
    add("--model", required=True, help="critic and judge")
    add("--key-env", default="", metavar="NAME", help="environment variable that holds the endpoint's API key")
    add("--read", type=int, required=True, metavar="N", help="the first N pairs are shown to the critic")
    add("--criteria", type=int, default=10, metavar="N", help="most criteria (default: 10)")
    add("--rounds", type=int, default=2, metavar="N", help="rounds of refinement (default: 2)")
    add("--threshold", type=float, default=0.5, help="of the lower end of an accuracy's interval (default: 0.5)")
    add("--concurrency", type=int, default=8, metavar="N", help="requests at once (default: 8)")
    add("--timeout", type=float, default=120.0, metavar="S", help="seconds for one request (default: 120)")
    add("--no-images", action="store_true", help="show neither critic nor judge the images")
    add("--loose", action="store_true", help="for endpoints without strict JSON schemas")
    return parser.parse_args()


def say(line: MiningLine) -> None:
    sys.stdout.write(line.model_dump_json(exclude_none=True) + "\n")
    sys.stdout.flush()


async def mine(arguments: argparse.Namespace) -> MiningReport:
    """Raises `CannotMine`."""
    config, key = _configured(arguments)
    async with AsyncExitStack() as stack:
        endpoint = JsonEndpoint(config.url, key, max_connections=arguments.concurrency, timeout_s=arguments.timeout)
        stack.push_async_callback(endpoint.close)
        limits = ChatConfig()
        fetcher = ImageFetcher(ImageFetchConfig(), max_bytes=limits.max_image_bytes, count=lambda outcome: None)
        stack.push_async_callback(fetcher.close)
        intake = MediaIntake(limits, fetcher, has_vision=True, fetches_per_request=4)
        stack.callback(intake.close)
        choices = [await _choice(line, limits, intake) for line in sys.stdin.buffer]
        usable = [one for one in choices if one is not None]
        read, held = usable[: arguments.read], usable[arguments.read :]
        if not read or not held:
            raise CannotMine("there are too few usable pairs")
        miner = Miner(
            config,
            endpoint,
            arguments.criteria,
            arguments.rounds,
            arguments.threshold,
            lambda progress: say(MiningLine(kind="progress", progress=progress)),
        )
        report = await miner.mine(read, held)
        return report.model_copy(update={"unusable": len(choices) - len(usable)})


def _configured(arguments: argparse.Namespace) -> tuple[JudgeConfig, str]:
    try:
        config = JudgeConfig(
            url=arguments.endpoint,
            model=arguments.model,
            key_env=arguments.key_env,
            mode="pairwise",
            images=not arguments.no_images,
            structured=not arguments.loose,
            max_concurrent=arguments.concurrency,
        )
        return config, key_from(config.key_env)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CannotMine(f"{first['loc'][0]}: {first['msg']}") from None
    except ValueError as error:
        raise CannotMine(str(error)) from None


async def _choice(line: bytes, limits: ChatConfig, intake: MediaIntake) -> Choice | None:
    """None: it cannot be used."""
    try:
        pair = PreferencePair.model_validate_json(line)
        return Choice(await assemble(pair.messages, [], limits, intake, Sanitiser(())), pair.chosen, pair.rejected)
    except (ValidationError, PlumblineError):
        return None


def main() -> int:
    try:
        report = asyncio.run(mine(parse_arguments()))
    except CannotMine as error:
        say(MiningLine(kind="error", error=str(error)))
        return 2
    say(MiningLine(kind="report", report=report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
