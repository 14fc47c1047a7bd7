"""Builds scorers from their settings. What they hold open (connections, processes) is closed with the factory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reward.ports import Scorer
from reward.scorers import (
    FormatScorer,
    ImplicitScorer,
    LanguageScorer,
    LengthScorer,
    LogprobScorer,
    RefusalScorer,
    RepetitionScorer,
    SchemaScorer,
    SelfCertaintyScorer,
)
from reward.scorers.refusal import PHRASES
from reward.types import Prompt
from server.config.scorers import ClipConfig, JudgeConfig, ScorerConfig
from server.engine.port import Engine
from server.json_endpoint import JsonEndpoint, key_from
from server.scorers.clip import ClipScorer, ClipWorker
from server.scorers.judge import JudgeScorer
from server.scorers.pooling import PoolingScorer
from server.scorers.program import ProgramScorer
from server.scorers.watched import Watched
from server.wire.base import BASE
from server.wire.json_schema import SchemaError, check_schema


class ScorerFactory:
    """For one event loop. `engine`: who gives log-probabilities of the base model; None: there is none."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine
        self._open: list[JsonEndpoint | ClipWorker] = []
        self._workers: dict[tuple[str, str, str], ClipWorker] = {}

    def build(self, config: ScorerConfig) -> Scorer:
        """Raises `ValueError` with one line where the settings cannot be followed."""
        try:
            return self._build(config)
        except ValueError as error:
            raise ValueError(f"scorer {config.label}: {error}") from None

    async def close(self) -> None:
        """Release connections and end processes; idempotent."""
        while self._open:
            await self._open.pop().close()

    def _build(self, config: ScorerConfig) -> Scorer:
        name = config.label
        match config.kind:
            case "implicit":
                return self._implicit(config)
            case "judge" | "pooling":
                return Watched(self._remote(config))
            case "program":
                assert config.program is not None
                return Watched(ProgramScorer(config.program, name))
            case "clip":
                assert config.clip is not None
                worker = self._worker(config.clip, config.timeout_s)
                return Watched(ClipScorer(config.clip, worker, name), counts=lambda prompt: bool(prompt.images))
            case _:
                return _build_pure(config, name)

    def _remote(self, config: ScorerConfig) -> Scorer:
        settings = config.judge or config.pooling
        assert settings is not None
        endpoint = JsonEndpoint(
            settings.url,
            key_from(settings.key_env),
            max_connections=settings.max_concurrent,
            timeout_s=config.timeout_s,
        )
        self._open.append(endpoint)
        if isinstance(settings, JudgeConfig):
            return JudgeScorer(settings, endpoint, config.label)
        return PoolingScorer(settings, endpoint, config.label)

    def _worker(self, config: ClipConfig, timeout_s: float) -> ClipWorker:
        """Scorers of the same model share a process: two of them would hold the model twice."""
        key = (config.model, config.python, config.device)
        if key not in self._workers:
            self._workers[key] = ClipWorker(config, timeout_s)
            self._open.append(self._workers[key])
        return self._workers[key]

    def _implicit(self, config: ScorerConfig) -> Scorer:
        engine = self._engine
        if engine is None:
            raise ValueError("it needs an engine")

        async def base_logprobs(prompt: Prompt, answer: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
            scored = await engine.score(engine.base_model, prompt, answer)
            return scored.token_ids, scored.logprobs

        return ImplicitScorer(base_logprobs, BASE, config.beta, config.label)


def _build_pure(config: ScorerConfig, name: str) -> Scorer:  # noqa: PLR0911 - one for each kind
    match config.kind:
        case "logprob":
            return LogprobScorer(name)
        case "self_certainty":
            return SelfCertaintyScorer(config.top_k, name)
        case "length":
            return LengthScorer(config.target_tokens, name)
        case "repetition":
            return RepetitionScorer(name)
        case "format":
            assert config.form is not None
            return FormatScorer(config.form, name)
        case "json_schema":
            assert config.schema_file is not None
            return SchemaScorer(_read_schema(config.schema_file), name)
        case "language":
            return LanguageScorer(config.language, name)
        case "refusal":
            return RefusalScorer(PHRASES if config.phrases is None else config.phrases, name)
        case kind:
            raise ValueError(f"{kind} is not a scorer of answers alone")


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not JSON") from None
    if not isinstance(schema, dict):
        raise ValueError(f"{path} is not a JSON schema")
    try:
        check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"{path}: {error}") from None
    return schema
