"""What a round is told to do: the server's `learner` settings of the alias, checked on arrival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from learner.augmentation import AUGMENTATIONS
from learner.errors import SettingsError
from learner.objectives import OBJECTIVES, Implicit, Needs, Objective
from learner.objectives.listwise import LISTWISE
from learner.objectives.policy_gradient import POLICY_GRADIENT
from learner.recipe import Recipe
from learner.weighting import WEIGHTINGS
from server.wire.learner import LearnerSettings
from server.wire.training import TrainingConfig

LABELLED: Final = {"pairs": Needs.PAIRS, "unpaired": Needs.UNPAIRED}
"""Kinds of examples whose labels people give."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many groups the replay keeps."""

    groups: int
    rewarded: int
    """Of those that have nothing but rewards."""


class Settings(LearnerSettings):
    """With what the learner makes of them."""

    @property
    def masks_pairs(self) -> bool:
        return self.token_mask != "none"  # noqa: S105 - of text

    @property
    def capacity(self) -> Capacity:
        return Capacity(self.max_replay_groups, self.max_rewarded_groups)

    def recipe(self) -> Recipe:
        """Raises `SettingsError` for an objective, option or weighting that there is not."""
        losses = tuple((weight, self.objective(name)) for name, weight in self.objectives.items())
        idle = self.options.keys() - self.objectives.keys()
        if idle:
            raise SettingsError(f"learner setting options.{min(idle)}: {min(idle)} is not among the objectives")
        chosen = {LABELLED[kind]: name for kind, name in self.weighting.items() if name != "none"}
        for name in chosen.values():
            if name not in WEIGHTINGS:
                known = ", ".join(["none", *WEIGHTINGS])
                raise SettingsError(f"learner setting weighting: no {name!r}; there are: {known}")
        return Recipe(losses, self.beta, {needs: WEIGHTINGS[name] for needs, name in chosen.items()})

    def objective(self, name: str) -> Objective:
        """With its options. Raises `SettingsError`."""
        kind = OBJECTIVES.get(name)
        if kind is None:
            raise SettingsError(f"no objective is called {name!r}; there are: {', '.join(OBJECTIVES)}")
        shared = {"beta": self.beta} if issubclass(kind, Implicit) else {}
        try:
            return kind(**{**shared, **self.options.get(name, {})})
        except ValidationError as error:
            where, said = _first(error)
            place = ".".join(filter(None, ("options", name, where)))  # nowhere: options that exclude each other
            raise SettingsError(f"learner setting {place}: {said}") from error


def read_settings(config: TrainingConfig) -> Settings:
    """Raises `SettingsError` with one line that says which setting is wrong."""
    try:
        settings = Settings.model_validate(config.learner)
    except ValidationError as error:
        where, said = _first(error)
        raise SettingsError(f"learner setting {where}: {said}") from error
    on_lists, on_draws = (settings.objectives.keys() & kind.keys() for kind in (LISTWISE, POLICY_GRADIENT))
    if settings.rank_rewards and not on_lists:
        raise SettingsError("learner setting rank_rewards: none of the objectives is on ranked lists, as rankdpo is")
    if settings.rank_rewards and on_draws:
        raise SettingsError(
            f"learner setting rank_rewards: {min(on_draws)} learns from what was drawn alone, and people rank other "
            "answers too; leave one of them out"
        )
    recipe = settings.recipe()
    if settings.normalized_gradients and recipe.statistics:
        raise SettingsError(
            "learner setting normalized_gradients: not with an objective on whole distributions, as tdpo2"
        )
    needs = recipe.needs
    if settings.rollout_groups and Needs.REWARDED not in needs:
        raise SettingsError("learner setting rollout_groups: none of the objectives is on rewards, as grpo is")
    if settings.unpair and Needs.UNPAIRED not in needs:
        raise SettingsError("learner setting unpair: none of the objectives is on single answers, as kto is")
    if settings.curriculum == "perturbation" and recipe.views.isdisjoint(AUGMENTATIONS):
        raise SettingsError("learner setting curriculum: none of the objectives shows changed images, as mdpo does")
    if settings.self_inject and Needs.PAIRS not in needs:
        raise SettingsError("learner setting self_inject: none of the objectives is on pairs, as sigmoid is")
    if settings.sft_share and not needs & set(LABELLED.values()):
        raise SettingsError("learner setting sft_share: none of the objectives is on pairs or thumbs, as sft is")
    if settings.rank > config.max_lora_rank:
        raise SettingsError(f"learner setting rank: {settings.rank} is above the engine's {config.max_lora_rank}")
    return settings


def check_fit(settings: Settings, vocabulary: int, image_token_id: int | None) -> None:
    """Raises `SettingsError` where the base model, which these are of, cannot do what is set. None: no images."""
    recipe = settings.recipe()
    blind = [name for name in settings.objectives if settings.objective(name).views] if image_token_id is None else []
    if blind:
        raise SettingsError(f"learner setting objectives: {blind[0]} needs images, and the base model sees none")
    if any(not 0 <= token < vocabulary or token == image_token_id for token in recipe.marker or ()):
        raise SettingsError("learner setting options.c_rlft.marker: those are no text tokens of the base model")


def _first(error: ValidationError) -> tuple[str, str]:
    """Where the first mistake is, and what it is."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]
