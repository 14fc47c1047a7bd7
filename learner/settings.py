"""What a round is told to do: the server's `learner` settings of the alias, checked on arrival.

Unknown settings are refused: a learner that ignored one would train another method than it was told.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from learner.errors import SettingsError
from learner.objectives import OBJECTIVES, Needs
from server.wire.training import TrainingConfig


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    objectives: dict[str, float] = {"sigmoid": 1.0, "sft": 0.3}
    """Losses on pairs and their weights."""
    unpaired_objective: str = "kto"
    unpaired_weight: float = Field(0.5, ge=0)
    beta: float = Field(0.1, gt=0)
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    epochs: int = Field(3, ge=1)
    batch_groups: int = Field(8, ge=1)
    min_new_signals: int = Field(50, ge=1)
    max_annotator_share: float = Field(0.2, gt=0, le=1)
    max_replay_groups: int = Field(2000, ge=1)
    max_grad_norm: float = Field(1.0, gt=0)
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    max_kl: float = Field(2.0, gt=0)
    """A round whose policy moved further from the base than this (nats a token, on stored answers) is discarded."""
    target_modules: str = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every objective, pairs and unpaired together."""
        return {**self.objectives, self.unpaired_objective: self.unpaired_weight}


def read_settings(config: TrainingConfig) -> Settings:
    """Raises `SettingsError` with one line that says which setting is wrong."""
    try:
        settings = Settings.model_validate(config.learner)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"learner setting {name}: {first['msg']}") from error
    for name in settings.objectives:
        _check_objective(name, Needs.PAIRS)
    _check_objective(settings.unpaired_objective, Needs.UNPAIRED)
    if settings.rank > config.max_lora_rank:
        raise SettingsError(f"learner setting rank: {settings.rank} is above the engine's {config.max_lora_rank}")
    return settings


def _check_objective(name: str, needs: Needs) -> None:
    fitting = [objective.name for objective in OBJECTIVES.values() if objective.needs is needs]
    if name not in fitting:
        raise SettingsError(f"no objective for {needs.value} is called {name!r}; there are: {', '.join(fitting)}")
