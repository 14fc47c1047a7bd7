"""What `benchmarks.methods` compares: each method by itself, and compositions that papers recommend.

Settings are those that did best on crowd 9, of two to four for most; where nothing is said they are those of `PAIRS`,
`THUMBS` and `REWARDS`. `mrpo` is not among them: in a first round, from the base model, it is DPO. `cross_modality`
stands beside DPO, as in its paper; `c_rlft` and `kto_choices` learn from the crowd that chooses (`unpair`). `ipo`,
`mnpo`, `kto`, `sapo`, `ppo`, `etpo` and `gap` have learning rates a quarter to a half lower than what did best there:
with those they named fewer true objects (.88 to .95) on other crowds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks._study import Recipe
from clients.demo.settings import LEARNER
from learner.objectives import OBJECTIVES

DPO: Final = "dpo"
"""The peer."""
ONE_PASS: Final[Mapping[str, Any]] = LEARNER | {"batch_groups": 16, "epochs": 1, "weighting": {}, "beta": 0.3}
PAIRS: Final[Mapping[str, Any]] = ONE_PASS | {"learning_rate": 2e-3}
THUMBS: Final[Mapping[str, Any]] = ONE_PASS | {"learning_rate": 1e-3, "batch_groups": 8, "epochs": 2}
REWARDS: Final[Mapping[str, Any]] = ONE_PASS | {"learning_rate": 1.5e-3}
WIDE_CLIP: Final[Mapping[str, float]] = {"epsilon": 0.8, "epsilon_high": 4.0}
"""One round of answers that the base gave: within the usual .2 of it the policy could hardly move."""
CLAUSES: Final = [",", " and ", "."]
"""What the demo's descriptions list objects by."""


@dataclass(frozen=True, slots=True)
class Method:
    name: str
    recipe: Recipe


def pairs(name: str, objective: str = "", options: Mapping[str, Any] | None = None, **settings: Any) -> Method:
    """On choices. `objective`: where it is not called as the method is."""
    return Method(name, Recipe(name, _learner(PAIRS, objective or name, options or {}, settings)))


def thumbs(name: str, options: Mapping[str, Any] | None = None, **settings: Any) -> Method:
    """On the crowd that gives thumbs alone: small steps, each thumb twice."""
    return Method(name, Recipe(name, _learner(THUMBS, name, options or {}, settings), thumbs_only=True))


def rewards(name: str, objective: str = "", options: Mapping[str, Any] | None = None, **settings: Any) -> Method:
    """On all eight answers offered, judged by a reward model of the same people's choices."""
    objective = objective or name
    clip = {option: value for option, value in WIDE_CLIP.items() if option in OBJECTIVES[objective].model_fields}
    learner = _learner(REWARDS, objective, (clip if "epsilon" in clip else {}) | dict(options or {}), settings)
    return Method(name, Recipe(name, learner, reward_model=True))


def composition(name: str, objectives: Mapping[str, float], *, judged: bool = False, **settings: Any) -> Method:
    return Method(name, Recipe(name, {**PAIRS, "objectives": dict(objectives), **settings}, reward_model=judged))


def _learner(
    base: Mapping[str, Any], objective: str, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    own = {objective: dict(options)} if options else {}
    return {**base, "objectives": {objective: 1.0}, "options": own, **settings}


METHODS_ALONE: Final = (
    pairs(DPO, "sigmoid", learning_rate=3e-3),
    pairs("ipo", beta=0.1, learning_rate=1.5e-3),
    pairs("hinge"),
    pairs("cdpo", learning_rate=3e-3),
    pairs("robust"),
    pairs("exo_pair"),
    pairs("nca_pair", learning_rate=4e-3),
    pairs("bco_pair", learning_rate=4e-3),
    pairs("aot"),
    pairs("apo_zero"),
    pairs("apo_down", learning_rate=1.4e-3),
    pairs("discopop", options={"tau": 1.0}),
    pairs("sigmoid_norm"),
    pairs("f_dpo_forward_kl", "sigmoid", {"f_divergence": "forward_kl"}, learning_rate=3e-3),
    pairs("f_dpo_js", "sigmoid", {"f_divergence": "js_divergence"}),
    pairs("f_dpo_alpha", "sigmoid", {"f_divergence": "alpha_divergence"}, learning_rate=3e-3),
    pairs("simpo", learning_rate=1.5e-3),
    pairs("cpo"),
    pairs("orpo"),
    pairs("tpo"),
    pairs("dpop", options={"penalty": 5.0}, learning_rate=3e-3),
    pairs("flex"),
    pairs("tdpo1"),
    pairs("tdpo2", options={"alpha": 0.2}, learning_rate=3e-3),
    pairs("sppo_hard", learning_rate=1e-3),
    pairs("sppo"),
    pairs("irepo", beta=0.1),
    pairs("trpa"),
    pairs("mnpo", learning_rate=1.5e-3),
    pairs("xpo", options={"optimism": 1e-3}, learning_rate=3e-3),
    pairs("mdpo", learning_rate=3e-3),
    pairs("rdpo"),
    pairs("cross_modality", objectives={"sigmoid": 1.0, "cross_modality": 0.5}),
    pairs("sft"),
    pairs("token_mask", "sigmoid", token_mask="sentence", separators=CLAUSES, learning_rate=3e-3),
    pairs("normalized_gradients", "sigmoid", normalized_gradients=True, learning_rate=3e-3),
    pairs("lcpo", "sigmoid", weighting={"pairs": "lcpo"}, learning_rate=3e-3),
    pairs("uncertainty", "sigmoid", weighting={"pairs": "uncertainty"}, learning_rate=3e-3),
    pairs("mc_dropout", "sigmoid", weighting={"pairs": "mc_dropout"}),
    pairs("easy_then_hard", "sigmoid", curriculum="easy_then_hard", learning_rate=3e-3),
    pairs("perturbation", "mdpo", curriculum="perturbation", learning_rate=3e-3),
    pairs("self_inject", "sigmoid", self_inject=0.5, separators=CLAUSES, learning_rate=3e-3),
    thumbs("kto", {"desirable_weight": 2.0, "undesirable_weight": 1.0}, learning_rate=8e-4),
    thumbs("apo_zero_unpaired", learning_rate=5e-4, beta=0.1),
    thumbs("npo", learning_rate=3e-4),
    pairs("c_rlft", unpair=True, learning_rate=1.5e-3),
    pairs("kto_choices", "kto", unpair=True, learning_rate=1.5e-3),
    rewards("rankdpo"),
    rewards("dro", learning_rate=2e-3),
    rewards("gfn_dpo", options={"alpha": 1.0, "balance": "trajectory"}, learning_rate=3e-3),
    rewards("prdp", options={"clip": 1.0}, learning_rate=3e-3),
    rewards("grpo"),
    rewards("gspo", "grpo", {"importance_sampling_level": "sequence"}, learning_rate=1e-3),
    rewards("dr_grpo"),
    rewards("dapo"),
    rewards("bnpo"),
    rewards("cispo", learning_rate=1e-3),
    rewards("sapo"),
    rewards("rloo", learning_rate=2e-3),
    rewards("ppo", learning_rate=1e-3),
    rewards("etpo", learning_rate=1e-3),
    rewards("win_rate", "grpo", {"advantage": "win_rate"}),
    rewards("gap", "grpo", {"reward": "gap"}, learning_rate=1e-3),
    rewards("pf_ppo", "ppo", {"filtration": "max_min"}),
    rewards("entropy_coef", "grpo", {"entropy_coef": 0.01}),
    rewards("token_window", "grpo", {"token_window": 8}, learning_rate=1e-3),
)

COMPOSITIONS: Final = (
    composition("rpo: dpo + sft", {"sigmoid": 1.0, "sft": 1.0}),
    composition("internvl mpo: dpo + bco + sft", {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}),
    composition(
        "mpo: easy by dpo, then hard by rl", {"sigmoid": 1.0, "ppo": 1.0}, judged=True, curriculum="easy_then_hard"
    ),
    composition("sft, then dpo", {"sigmoid": 1.0}, sft_share=0.3, learning_rate=3e-3),
    composition(
        "the demo's: dpo + sft + kto, lcpo",
        {"sigmoid": 1.0, "sft": 1.0, "kto": 4.0},
        weighting={"pairs": "lcpo", "unpaired": "lcpo"},
    ),
)

METHODS: Final = METHODS_ALONE + COMPOSITIONS
