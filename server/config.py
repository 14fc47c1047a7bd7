"""The service's configuration: one TOML file, overridden by `PLUMBLINE_*` variables, one frozen typed tree.

`PLUMBLINE_ENGINE__MODEL=...` overrides `[engine] model`. Unknown keys and bad values stop the start with one
line. `python -m server --check-config` prints the effective values, secrets masked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, IPvAnyNetwork, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from server.config_base import Seconds, Section, Share
from server.config_safety import RuleConfig as RuleConfig
from server.config_safety import SecondWaveConfig
from server.config_scorers import ScorerConfig
from server.config_selection import (
    STEPWISE,
    AutoConfig,
    CompareConfig,
    EarlyRejectConfig,
    EnsembleConfig,
    PilafConfig,
    SelectionConfig,
    StepwiseConfig,
)

SOURCE = r"^(https://\*|https?://(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:[0-9]{1,5})?$"
"""An origin that images may be fetched from."""
LORA_TARGET_MODULES = (
    "qkv_proj", "o_proj", "gate_up_proj", "down_proj", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj",
)  # fmt: skip
"""Modules that the engine wraps for LoRA. `lm_head` is left out: wrapped, concurrent scorings kill the engine."""


class HttpConfig(Section):
    """Where the service listens and what it accepts."""

    host: str = "127.0.0.1"
    """Address of the public API. Without keys only a loopback address is accepted."""
    port: int = Field(8400, ge=0, le=65535)
    """Port of the public API; 0 takes a free one."""
    metrics_port: int = Field(8401, ge=0, le=65535)
    """Port of the private listener that serves `/metrics`, on the same host."""
    require_keys: bool = False
    """Refuse requests without an API key. Off: local mode, loopback only."""
    max_body_bytes: int = Field(32 * 1024 * 1024, gt=0)
    """Largest request body; larger ones get 413 before they are read."""
    max_buffered_bytes: int = Field(1024**3, gt=0)
    """Bodies of all open requests together; what comes beyond gets 429 with Retry-After."""
    header_timeout_s: Seconds = 20.0
    """How long a request's headers may take; then 408."""
    body_timeout_s: Seconds = 30.0
    """How long a request's body may take, and for each KiB of it that has come a second more; then 408."""
    unread_timeout_s: Seconds = 60.0
    """A client that takes nothing of its reply for so long is cut off."""
    max_concurrent_requests: int = Field(256, gt=0)
    """Chat requests in work at once; more wait in the queue."""
    max_queued_requests: int = Field(1024, ge=0)
    """Chat requests that may wait; more get 429 with Retry-After. No tenant fills the queue while others ask."""
    keep_alive_s: Seconds = 75.0
    """How long an idle connection is kept. Longer than the usual clients keep theirs (5 s in httpx, 15 s in aiohttp):
    the side that closes first must not be the one that cannot know of a request on its way."""
    heartbeat_s: Seconds = 5.0
    """A stream that has had nothing to say for so long sends a comment, so that nobody on the way hangs up."""
    shutdown_grace_s: Seconds = 10.0
    """How long open requests may finish after a termination signal."""
    pages: Path = Path(__file__).resolve().parent.parent / "clients" / "ui"
    """Directory of the browser pages (`/ui`); where there is none, none are served."""


class ChatConfig(Section):
    """Bounds of one chat request."""

    max_best_of: int = Field(32, ge=1, le=256)
    """Largest number of candidates that one request may ask for."""
    default_max_tokens: int = Field(256, ge=1)
    """Length limit of an answer when the request names none."""
    max_tokens: int = Field(4096, ge=1)
    """Largest length limit that a request may name."""
    max_messages: int = Field(128, ge=1)
    """Largest number of messages in one conversation."""
    max_text_chars: int = Field(200_000, ge=1)
    """Largest number of characters in one conversation."""
    max_images: int = Field(16, ge=0)
    """Largest number of images in one conversation."""
    max_image_bytes: int = Field(16 * 1024 * 1024, ge=1)
    """Largest size of one image's container."""
    min_image_side_px: int = Field(16, ge=1)
    """Smallest width and height of an image."""
    max_image_pixels: int = Field(16_000_000, ge=1)
    """Largest width x height of an image."""
    max_image_side_px: int = Field(8192, ge=1)
    """Largest width and height of an image."""
    image_workers: int = Field(2, ge=1, le=64)
    """Images decoded at once, each on a thread. One takes about 12 bytes of memory a pixel at worst."""
    max_waiting_images: int = Field(1024, ge=1)
    """Images being fetched, being decoded, or waiting for it; requests beyond that get 429 with Retry-After."""
    max_image_bytes_in_flight: int = Field(1024 * 1024 * 1024, ge=1)
    """Bytes of images that requests may hold together, waiting ones included; beyond that 429 with Retry-After."""
    engine_timeout_s: Seconds = 120.0
    """How long the engine may take over one request."""
    feedback_wait_s: Seconds = 30.0
    """How long feedback on a streamed answer waits for the answer to be stored; then it gets 503 with Retry-After."""


class ImageFetchConfig(Section):
    """Images that requests name by an address in place of bringing them."""

    sources: tuple[Annotated[str, Field(pattern=SOURCE)], ...] = ()
    """Where images may be fetched from: `https://host`, `https://*.host` (its subdomains) or `https://*` (any public
    host), with `:port` where it is not 443; plain http only where it is written here (`http://host`). Names in ASCII.
    Empty: nothing is fetched, requests bring their images as data: URLs."""
    networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks of your own (CIDR) in which sources may lie. All other addresses have to be public."""
    ca_file: Path | None = None
    """PEM file of the authorities that the sources' certificates come from; none: the system's."""
    timeout_s: Seconds = 10.0
    """How long one image may take, redirects and waiting for a connection included."""
    connect_timeout_s: Seconds = 3.0
    """How long one connection may take to come about."""
    max_redirects: int = Field(3, ge=0, le=10)
    """Redirects that are followed; each must lead to one of `sources`."""
    max_concurrent: int = Field(64, ge=1)
    """Connections at once, over all requests."""
    max_concurrent_per_host: int = Field(16, ge=1)
    """Connections at once to one host, so that a slow one does not hold them all."""
    max_concurrent_per_request: int = Field(4, ge=1)
    """Images of one request that are fetched at once."""


class EngineConfig(Section):
    """The vLLM engine: started here (`urls` empty), or replicas that already run."""

    urls: tuple[str, ...] = ()
    """Base URLs of replicas that already run. Empty: the server starts `replicas` engines itself."""
    replicas: int = Field(1, ge=1, le=64)
    """Engines that the server starts and supervises (`urls` empty). They share the machine: `gpu_memory_utilization`
    and the cores are divided among them."""
    quorum: int = Field(0, ge=0)
    """Replicas that must be in and proven with an adapter before it gets traffic; 0: all that are in."""
    affinity_factor: float = Field(2.0, ge=1)
    """Requests with the same image or first question go to the same replica, whose caches hold it, unless that would
    give it more than this many times the outstanding tokens of the least loaded one. 1: always the least loaded."""
    model: str = "clients/demo/shapes_vlm"
    """Directory or Hugging Face name of the base model, as given to the engine's `--model`."""
    vision: bool | None = None
    """Whether the model takes images; without it, as the model's files say, and true where they are not at hand."""
    python: str = ""
    """Interpreter of the environment that holds vLLM; empty: the server's own."""
    port: int = Field(0, ge=0, le=65535)
    """Loopback port of the first started engine, the others follow; 0 takes free ones."""
    dtype: str = "auto"
    """Weight type, as vLLM names it."""
    max_model_len: int = Field(0, ge=0)
    """Longest prompt plus answer, in tokens; 0: what the model knows and the memory holds."""
    max_num_seqs: int = Field(64, ge=1)
    """Sequences that the engine runs at once."""
    max_loras: int = Field(6, ge=1)
    """Adapters resident at once: active + previous + canary + staged + ephemeral."""
    cpu_lora_slots: int = Field(64, ge=2)
    """Adapters resident at once on a CPU engine, plus one. vLLM's CPU kernels read the last slot for requests without
    an adapter that share a batch with others, so an adapter that changes nothing is kept there (CPU only)."""
    max_lora_rank: int = Field(16, ge=1)
    """Largest adapter rank."""
    gpu_memory_utilization: Share = 0.6
    """Share of the GPU that the started engines may take together (CUDA only)."""
    cpu_kv_cache_gb: int = Field(1, ge=1)
    """Size of the key-value cache in GiB (CPU only)."""
    cpu_threads: int = Field(0, ge=0)
    """Threads of each CPU engine; 0: all cores but one, divided among the replicas, at least one."""
    extra_args: tuple[str, ...] = ()
    """Further command-line arguments for vLLM."""
    start_timeout_s: Seconds = 600.0
    """How long a start may take before it counts as failed."""
    probe_interval_s: Seconds = 5.0
    """Pause between two readiness probes (one generated token each)."""
    probe_timeout_s: Seconds = 20.0
    """A probe that takes longer has failed; three failures in a row restart a supervised engine."""

    @model_validator(mode="after")
    def _quorum_can_be_met(self) -> Self:
        count = len(self.urls) or self.replicas
        if len(set(self.urls)) != len(self.urls):
            raise ValueError("engine.urls names a replica twice")
        if self.quorum > count:
            raise ValueError(f"engine.quorum is {self.quorum}, but there are {count} replicas")
        return self


class StoreConfig(Section):
    """Where the state lives."""

    directory: Path = Path("state")
    """Holds the database, `media/`, `adapters/`, `uploads/` and the token secret."""
    url: SecretStr = SecretStr("")
    """PostgreSQL, as `postgresql://user:password@host:5432/name`, for several servers. Empty: SQLite in `directory`."""
    routing_lease_s: Seconds = 1.0
    """With several servers (`url`): a move made on one is followed by the others within this time; a server that cannot
    read routing for so long refuses chat with 503."""
    idempotency_ttl_s: Seconds = 24 * 3600.0
    """How long the reply to an Idempotency-Key is kept at least."""
    blobs: str = Field("", pattern=r"^$|^[a-z][a-z0-9+.-]*://[^\s?#@]+$")
    """Object store for images and adapter files, for several servers: a URL that fsspec knows, as `s3://bucket/prefix`.
    Credentials come from the environment or fsspec's own configuration. Empty: `directory`."""
    retention_days: float = Field(0, ge=0)
    """Groups older than this expire: what was asked, answered and said is removed. 0: kept for ever."""
    tenant_retention_days: dict[str, Annotated[float, Field(ge=0)]] = {}
    """The same for single tenants, in place of `retention_days`."""
    min_free_bytes: int = Field(64 * 1024 * 1024, ge=0)
    """With less free disk than this, writes are refused with 503."""
    read_connections: int = Field(4, ge=1)
    """Read-only database connections."""


class BudgetConfig(Section):
    """What may be asked for in a minute, on each server; 0: as much as there is room for."""

    requests_per_minute: int = Field(0, ge=0)
    """Requests of any kind."""
    candidates_per_minute: int = Field(0, ge=0)
    """Candidates generated: a request may take `best_of` of them."""
    tokens_per_minute: int = Field(0, ge=0)
    """Tokens generated, of all candidates; prompts do not count."""

    def overridden(self, own: dict[str, int]) -> Self:
        return self.model_copy(update=own)


class LimitsConfig(Section):
    """Budgets of the keys, by role, where a key has none of its own; and of tenants, over all of their keys."""

    app: BudgetConfig = BudgetConfig()
    """Each app's key."""
    learner: BudgetConfig = BudgetConfig()
    """Each learner's key."""
    operator: BudgetConfig = BudgetConfig()
    """Each operator's key."""
    tenant: BudgetConfig = BudgetConfig()
    """Each tenant."""
    tenants: dict[str, BudgetConfig] = {}
    """Single tenants, in place of `tenant`."""

    def of_role(self, role: str) -> BudgetConfig:
        return {"app": self.app, "learner": self.learner, "operator": self.operator}[role]


class ShadowConfig(Section):
    """Answers of shadow adapters, of which nobody may notice anything."""

    concurrent: int = Field(2, ge=1)
    """Requests that shadows answer at once; further ones do without."""
    busy_requests: int = Field(8, ge=1)
    """With more chat requests in work or waiting, no shadow begins to answer."""


class RolloutsConfig(Section):
    """Answers that learners ask for, from which apps must suffer nothing."""

    concurrent: int = Field(2, ge=1)
    """Prompts that are answered at once, for all learners."""
    queued: int = Field(128, ge=0)
    """Prompts that may wait for it; further ones are told to come back."""
    busy_requests: int = Field(8, ge=1)
    """With more chat requests in work or waiting, none is begun."""


class SignalsConfig(Section):
    """How signals become training data."""

    holdout_share: Share = 0.1
    """Share of prompts (by digest) whose groups are kept for the gate and never trained on."""
    safety_pairs: bool = True
    """Make blocked ≺ clean pairs from groups that hold both."""
    safety_pair_weight: float = Field(0.5, ge=0)
    """Weight of such a pair."""
    ai_pairs: bool = False
    """Make best ≻ worst pairs from the ensemble's totals where no person has spoken."""
    ai_margin: float = Field(1.0, gt=0)
    """Smallest difference of values (weighted scores in the scorers' own units) for such a pair."""
    reward_groups: bool = False
    """Tell the learner of groups whose candidates have rewards, spoken of or not: for `grpo` and its kind."""
    feedback_token_ttl_s: Seconds = 7 * 24 * 3600.0
    """How long an answer's feedback token is good."""
    max_per_hour: int = Field(600, ge=1)
    """Signals that one annotator may give in an hour; more get 429 with Retry-After. An annotator is a user, or a key
    whose app names no users."""


class SuiteConfig(Section):
    """One JSONL suite that every staged adapter must pass."""

    name: str = Field(min_length=1, max_length=64)
    """Shown in the gate report."""
    path: Path
    """JSONL of `{id, messages, images, checks}`."""
    margin: Share = 0.02
    """How much worse than the active adapter still passes."""
    greedy: bool = False
    """Ask at temperature 0 (skills) instead of 1 (behaviour)."""
    max_items: int = Field(200, ge=1)
    """Items used, from the start of the file."""
    max_tokens: int = Field(64, ge=1)
    """Length limit of an answer."""


class GateConfig(Section):
    """What a staged adapter has to show."""

    suites: tuple[SuiteConfig, ...] = ()
    """Behaviour and skills, each against the active adapter on the same items and seeds."""
    preference_margin: Share = 0.1
    """Held-out preference accuracy may lie this much below one half."""
    preference_nats: float = Field(1.0, gt=0)
    """The mean margin of held-out pairs (log-ratio to base, chosen less rejected) may lie this many nats below zero."""
    min_preference_pairs: int = Field(20, ge=1)
    """With fewer held-out pairs the preference checks are inconclusive."""
    max_preference_pairs: int = Field(200, ge=1)
    """Newest held-out pairs used."""
    reward_margin: Share = 0.1
    """The share of prompts on which the ensemble likes the new answer better than the active adapter's may lie this
    much below one half."""
    safety_margin: Share = 0.02
    """How much higher than the active adapter's the share of blocked answers may be."""
    max_length_ratio: float = Field(1.5, gt=1)
    """Mean answer length against base: at most this, at least its inverse."""
    max_kl: float = Field(1.0, gt=0)
    """Mean KL to base per token, in nats."""
    concurrency: int = Field(8, ge=1)
    """Requests to the engine at once."""


Metric = Literal["thumbs", "rewards", "safety", "errors", "latency"]
"""What a canary is judged by."""


class RolloutConfig(Section):
    """What becomes of an adapter that passed the gate."""

    automatic: bool = True
    """Start a canary by itself; off: wait for an operator."""
    canary_share: Share = 0.2
    """Share of users that a canary gets."""
    inconclusive_share: Share = 0.05
    """Share where the gate was inconclusive."""
    canary_requests: int = Field(2000, ge=1)
    """Canary requests after which the canary has expired with nothing shown. In so many, ten times the blocked and five
    times the failed answers show (`docs/canary.md`)."""
    on_expired: Literal["promote", "keep"] = "promote"
    """What an expired canary without harm becomes."""
    harm_alpha: float = Field(0.01, gt=0, lt=1)
    """Chance that an adapter that is as good as the active one is rolled back, over all metrics and however long."""
    promote_alpha: float = Field(0.01, gt=0, lt=1)
    """Chance that an adapter that is worse by a margin is called promising, however long it runs."""
    promote_on: tuple[Metric, ...] = ("thumbs", "safety", "errors")
    """A canary is promising once it is shown to be within the margin on all of these. None: never, it only expires."""
    thumbs_margin: float = Field(0.1, gt=0, lt=1)
    """How much lower the share of thumbs up may be."""
    rewards_margin: float = Field(0.05, gt=0, lt=0.5)
    """How far from one half the chance may fall that a canary answer's reward beats an active one's. .05 is a shift of
    about .18 standard deviations."""
    safety_margin: float = Field(0.02, gt=0, lt=1)
    """How much higher the share of blocked answers may be."""
    errors_margin: float = Field(0.02, gt=0, lt=1)
    """How much higher the share of failed answers may be."""
    latency_ratio: float = Field(1.25, ge=1)
    """How many times as long a canary answer may take before it counts as slower."""
    latency_margin: float = Field(0.05, gt=0, lt=0.5)
    """How far above one half the chance may lie that a canary answer is slower than an active one."""
    min_canary_s: float = Field(60.0, ge=0)
    """The server promotes no canary that ran for less."""
    cooldown_s: float = Field(600.0, ge=0)
    """After a canary that was ended for harm the server starts none of the alias for so long."""
    max_moves_per_hour: int = Field(12, ge=1)
    """Moves of the alias's routing that the server makes by itself in an hour; the end of a harmful canary counts, and
    is never put off."""
    poll_s: Seconds = 1.0
    """Pause between two looks at what came in while a canary runs."""


class LearnerConfig(Section):
    """What the alias's learner is told to do (`GET /v1/training/config`)."""

    objectives: dict[str, float] = {"sigmoid": 1.0, "sft": 0.3, "kto": 0.5}
    """Losses and their weights (docs/objectives.md). Each applies to examples of its kind: pairs, thumbs or rewards."""
    options: dict[str, dict[str, float | int | str | bool | list[int] | dict[str, float]]] = {}
    """By objective, what shall differ from its own defaults, e.g. `{simpo = {gamma = 0.5}}`."""
    beta: float = Field(0.1, gt=0)
    """Inverse temperature of the implicit reward, for the objectives on it that name no other."""
    weighting: dict[Literal["pairs", "unpaired"], str] = {"unpaired": "lcpo"}
    """How far labels are believed, by kind of example: `none`, `lcpo`, `uncertainty` or `mc_dropout`."""
    curriculum: Literal["none", "easy_then_hard", "perturbation"] = "none"
    """`easy_then_hard`: groups on which the reward, or the model's likelihood, agrees with people most come first;
    `perturbation`: images that an objective shows changed are changed less and less."""
    dropout_passes: int = Field(4, ge=2, le=64)
    """Forward passes with dropout by which `mc_dropout` judges how sure the policy is."""
    dropout: float = Field(0.1, gt=0, lt=1)
    """Share of the values that the adapter loses in each of them."""
    token_mask: Literal["none", "sentence"] = "none"  # noqa: S105 - of text
    """What of their answers pairs teach: all, or only the sentences that the other answer does not say."""
    separators: list[str] = [".", "!", "?", ";", "\n"]
    """What ends a sentence, for `token_mask` and `self_inject`. With "," and " and" also the names in a list are told
    apart."""
    self_inject: float = Field(0.0, ge=0, le=1)
    """Share of the groups of which one of the model's own answers is preferred to the same with a hallucination put in;
    pairs without any human signal. They weigh what `source_weights` says of `self_inject`."""
    reference: Literal["base", "previous", "ema"] = "base"
    """What preference objectives measure against: the base, the adapter that the round starts from, or a moving average
    of the policy."""
    ema_decay: float = Field(0.99, gt=0, lt=1)
    """Of the reference `ema`, a step."""
    source_weights: dict[str, float] = {}
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


class AliasConfig(Section):
    """The unit of alignment: what apps call as `model`."""

    name: str = Field("default", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """The model name that apps send."""
    best_of: Annotated[int, Field(ge=1)] | Literal["auto"] = 4
    """Candidates when the request does not say; `auto`: as many as are worth their cost."""
    auto: AutoConfig = AutoConfig()
    early_reject: EarlyRejectConfig = EarlyRejectConfig()
    stepwise: StepwiseConfig = StepwiseConfig()
    policy: Path | None = None
    """TOML file of safety rules that several aliases may share (`docs/safety.md`); they come before `rules`."""
    rules: tuple[RuleConfig, ...] = ()
    """Safety rules, all applied."""
    second_wave: SecondWaveConfig = SecondWaveConfig()
    scorers: tuple[ScorerConfig, ...] = (ScorerConfig(kind="implicit"),)
    """Scorers of the ensemble."""
    ensemble: EnsembleConfig = EnsembleConfig()
    refusal: str = "I can't answer that."
    """Text of the answer when every candidate is blocked."""
    train_tenants: tuple[str, ...] = ("default",)
    """Tenants whose groups may train this alias."""
    explore: Share | Literal["pilaf"] = 0.0
    """Probability of a random feasible candidate instead of the best one; or `pilaf`: the best one, and whoever is
    asked to choose sees it beside an answer of another policy (`docs/alignment.md`)."""
    pilaf: PilafConfig = PilafConfig()
    selection: SelectionConfig = SelectionConfig()
    compare: CompareConfig = CompareConfig()
    signals: SignalsConfig = SignalsConfig()
    gate: GateConfig = GateConfig()
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerConfig = LearnerConfig()

    @property
    def random_share(self) -> float:
        """Probability ε of a random feasible candidate."""
        return 0.0 if self.explore == "pilaf" else self.explore

    @property
    def certainty_top_k(self) -> int:
        """Alternatives at each token that the scorers read."""
        return max((one.top_k for one in self.scorers if one.kind == "self_certainty"), default=0)

    @model_validator(mode="after")
    def _scorers_can_be_told_apart(self) -> Self:
        labels = [scorer.label for scorer in self.scorers]
        if len(set(labels)) != len(labels):
            raise ValueError("two scorers of an alias have the same name: set name")
        return self

    @model_validator(mode="after")
    def _steps_are_the_only_search(self) -> Self:
        if self.selection.strategy == STEPWISE and (self.best_of == "auto" or self.early_reject.enabled):
            raise ValueError("selection.strategy stepwise needs best_of as a number, and early_reject off")
        return self

    @model_validator(mode="after")
    def _weights_suit_the_combiner(self) -> Self:
        if self.ensemble.combiner == "lambda_harmonic" and any(one.weight <= 0 for one in self.scorers):
            raise ValueError("ensemble.combiner lambda_harmonic needs scorers of positive weight")
        return self


class TracingConfig(Section):
    """Traces of chat requests by OpenTelemetry (`pip install plumbline[tracing]`). They hold no texts."""

    endpoint: str = Field("", pattern=r"^$|^https?://[^\s?#@]+$")
    """Where spans are sent, OTLP over HTTP, as `http://127.0.0.1:4318/v1/traces`. Empty: off. Headers and certificates
    are OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_*`)."""
    share: Share = 1.0
    """Share of the requests that are traced."""
    service_name: str = Field("plumbline", min_length=1, max_length=128)
    """How traces name this service."""


class Config(BaseSettings):
    """The whole tree."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="PLUMBLINE_",
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
    )

    http: HttpConfig = HttpConfig()
    chat: ChatConfig = ChatConfig()
    image_fetch: ImageFetchConfig = ImageFetchConfig()
    engine: EngineConfig = EngineConfig()
    store: StoreConfig = StoreConfig()
    limits: LimitsConfig = LimitsConfig()
    shadow: ShadowConfig = ShadowConfig()
    tracing: TracingConfig = TracingConfig()
    rollouts: RolloutsConfig = RolloutsConfig()
    aliases: tuple[AliasConfig, ...] = (AliasConfig(),)
    """Aliases served by this installation; the first is the default."""
    secret: SecretStr | None = None
    """Key of feedback tokens and user hashes; without one, a random key is kept in the store's directory."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged, one JSON object a line on standard error."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [alias.name for alias in self.aliases]
        if not names or len(set(names)) != len(names):
            raise ValueError("aliases need at least one entry, and names that differ")
        return self

    @model_validator(mode="after")
    def _open_only_on_loopback(self) -> Self:
        if not self.http.require_keys and self.http.host not in {"127.0.0.1", "localhost", "::1"}:
            raise ValueError("http.host is not a loopback address: set http.require_keys = true")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_config(path: Path | None) -> Config:
    """Read the file (none: defaults) and the environment; raises `pydantic.ValidationError` or `OSError`."""
    if path is None:
        return Config()
    path.open("rb").close()  # a missing file is an error, not an empty configuration

    class FileConfig(Config):
        model_config = SettingsConfigDict(toml_file=path)

    return FileConfig()
