"""Settings of the scorers (`docs/scorers.md`): one `[[aliases.scorers]]` table each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from server.config.base import Seconds, Section

ENVIRONMENT_NAME = r"^([A-Za-z_][A-Za-z0-9_]*)?$"
HTTP_URL = r"^https?://[^\s/?#@]+(/[^\s?#@]*)?$"


class JudgeConfig(Section):
    """A model that judges answers, behind any OpenAI-style chat endpoint."""

    url: str = Field(pattern=HTTP_URL)
    """Base URL, with `/v1` where the endpoint has it: `https://host/v1`."""
    model: str = Field(min_length=1)
    """Name of the judging model. It should not be the model it judges."""
    key_env: str = Field("", pattern=ENVIRONMENT_NAME)
    """Environment variable that holds the endpoint's API key; empty: none is sent. It is never configured itself."""
    mode: Literal["pointwise", "pairwise"] = "pointwise"
    """A mark for each answer, or which of two is better, asked in both orders."""
    criteria: str = Field("helpfulness, truth to the images and to the conversation, and clarity", max_length=8000)
    """What the judge judges by, in words."""
    scale: int = Field(10, ge=2, le=100)
    """`pointwise`: the best mark; the worst is 1."""
    max_comparisons: int = Field(16, ge=1, le=1024)
    """`pairwise`: pairs compared for one prompt, each by two requests. More candidates than that reaches meet in
    Swiss rounds."""
    images: bool = True
    """Show the prompt's images to the judge."""
    structured: bool = True
    """Ask for the verdict by `response_format` with a strict JSON schema. Off: for endpoints without it, by words."""
    max_tokens: int = Field(64, ge=8)
    """Length limit of a verdict; more for a judge that thinks first."""
    max_concurrent: int = Field(8, ge=1)
    """Requests to the judge at once, over all prompts."""
    cache_size: int = Field(10_000, ge=0)
    """Verdicts kept."""


class PoolingConfig(Section):
    """A reward model behind vLLM's pooling routes."""

    url: str = Field(pattern=HTTP_URL)
    """The engine's URL, without a path: `http://127.0.0.1:8500`."""
    model: str = Field(min_length=1)
    """Name under which the engine serves the model."""
    route: Literal["classify", "pooling", "score"] = "classify"
    """`classify` and `pooling`: the conversation with the answer as its last turn. `score`: the user's last message
    and the answer as two texts (cross-encoders)."""
    output: int = Field(0, ge=0)
    """Which of the model's outputs is the score, for those that have several."""
    activation: bool = False
    """Let the engine put the output through the model's activation (sigmoid, softmax); off: the raw number."""
    key_env: str = Field("", pattern=ENVIRONMENT_NAME)
    """Environment variable that holds the engine's API key; empty: none is sent."""
    images: bool = True
    """Send the prompt's images."""
    max_concurrent: int = Field(32, ge=1)
    """Requests at once, over all prompts."""
    cache_size: int = Field(10_000, ge=0)
    """Scores kept."""


class ClipConfig(Section):
    """Likeness of image and text by a CLIP or SigLIP, in a process of its own."""

    model: str
    """Directory or Hugging Face name of the model."""
    python: str = ""
    """Interpreter of an environment with torch, transformers and pillow; empty: the server's own."""
    unit: Literal["answer", "sentence_mean", "sentence_min"] = "sentence_min"
    """The whole answer, the mean over its sentences, or the worst of them. CLIP reads 77 tokens at most."""
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where it runs."""
    threads: int = Field(1, ge=1)
    """CPU threads of the process."""
    max_batch: int = Field(32, ge=1)
    """Requests that share a batch at most."""
    max_waiting: int = Field(256, ge=1)
    """Requests that may wait; further ones fail at once."""
    start_timeout_s: Seconds = 120.0
    """How long loading the model may take."""


class ProgramConfig(Section):
    """A command of the operator's that scores answers. It gets JSON and answers with a JSON list of numbers."""

    command: tuple[str, ...] = Field(min_length=1)
    """The command and its arguments; no shell reads it. Runs with the server's rights, without its secrets."""
    images: bool = False
    """Send the images as data: URLs; off: their sha256 only."""
    max_memory_mb: int = Field(512, ge=16)
    """Address space of the process."""
    max_cpu_s: int = Field(10, ge=1)
    """Processor time of the process."""
    max_concurrent: int = Field(4, ge=1)
    """Processes at once."""


_SETTINGS = {
    "length": {"target_tokens"},
    "implicit": {"beta"},
    "self_certainty": {"top_k"},
    "format": {"form"},
    "json_schema": {"schema_file"},
    "language": {"language"},
    "refusal": {"phrases"},
    "judge": {"judge"},
    "pooling": {"pooling"},
    "clip": {"clip"},
    "program": {"program"},
}
"""The settings that each kind has of its own."""
_NEEDED = {"target_tokens", "form", "schema_file", "language", "judge", "pooling", "clip", "program"}


class ScorerConfig(Section):
    """One scorer and its weight in the ensemble."""

    kind: Literal[
        "logprob", "self_certainty", "implicit", "length", "repetition", "format", "json_schema", "language",
        "refusal", "judge", "pooling", "clip", "program",
    ]  # fmt: skip
    """Which scorer."""
    name: str = Field("", pattern=r"^([a-z0-9][a-z0-9_.-]{0,63})?$")
    """Shown in scores and metrics; without one, the kind. Names of an alias's scorers must differ."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """Weight in the ensemble."""
    timeout_s: Seconds = 10.0
    """A scorer that takes longer counts as failed for the request."""
    beta: float = Field(0.1, gt=0)
    """`implicit`: scale of log π_adapter − log π_base."""
    target_tokens: int = Field(0, ge=0)
    """`length`: answers longer than this lose in proportion."""
    top_k: int = Field(10, ge=2, le=19)
    """`self_certainty`: likeliest tokens that the engine is asked for at each place."""
    form: Literal["plain", "markdown", "json", "list", "one_sentence"] | None = None
    """`format`: the form that answers should have."""
    schema_file: Path | None = None
    """`json_schema`: file with the JSON schema, within the bounds of schemas in requests (`docs/api.md`)."""
    language: str = ""
    """`language`: ISO 639-1 code, or `prompt` for the script of the user's last message."""
    phrases: dict[str, float] | None = None
    """`refusal`: phrases in lower case and their weights, in place of the built-in list."""
    judge: JudgeConfig | None = None
    """`judge`: its settings, a table of their own."""
    pooling: PoolingConfig | None = None
    """`pooling`: the same."""
    clip: ClipConfig | None = None
    """`clip`: the same."""
    program: ProgramConfig | None = None
    """`program`: the same."""

    @property
    def label(self) -> str:
        return self.name or self.kind

    @model_validator(mode="after")
    def _has_its_own_settings(self) -> Self:
        own = _SETTINGS.get(self.kind, set())
        others = sorted(set().union(*_SETTINGS.values()) - own)
        alien = [name for name in others if getattr(self, name) != type(self).model_fields[name].default]
        if alien:
            raise ValueError(f"a scorer of the kind {self.kind} has no setting {alien[0]}")
        for name in sorted(own & _NEEDED):
            if not getattr(self, name):
                raise ValueError(f"scorer {self.kind}: set {name}")
        return self
