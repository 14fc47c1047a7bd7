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
from server.config_scorers import ScorerConfig
from server.engine.port import Engine
from server.scorers.program import ProgramScorer
from server.scorers.watched import Watched
from server.wire.base import BASE
from server.wire.json_schema import SchemaError, check_schema


class ScorerFactory:
    """For one event loop. `engine`: who gives log-probabilities of the base model; None: there is none."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine

    def build(self, config: ScorerConfig) -> Scorer:
        """Raises `ValueError` with one line where the settings cannot be followed."""
        try:
            return self._build(config)
        except ValueError as error:
            raise ValueError(f"scorer {config.label}: {error}") from None

    async def close(self) -> None:
        """Release connections and end processes; idempotent."""

    def _build(self, config: ScorerConfig) -> Scorer:  # noqa: PLR0911 - one branch for each kind
        name = config.label
        match config.kind:
            case "logprob":
                return LogprobScorer(name)
            case "self_certainty":
                return SelfCertaintyScorer(config.top_k, name)
            case "implicit":
                return self._implicit(config)
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
                phrases = PHRASES if config.phrases is None else config.phrases
                return RefusalScorer(phrases, name)
            case "program":
                assert config.program is not None
                return Watched(ProgramScorer(config.program, name))
            case _:
                raise ValueError("not built yet")

    def _implicit(self, config: ScorerConfig) -> Scorer:
        engine = self._engine
        if engine is None:
            raise ValueError("it needs an engine")

        async def base_logprobs(prompt: Prompt, answer: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
            scored = await engine.score(engine.base_model, prompt, answer)
            return scored.token_ids, scored.logprobs

        return ImplicitScorer(base_logprobs, BASE, config.beta, config.label)


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
