"""What a round is told to do: the server's `learner` settings of the alias, checked on arrival.

Unknown settings are refused: a learner that ignored one would train another method than it was told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from learner.augmentation import AUGMENTATIONS
from learner.curriculum import Curriculum
from learner.errors import SettingsError
from learner.objectives import OBJECTIVES, Implicit, Needs, Objective
from learner.objectives.listwise import LISTWISE
from learner.objectives.policy_gradient import POLICY_GRADIENT
from learner.recipe import Recipe
from learner.weighting import WEIGHTINGS
from server.wire.training import TrainingConfig

Reference = Literal["base", "previous", "ema"]
Weight = Annotated[float, Field(ge=0)]
LABELLED: Final = {"pairs": Needs.PAIRS, "unpaired": Needs.UNPAIRED}
"""Kinds of examples whose labels people give."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many groups the replay keeps."""

    groups: int
    rewarded: int
    """Of those that have nothing but rewards."""


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    objectives: dict[str, Weight] = Field({"sigmoid": 1.0, "sft": 0.3, "kto": 0.5}, min_length=1)
    """Losses and their weights; each applies to the examples of its kind."""
    options: dict[str, dict[str, Any]] = {}
    """By objective, what shall differ from its own defaults."""
    beta: float = Field(0.1, gt=0)
    """Of the implicit reward: for the objectives on it that name no other, for weightings and the pre-check."""
    weighting: dict[Literal["pairs", "unpaired"], str] = {"unpaired": "lcpo"}
    """How far labels are believed, by kind; "none" or nothing: entirely."""
    curriculum: Curriculum = "none"
    """`easy_then_hard`: the clearest groups first, in every epoch; `perturbation`: changed images are changed less and
    less (`learner.curriculum`)."""
    dropout_passes: int = Field(4, ge=2, le=64)
    """Passes by which the weighting `mc_dropout` judges."""
    dropout: float = Field(0.1, gt=0, lt=1)
    """Share of the values that the adapter loses in each of them."""
    token_mask: Literal["none", "sentence"] = "none"  # noqa: S105 - of text
    """`sentence`: a pair teaches only what one of its answers says and the other does not (`learner.sentences`)."""
    separators: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = (*".!?;\n",)
    """What ends a sentence, for `token_mask` and `self_inject`; with "," and " and" also a clause of a list."""
    self_inject: float = Field(0.0, ge=0, le=1)
    """Share of the groups of which an own answer is preferred to itself with a hallucination put in."""
    reference: Reference = "base"
    """What the preference objectives measure against."""
    ema_decay: float = Field(0.99, gt=0, lt=1)
    """Of the reference `ema`, a step."""
    source_weights: dict[str, Weight] = {}
    """By which the examples of a source are multiplied: a pair's source, `thumb` or `reward`. 0 leaves them out."""
    max_staleness: int = Field(8, ge=0)
    """Adapters by which a rewarded answer's own may be older than the one that is trained."""
    success_below: float | None = None
    """Rewarded groups that failed as a whole, with a smaller mean reward, get a stored success; None: none does."""
    rank_rewards: bool = False
    """Where people compared answers, their order is the reward (`learner.rankings`), for objectives on ranked lists."""
    unpair: bool = False
    """People's comparisons are thumbs as well (`learner.unpairing`), for objectives on single answers."""
    rollout_groups: int = Field(0, ge=0, le=64)
    """Prompts of each step's batch that the policy of that moment answers anew (`learner.rollouts`); 0: none."""
    rollout_candidates: int = Field(8, ge=2)
    """Answers to each of them."""
    rollout_every: int = Field(1, ge=1)
    """Steps after which the server gets the policy anew."""
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    epochs: int = Field(3, ge=1)
    validation_share: float = Field(0.1, ge=0, le=0.5)
    """Share of the prompts that a round measures itself by after each epoch, and does not learn from; none as long as
    that would be fewer than 20 opinions."""
    patience: int = Field(1, ge=1)
    """Epochs without improvement on those after which the round stops; the best one is kept."""
    batch_groups: int = Field(8, ge=1)
    min_new_signals: int = Field(50, ge=1)
    max_annotator_share: float = Field(0.2, gt=0, le=1)
    half_life_signals: int | None = Field(None, ge=1)
    """Opinions that people give until an older one counts half (`learner.recency`); None: all count alike."""
    max_replay_groups: int = Field(2000, ge=1)
    """Groups that somebody or some rule spoke of."""
    max_rewarded_groups: int = Field(1000, ge=0)
    """Groups that have nothing but rewards."""
    max_grad_norm: float = Field(1.0, gt=0)
    normalized_gradients: bool = False
    """What a step raises and what it lowers have gradients of norm 1 each (`learner.gradients`)."""
    entanglement_every: int = Field(0, ge=0)
    """Steps after which it is measured whether chosen and rejected answers move together; 0: never."""
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    sft_share: float = Field(0.0, ge=0, le=0.9)
    """Share of a round's steps, its first, that only imitate what people found good (`learner.imitation`)."""
    max_kl: float = Field(2.0, gt=0)
    """A round whose policy moved further from the base than this (nats a token, on stored answers) is discarded."""
    target_modules: str = r"(?!.*vis(ion|ual)).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

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
