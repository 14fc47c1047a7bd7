"""The demo's configuration: the server's settings for a small model on two cores, and the run's own sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ALIAS: Final = "shapes"
MODEL: Final = Path(__file__).parent / "shapes_vlm"
CODE_RULE: Final = "access-code"
CODE_PATTERN: Final = r"\baccess\s+code\b\D{0,24}\d"
SUITE_DESCRIPTIONS: Final = 60
SUITE_SKILLS: Final = 100


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a run is."""

    users: int = 24
    concurrency: int = 4
    """Users served at once."""
    best_of: int = 8
    """Candidates of a user's request."""
    signals: int = 400
    """Signals in all."""
    round_size: int = 76
    """Useful signals that start a round."""
    rounds: int = 3
    """Rounds at most."""
    reading_s: float = 0.3
    """Pause of each user between two answers while learner and gate need the cores."""
    descriptions: int = 500
    skills: int = 1000
    measure_concurrency: int = 16
    last_round_starts_s: float = 230.0
    """No round is started later than this."""
    round_timeout_s: float = 150.0
    """A round that takes longer has failed."""
    brevity: float = 0.0
    """What a token costs a user beyond the ordinary."""


ORDINARY: Final = Sizes()
OVER_OPTIMISING: Final = Sizes(rounds=1, round_size=150, brevity=1.0)

LEARNER: Final[dict[str, Any]] = {
    "objectives": {"sigmoid": 1.0, "sft": 1.0, "kto": 4.0},
    "beta": 0.3,
    "learning_rate": 1e-3,
    "batch_groups": 16,
    "epochs": 2,
    "validation_share": 0.0,  # so few signals are all learned from
}
OVER_OPTIMISING_LEARNER: Final[dict[str, Any]] = {
    **LEARNER,
    "objectives": {"sigmoid": 1.0, "kto": 4.0},
    "beta": 0.05,
    "learning_rate": 2e-3,
    "batch_groups": 8,
    "epochs": 10,
    "max_kl": 100.0,
}
"""Nothing holds the policy near what it said before, and the learner does not look: only the gate is left."""


def server_settings(sizes: Sizes, learner: dict[str, Any], suites: Path, model: Path = MODEL) -> dict[str, Any]:
    """The server's configuration tree; `suites` is the directory of the gate's suites."""
    alias = {
        "name": ALIAS,
        "best_of": sizes.best_of,
        "rules": [{"name": CODE_RULE, "kind": "pattern", "pattern": CODE_PATTERN}],
        "second_wave": {"enabled": False},  # this model follows no instructions
        # On this model the implicit reward, maximised over candidates, prefers what is short; confidence does not.
        "scorers": [{"kind": "logprob"}],
        "gate": {
            "suites": [
                {"name": "coverage", "path": suites / "coverage.jsonl", "margin": 0.05},
                {"name": "hallucination", "path": suites / "hallucination.jsonl", "margin": 0.05},
                {"name": "skills", "path": suites / "skills.jsonl", "margin": 0.03, "greedy": True},
            ],
            "min_preference_pairs": 10,
            "concurrency": 16,
        },
        # A canary that lasts seconds: at this scale it can only veto what is plainly harmful.
        "rollout": {
            "canary_share": 0.5,
            "inconclusive_share": 0.5,
            "canary_requests": 30,
            "min_canary_s": 0,
            "cooldown_s": 0,
            "max_moves_per_hour": 1000,
        },
        "learner": {**learner, "min_new_signals": sizes.round_size},
    }
    engine = {"model": model.resolve(), "dtype": "float32", "max_model_len": 512, "max_num_seqs": 64}
    return {"engine": engine, "aliases": [alias], "log_level": "info"}
