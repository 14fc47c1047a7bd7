"""The settings of learning, which server and learner share: unknown ones and bad values are refused by both.

A learner that ignored a setting would train another method than it was told.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Curriculum = Literal["none", "easy_then_hard", "perturbation"]
Reference = Literal["base", "previous", "ema"]
Weight = Annotated[float, Field(ge=0)]


class LearnerSettings(BaseModel):
    """What the alias's learner is told to do (`GET /v1/training/config`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    objectives: dict[str, Weight] = Field({"sigmoid": 1.0, "sft": 0.3, "kto": 0.5}, min_length=1)
    """Losses and their weights (docs/objectives.md). Each applies to examples of its kind: pairs, thumbs or rewards."""
    options: dict[str, dict[str, float | int | str | bool | list[int] | dict[str, float]]] = {}
    """By objective, what shall differ from its own defaults, e.g. `{simpo = {gamma = 0.5}}`."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature of the implicit reward, for the objectives on it that name no other."""
    weighting: dict[Literal["pairs", "unpaired"], str] = {"unpaired": "lcpo"}
    """How far labels are believed, by kind of example: `none`, `lcpo`, `uncertainty` or `mc_dropout`."""
    curriculum: Curriculum = "none"
    """`easy_then_hard`: groups on which the reward, or the model's likelihood, agrees with people most come first;
    `perturbation`: images that an objective shows changed are changed less and less."""
    dropout_passes: int = Field(4, ge=2, le=64)
    """Forward passes with dropout by which `mc_dropout` judges how sure the policy is."""
    dropout: float = Field(0.1, gt=0, lt=1)
    """Share of the values that the adapter loses in each of them."""
    token_mask: Literal["none", "sentence"] = "none"  # noqa: S105 - of text
    """What of their answers pairs teach: all, or only the sentences that the other answer does not say."""
    separators: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = (*".!?;\n",)
    """What ends a sentence, for `token_mask` and `self_inject`. With "," and " and" also the names in a list are told
    apart."""
    self_inject: float = Field(0.0, ge=0, le=1)
    """Share of the groups of which one of the model's own answers is preferred to the same with a hallucination put in;
    pairs without any human signal. They weigh what `source_weights` says of `self_inject`."""
    reference: Reference = "base"
    """What preference objectives measure against: the base, the adapter that the round starts from, or a moving average
    of the policy."""
    ema_decay: float = Field(0.99, gt=0, lt=1)
    """Of the reference `ema`, a step."""
    source_weights: dict[str, Weight] = {}
    """By which the examples of a source are multiplied: `choice`, `ranking`, `correction`, `thumbs`, `regenerate`,
    `safety`, `ai`, `self_inject`, `thumb` (unpaired) or `reward`. 0 leaves them out."""
    max_staleness: int = Field(8, ge=0)
    """Adapters by which a rewarded answer's own may be older than the one that is trained."""
    success_below: float | None = None
    """A rewarded group whose rewards are alike and below this in the mean gets the best stored answer to the same
    question in its worst one's place; not set: none does."""
    rank_rewards: bool = False
    """Where people ranked, chose or corrected, their order takes the place of the scorers' values, for the objectives
    on ranked lists (`rankdpo`, `dro`, `gfn_dpo`)."""
    unpair: bool = False
    """What people ranked, chose or corrected counts as thumbs as well, up for what they preferred and down for the
    other, for the objectives on single answers (`kto`, `npo`, `c_rlft`)."""
    rollout_groups: int = Field(0, ge=0, le=64)
    """Prompts of each step's batch that the policy of that moment answers anew, for the objectives on rewards
    (docs/rollouts.md); 0: none."""
    rollout_candidates: int = Field(8, ge=2)
    """Answers to each of them."""
    rollout_every: int = Field(1, ge=1)
    """Steps after which the server gets the policy anew."""
    rank: int = Field(16, ge=1)
    """LoRA rank."""
    alpha: int = Field(32, ge=1)
    """LoRA alpha."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate of AdamW."""
    epochs: int = Field(3, ge=1)
    """Passes over a round's examples."""
    validation_share: float = Field(0.1, ge=0, le=0.5)
    """Share of the prompts that a round measures itself by after each epoch, and does not learn from; none as long as
    that would be fewer than 20 opinions."""
    patience: int = Field(1, ge=1)
    """Epochs without improvement on those after which the round stops; the best one is kept."""
    batch_groups: int = Field(8, ge=1)
    """Groups in one optimiser step."""
    min_new_signals: int = Field(50, ge=1)
    """New human signals that start a round."""
    max_annotator_share: float = Field(0.2, gt=0, le=1)
    """Largest share of a round's human examples that come from one annotator. Nobody is held below an equal part, nor
    below `min_new_signals` examples, so that few people can teach too; 1 switches it off."""
    half_life_signals: int | None = Field(None, ge=1)
    """Opinions that people give until an older one counts half, where tastes change; not set: all count alike."""
    max_replay_groups: int = Field(2000, ge=1)
    """Groups kept for replay: the newest, and for a quarter of the places a sample of the older ones."""
    max_rewarded_groups: int = Field(1000, ge=0)
    """Of groups that have nothing but rewards, the newest that are kept."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradient clipping."""
    normalized_gradients: bool = False
    """What a step raises and what it lowers have gradients of norm 1 each, so that chosen and rejected answers part
    (docs/objectives.md). One more backward pass."""
    entanglement_every: int = Field(0, ge=0)
    """Steps after which it is measured whether chosen and rejected answers move together, at two more backward passes;
    0: never."""
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    sft_share: float = Field(0.0, ge=0, le=0.9)
    """Share of a round's steps, its first, that only imitate what people found good: chosen answers, corrections and
    thumbs up (`docs/objectives.md`)."""
    max_kl: float = Field(2.0, gt=0)
    """The learner throws away a policy that moved further from base than this (nats a token, on stored answers)."""
    target_modules: str = r"(?!.*vis(ion|ual)).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    """Regular expression of the modules that get an adapter."""
