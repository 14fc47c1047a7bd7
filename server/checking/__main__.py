"""Reads pairs, asks the scorers, writes how far it is and at the end the report."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from reward.types import Candidate
from server.checking.together import total_report
from server.checking.trial import Policy, Trial, agreements, candidates_of, why_not
from server.config import AliasConfig, Config, load_config
from server.config.scorers import ScorerConfig
from server.engine.client import VllmEngine
from server.engine.port import EngineError
from server.errors import PlumblineError
from server.pipeline.assemble import assemble
from server.pipeline.fetch.fetcher import ImageFetcher
from server.pipeline.media import MediaIntake
from server.pipeline.sanitise import Sanitiser
from server.scorers.factory import ScorerFactory
from server.wire.reward import CheckedPair, CheckLine, PreferencePair, RewardReport, ScorerReport


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m server.checking", description=__doc__)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--alias", default="")
    parser.add_argument("--engine", default="")
    parser.add_argument("--adapter", default="")
    parser.add_argument("--concurrency", type=int, default=4)
    return parser.parse_args()


class CannotCheck(Exception):
    """In one line, for the person at the terminal."""


def say(line: CheckLine) -> None:
    sys.stdout.write(line.model_dump_json(exclude_none=True) + "\n")
    sys.stdout.flush()


async def check(arguments: argparse.Namespace) -> RewardReport:
    """Raises `CannotCheck`."""
    config, alias = _configured(arguments)
    async with AsyncExitStack() as stack:
        policy = None
        if arguments.engine:
            engine = VllmEngine(arguments.engine, config.engine.model, timeout_s=config.chat.engine_timeout_s)
            stack.push_async_callback(engine.close)
            policy = Policy(engine, arguments.adapter)
        factory = ScorerFactory(policy.engine if policy else None)
        stack.push_async_callback(factory.close)
        skipped = {one.label: reason for one in alias.scorers if (reason := why_not(one, policy))}
        trials = _trials([one for one in alias.scorers if one.label not in skipped], factory)
        fetcher = ImageFetcher(config.image_fetch, max_bytes=config.chat.max_image_bytes, count=lambda outcome: None)
        stack.push_async_callback(fetcher.close)
        intake = MediaIntake(config.chat, fetcher, has_vision=True, fetches_per_request=4)
        stack.callback(intake.close)
        run = _Run(config, intake, policy, trials)
        pairs, unusable = await run.all_pairs(arguments.concurrency)
        reports = {trial.config.label: trial.report() for trial in trials}
        return RewardReport(
            alias=alias.name,
            pairs=pairs,
            unusable=unusable,
            scorers=[
                reports.get(one.label) or ScorerReport(name=one.label, kind=one.kind, skipped=skipped[one.label])
                for one in alias.scorers
            ],
            ensemble=total_report(alias, trials, run.asked) if trials else None,
            agreement=agreements(trials),
        )


def _trials(scorers: Sequence[ScorerConfig], factory: ScorerFactory) -> list[Trial]:
    try:
        return [Trial(one, factory.build(one)) for one in scorers]
    except ValueError as error:
        raise CannotCheck(str(error)) from None


@dataclass(frozen=True, slots=True)
class _Run:
    config: Config
    intake: MediaIntake
    policy: Policy | None
    trials: list[Trial]
    asked: dict[int, tuple[Candidate, Candidate]] = field(default_factory=dict)
    """Pairs that could be used, by number."""

    async def all_pairs(self, concurrency: int) -> tuple[int, int]:
        """How many there were, and how many of them could not be used."""
        waiting: set[asyncio.Task[tuple[int, str | None]]] = set()
        done = unusable = number = 0

        def tell(ended: set[asyncio.Task[tuple[int, str | None]]]) -> None:
            nonlocal done, unusable
            for one in ended:
                pair, problem = one.result()
                done += 1
                unusable += problem is not None
                say(CheckLine(kind="progress", progress=CheckedPair(pair=pair, done=done, problem=problem)))

        async for line in _lines():
            for trial in self.trials:
                trial.values.append(None)
            waiting.add(asyncio.create_task(self._one_pair(number, line)))
            number += 1
            if len(waiting) >= concurrency:
                ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                tell(ended)
        if waiting:
            tell((await asyncio.wait(waiting))[0])
        return number, unusable

    async def _one_pair(self, number: int, line: bytes) -> tuple[int, str | None]:
        """Ask every scorer about one pair; its number, and why it cannot be used."""
        try:
            pair = PreferencePair.model_validate_json(line)
            prompt = await assemble(pair.messages, [], self.config.chat, self.intake, Sanitiser(()))
            chosen, rejected = await candidates_of(prompt, (pair.chosen, pair.rejected), self.policy)
        except ValidationError as error:
            return number, str(error.errors(include_url=False)[0]["msg"])
        except PlumblineError as error:
            return number, error.public
        except EngineError as error:
            return number, f"the engine: {error}"
        self.asked[number] = (chosen, rejected)
        await asyncio.gather(*(trial.ask(number, prompt, chosen, rejected) for trial in self.trials))
        return number, None


def _configured(arguments: argparse.Namespace) -> tuple[Config, AliasConfig]:
    try:
        config = load_config(arguments.config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CannotCheck(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise CannotCheck(f"{arguments.config}: {error}") from None
    found = [one for one in config.aliases if one.name == (arguments.alias or config.aliases[0].name)]
    if not found:
        names = ", ".join(one.name for one in config.aliases)
        raise CannotCheck(f"there is no alias {arguments.alias} in the configuration (aliases: {names})")
    if not found[0].scorers:
        raise CannotCheck(f"the alias {found[0].name} has no scorers")
    return config, found[0]


async def _lines() -> AsyncIterator[bytes]:
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        yield line


def main() -> int:
    arguments = parse_arguments()
    try:
        report = asyncio.run(check(arguments))
    except CannotCheck as error:
        say(CheckLine(kind="error", error=str(error)))
        return 2
    say(CheckLine(kind="report", report=report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
